#include "cpu/pick.h"

#include <algorithm>
#include <vector>

#include "cpu/huge_pages.h"
#include "cpu/isa.h"

namespace jax_rnnt::cpu {
namespace {

// Logits to a task: some 10 us of work at least, against about 1 us to hand a task out. A large
// array is cut into 128 parts at least, of a few huge pages each where it can be: two threads that
// meet in a page that nobody has touched yet both clear it (256 KB to a task: 154 ms for 1 GB; 8
// MB: 115 ms).
int64_t LogitsPerTask(int64_t logits) {
  return std::clamp<int64_t>(logits / 128, int64_t{1} << 16, int64_t{1} << 21);
}

template <typename Real, typename Body>
void ForRowBlocks(int64_t rows, int64_t V, const ParallelFor& parallel_for, const Body& body) {
  const int64_t block = std::max<int64_t>(1, LogitsPerTask(rows * V) / V);
  parallel_for((rows + block - 1) / block, [&](int64_t index) {
    std::vector<Real> buffer(V);
    body(index * block, std::min(rows, (index + 1) * block), buffer.data());
  });
}

}  // namespace

template <typename T, typename Real>
void PickForward(int64_t rows, int64_t V, int64_t blank, const T* logits, const int32_t* labels,
                 Real* blank_log_probs, Real* label_log_probs, Real* maxima, Real* log_sums,
                 const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(PickForwardRows<T, Real>);
  ForRowBlocks<Real>(rows, V, parallel_for, [&](int64_t begin, int64_t end, Real* buffer) {
    kernel(begin, end, V, blank, logits, labels, blank_log_probs, label_log_probs, maxima, log_sums,
           buffer);
  });
}

template <typename T, typename Real>
void PickBackward(int64_t rows, int64_t V, int64_t blank, const T* logits, const int32_t* labels,
                  const Real* maxima, const Real* log_sums, const Real* blank_cotangents,
                  const Real* label_cotangents, T* logits_cotangents,
                  const ParallelFor& parallel_for) {
  const auto kernel = JAX_RNNT_BEST_ISA(PickBackwardRows<T, Real>);
  if (logits_cotangents != logits) PreferHugePages(logits_cotangents, rows * V * sizeof(T));
  ForRowBlocks<Real>(rows, V, parallel_for, [&](int64_t begin, int64_t end, Real* buffer) {
    kernel(begin, end, V, blank, logits, labels, maxima, log_sums, blank_cotangents,
           label_cotangents, logits_cotangents, buffer);
  });
}

#define JAX_RNNT_INSTANTIATE(T, Real)                                                          \
  template void PickForward(int64_t, int64_t, int64_t, const T*, const int32_t*, Real*, Real*, \
                            Real*, Real*, const ParallelFor&);                                 \
  template void PickBackward(int64_t, int64_t, int64_t, const T*, const int32_t*, const Real*, \
                             const Real*, const Real*, const Real*, T*, const ParallelFor&);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu
