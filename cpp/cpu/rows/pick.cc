#include "cpu/rows/pick.h"

#include "cpu/huge_pages.h"
#include "cpu/isa.h"
#include "cpu/rows/row_blocks.h"

namespace jax_rnnt::cpu {

template <typename T, typename Real>
void PickForward(int64_t rows, int64_t V, int64_t blank, const T* logits, const RowLabels& labels,
                 Real* blank_log_probs, Real* label_log_probs, Real* maxima, Real* log_sums,
                 const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(PickForwardRows<T, Real>);
  ForRowBlocks<Real>(rows, V, labels, parallel_for,
                     [&](int64_t begin, int64_t count, const int32_t* block_labels, Real* buffer) {
                       kernel(0, count, V, blank, logits + begin * V, block_labels,
                              blank_log_probs + begin, label_log_probs + begin, maxima + begin,
                              log_sums + begin, buffer);
                     });
}

template <typename T, typename Real>
void PickBackward(int64_t rows, int64_t V, int64_t blank, const T* logits, const RowLabels& labels,
                  const Real* maxima, const Real* log_sums, const Real* blank_cotangents,
                  const Real* label_cotangents, T* logits_cotangents,
                  const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(PickBackwardRows<T, Real>);
  if (logits_cotangents != logits) PreferHugePages(logits_cotangents, rows * V * sizeof(T));
  ForRowBlocks<Real>(rows, V, labels, parallel_for,
                     [&](int64_t begin, int64_t count, const int32_t* block_labels, Real* buffer) {
                       kernel(0, count, V, blank, logits + begin * V, block_labels, maxima + begin,
                              log_sums + begin, blank_cotangents + begin, label_cotangents + begin,
                              logits_cotangents + begin * V, buffer);
                     });
}

#define JAX_RNNT_INSTANTIATE(T, Real)                                                            \
  template void PickForward(int64_t, int64_t, int64_t, const T*, const RowLabels&, Real*, Real*, \
                            Real*, Real*, const ParallelFor&);                                   \
  template void PickBackward(int64_t, int64_t, int64_t, const T*, const RowLabels&, const Real*, \
                             const Real*, const Real*, const Real*, T*, const ParallelFor&);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu
