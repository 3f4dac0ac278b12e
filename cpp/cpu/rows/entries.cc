#include "cpu/rows/entries.h"

#include "cpu/huge_pages.h"
#include "cpu/isa.h"
#include "cpu/rows/row_blocks.h"

namespace jax_rnnt::cpu {

template <typename T, typename Real>
void EntriesForward(int64_t rows, const EntriesOptions& options, const T* logits,
                    const RowLabels& labels, const EntriesResults<Real>& results,
                    const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(EntriesForwardRows<T, Real>);
  ForRowBlocks<Real>(rows, options.width, labels, parallel_for,
                     [&](int64_t begin, int64_t count, const int32_t* block_labels, Real* buffer) {
                       kernel(begin, begin + count, options, logits, {nullptr, 1}, block_labels,
                              results, buffer);
                     });
}

template <typename Real>
void EntriesForwardBiased(int64_t rows, const EntriesOptions& options, const Real* logits,
                          const RowBiases<Real>& biases, const RowLabels& labels,
                          const EntriesResults<Real>& results, const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(EntriesForwardRows<Real, Real>);
  ForRowBlocks<Real>(rows, options.width, labels, parallel_for,
                     [&](int64_t begin, int64_t count, const int32_t* block_labels, Real* buffer) {
                       kernel(begin, begin + count, options, logits, biases, block_labels, results,
                              buffer);
                     });
}

template <typename T, typename Real>
void EntriesBackward(int64_t rows, const EntriesOptions& options, const T* logits,
                     const RowLabels& labels, const Real* maxima, const Real* log_sums,
                     const EntriesCotangents<Real>& cotangents, T* logits_cotangents,
                     const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(EntriesBackwardRows<T, T, Real>);
  if (logits_cotangents != logits) {
    PreferHugePages(logits_cotangents, rows * options.width * sizeof(T));
  }
  ForRowBlocks<Real>(rows, options.width, labels, parallel_for,
                     [&](int64_t begin, int64_t count, const int32_t* block_labels, Real* buffer) {
                       kernel(begin, begin + count, options, logits, {nullptr, 1}, block_labels,
                              nullptr, maxima, log_sums, cotangents, logits_cotangents, nullptr,
                              buffer);
                     });
}

template <typename T, typename Real>
void EntriesBackwardBiased(int64_t rows, const EntriesOptions& options, const Real* logits,
                           const RowBiases<Real>& biases, const RowLabels& labels,
                           const Real* bounds, const Real* maxima, const Real* log_sums,
                           const EntriesCotangents<Real>& cotangents, T* logits_cotangents,
                           Real* bias_parts, const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(EntriesBackwardRows<Real, T, Real>);
  for (int64_t first = 0; first < rows; first += biases.rows) {
    ForRowBlocks<Real>(
        first, first + biases.rows, kBiasPartRows, options.width, labels, parallel_for,
        [&](int64_t begin, int64_t count, const int32_t* block_labels, Real* buffer) {
          kernel(begin, begin + count, options, logits, biases, block_labels, bounds, maxima,
                 log_sums, cotangents, logits_cotangents, bias_parts, buffer);
        });
  }
}

#define JAX_RNNT_INSTANTIATE(T, Real)                                                         \
  template void EntriesForward(int64_t, const EntriesOptions&, const T*, const RowLabels&,    \
                               const EntriesResults<Real>&, const ParallelFor&);              \
  template void EntriesBackward(int64_t, const EntriesOptions&, const T*, const RowLabels&,   \
                                const Real*, const Real*, const EntriesCotangents<Real>&, T*, \
                                const ParallelFor&);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

#define JAX_RNNT_INSTANTIATE(Real)                                                \
  template void EntriesForwardBiased(int64_t, const EntriesOptions&, const Real*, \
                                     const RowBiases<Real>&, const RowLabels&,    \
                                     const EntriesResults<Real>&, const ParallelFor&);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

#define JAX_RNNT_INSTANTIATE(T, Real)                                                           \
  template void EntriesBackwardBiased(int64_t, const EntriesOptions&, const Real*,              \
                                      const RowBiases<Real>&, const RowLabels&, const Real*,    \
                                      const Real*, const Real*, const EntriesCotangents<Real>&, \
                                      T*, Real*, const ParallelFor&);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu
