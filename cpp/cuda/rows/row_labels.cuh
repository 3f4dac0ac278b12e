// The labels of a block's rows, in either form of core/row_label.h. A block works on a run of rows:
// the line and group of the run's first row are found once, and each row of the run is two 32-bit
// divisions away.
#ifndef JAX_RNNT_CUDA_ROWS_ROW_LABELS_CUH_
#define JAX_RNNT_CUDA_ROWS_ROW_LABELS_CUH_

#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/divide.cuh"

namespace jax_rnnt::cuda {

// RowLabels in the form that kernels take.
struct DeviceRowLabels {
  explicit DeviceRowLabels(const RowLabels& row_labels)
      : labels(row_labels.labels),
        counts(row_labels.counts),
        columns(static_cast<uint32_t>(row_labels.columns)),
        lines(static_cast<uint32_t>(row_labels.lines)) {}

  const int32_t* labels;  // (rows) or (groups, columns)
  const int32_t* counts;  // null or (groups)
  Divider columns;
  Divider lines;
};

__device__ __forceinline__ bool IsPaddingRow(int32_t label, int32_t V) {
  static_assert(kNoLabel == -1, "the comparison takes [-1, V) as one range");
  return static_cast<uint32_t>(label) + 1u > static_cast<uint32_t>(V);
}

class RowLabelRun {
 public:
  __device__ __forceinline__ RowLabelRun(const DeviceRowLabels& labels, int64_t first_row)
      : labels_(labels), first_(first_row) {
    if (labels.counts == nullptr) return;
    if (first_row <= UINT32_MAX) {
      const uint32_t line = labels.columns.Divide(static_cast<uint32_t>(first_row), &column_);
      first_ = labels.lines.Divide(line, &line_);
    } else {
      const uint64_t line = labels.columns.Divide64(static_cast<uint64_t>(first_row), &column_);
      first_ = static_cast<int64_t>(labels.lines.Divide64(line, &line_));
    }
  }

  // The label of row first_row + index; index below 2^31.
  __device__ __forceinline__ int32_t Label(uint32_t index) const {
    if (labels_.counts == nullptr) return __ldg(labels_.labels + first_ + index);
    uint32_t column, line;
    const uint32_t lines_after = labels_.columns.Divide(column_ + index, &column);
    const int64_t group = first_ + labels_.lines.Divide(line_ + lines_after, &line);
    const int32_t label = __ldg(labels_.labels + group * labels_.columns.divisor() + column);
    const int32_t count = __ldg(labels_.counts + group);
    return static_cast<int32_t>(line) < count ? label : kPaddingRow;
  }

 private:
  const DeviceRowLabels& labels_;
  int64_t first_;  // the first row's group, or the row itself where each has its own label
  uint32_t column_ = 0;
  uint32_t line_ = 0;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ROW_LABELS_CUH_
