// How rows are cut into tasks, each with the labels of its rows.
#ifndef JAX_RNNT_CPU_ROWS_ROW_BLOCKS_H_
#define JAX_RNNT_CPU_ROWS_ROW_BLOCKS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/row_label.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// The number of logits in a task: some 10 us of work at least, against about 1 us to hand a task
// out. A large array is cut into 128 tasks at least, of a few huge pages each where it can be: two
// threads that meet in a page that nobody has touched yet both clear it (256 KB to a task: 154 ms
// for 1 GB; 8 MB: 115 ms).
inline int64_t LogitsPerTask(int64_t logits) {
  return std::clamp<int64_t>(logits / 128, int64_t{1} << 16, int64_t{1} << 21);
}

// One label for each of rows [begin, end): labels by row where they lie, labels by column copied to
// `storage`.
inline const int32_t* LabelsOfRows(const RowLabels& labels, int64_t begin, int64_t end,
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

// Calls body(begin, count, labels, buffer) for blocks of `count` of the rows [first, last), from
// `begin` on. All blocks but the last have a multiple of `multiple` rows.
template <typename Real, typename Body>
void ForRowBlocks(int64_t first, int64_t last, int64_t multiple, int64_t V, const RowLabels& labels,
                  const ParallelFor& parallel_for, const Body& body) {
  const int64_t rows = last - first;
  const int64_t multiples = std::max<int64_t>(1, LogitsPerTask(rows * V) / V / multiple);
  const int64_t block = multiples * multiple;
  parallel_for((rows + block - 1) / block, [&](int64_t index) {
    const int64_t begin = first + index * block;
    const int64_t end = std::min(last, begin + block);
    std::vector<Real> buffer(V);
    std::vector<int32_t> storage;
    body(begin, end - begin, LabelsOfRows(labels, begin, end, &storage), buffer.data());
  });
}

// The same for the rows [0, rows).
template <typename Real, typename Body>
void ForRowBlocks(int64_t rows, int64_t V, const RowLabels& labels, const ParallelFor& parallel_for,
                  const Body& body) {
  ForRowBlocks<Real>(0, rows, 1, V, labels, parallel_for, body);
}

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_ROWS_ROW_BLOCKS_H_
