#include "cpu/rows/pick.h"

#include <algorithm>
#include <vector>

#include "cpu/huge_pages.h"
#include "cpu/isa.h"

namespace jax_rnnt::cpu {
namespace {

// The number of logits in a task: some 10 us of work at least, against about 1 us to hand a task
// out. A large array is cut into 128 tasks at least, of a few huge pages each where it can be: two
// threads that meet in a page that nobody has touched yet both clear it (256 KB to a task: 154 ms
// for 1 GB; 8 MB: 115 ms).
int64_t LogitsPerTask(int64_t logits) {
  return std::clamp<int64_t>(logits / 128, int64_t{1} << 16, int64_t{1} << 21);
}

// One label for each of rows [begin, end): labels by row where they lie, labels by column copied to
// `storage`.
const int32_t* LabelsOfRows(const RowLabels& labels, int64_t begin, int64_t end,
                            std::vector<int32_t>* storage) {
  if (labels.counts == nullptr) return labels.labels + begin;
  storage->resize(end - begin);
  int32_t* target = storage->data();
  while (begin < end) {
    const int64_t line = begin / labels.columns;
    const int64_t column = begin % labels.columns;
    const int64_t group = line / labels.lines;
    const int64_t count = std::min(end - begin, labels.columns - column);
    if (line % labels.lines < labels.counts[group]) {
      std::copy_n(labels.labels + group * labels.columns + column, count, target);
    } else {
      std::fill_n(target, count, kPaddingRow);
    }
    target += count;
    begin += count;
  }
  return storage->data();
}

// Calls body(begin, count, labels, buffer) for blocks of `count` rows from `begin` on.
template <typename Real, typename Body>
void ForRowBlocks(int64_t rows, int64_t V, const RowLabels& labels, const ParallelFor& parallel_for,
                  const Body& body) {
  const int64_t block = std::max<int64_t>(1, LogitsPerTask(rows * V) / V);
  parallel_for((rows + block - 1) / block, [&](int64_t index) {
    const int64_t begin = index * block;
    const int64_t end = std::min(rows, begin + block);
    std::vector<Real> buffer(V);
    std::vector<int32_t> storage;
    body(begin, end - begin, LabelsOfRows(labels, begin, end, &storage), buffer.data());
  });
}

}  // namespace

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
