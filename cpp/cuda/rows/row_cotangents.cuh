// How the backward of log_softmax_pick turns logits into their cotangents: the parameters of a
// block's rows in shared memory, and a granule of logits in registers (pick_backward.cu has the
// equations). Rows whose gradient is zero are found here: LoadRows leaves the cotangents of padding
// rows, and of rows whose log_sum is not finite, at 0.
#ifndef JAX_RNNT_CUDA_ROWS_ROW_COTANGENTS_CUH_
#define JAX_RNNT_CUDA_ROWS_ROW_COTANGENTS_CUH_

#include <cstdint>

#include "core/row_label.h"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {

template <typename Acc>
struct RowArrays {
  DeviceRowLabels labels;
  const Acc* maxima;
  const Acc* log_sums;
  const Acc* blank_cotangents;
  const Acc* label_cotangents;
};

template <typename Acc>
__device__ __forceinline__ bool IsUsableRow(int32_t label, int32_t V, Acc log_sum) {
  return !IsPaddingRow(label, V) && log_sum < -kMinusInfinity<Acc>;
}

// The parameters of a row in shared memory, beside the row's label and, where it is large, its
// maximum. An inactive row has cotangents of 0.
struct alignas(16) RowParameters {
  float scaled_maximum;  // 0 where the maximum is large: it is subtracted before
  float scale;           // the factor of ScaledExp(x_v, scaled_maximum): -(c_blank + c_label)
                         // exp(-log_sum), times what the rounding of scaled_maximum took away
  float blank_cotangent;
  float label_cotangent;
};

__device__ __forceinline__ bool IsActive(const RowParameters& row) {
  return row.blank_cotangent != 0.f || row.label_cotangent != 0.f;
}

struct BlockRows {
  RowParameters* parameters;
  int32_t* labels;
  float* large_maxima;  // 0 where the maximum is not large
};

// Bytes of shared memory for one row of BlockRows.
constexpr size_t kBlockRowBytes = sizeof(RowParameters) + sizeof(int32_t) + sizeof(float);

// Fills the parameters of the block's rows, and of one inactive row after them, which a granule
// that ends with the tensor takes for its second row. Returns whether this thread met a large
// maximum in an active row.
__device__ __forceinline__ bool LoadRows(const RowArrays<float>& arrays, int64_t first_row,
                                         uint32_t count, int32_t V, const BlockRows& rows) {
  const RowLabelRun row_labels(arrays.labels, first_row);
  bool has_large = false;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i <= count; i += blockDim.x) {
    RowParameters parameters = {0.f, 0.f, 0.f, 0.f};
    int32_t label = kNoLabel;
    float large_maximum = 0.f;
    if (i < count) {
      const int64_t row = first_row + i;
      // All loads start at once, needed or not: one that waits for another lengthens the time
      // before the block's first logits. The label, which branches, comes last.
      float maximum = __ldg(arrays.maxima + row);
      const float log_sum = __ldg(arrays.log_sums + row);
      const float blank_cotangent = __ldg(arrays.blank_cotangents + row);
      const float label_cotangent = __ldg(arrays.label_cotangents + row);
      label = row_labels.Label(i);
      if (IsUsableRow(label, V, log_sum)) {
        parameters.blank_cotangent = blank_cotangent;
        if (label != kNoLabel) parameters.label_cotangent = label_cotangent;
      }
      if (IsActive(parameters) && IsLargeMaximum(maximum)) {
        has_large = true;
        large_maximum = maximum;
        maximum = 0.f;
      }
      const ScaledMaximum scaled = ScaleMaximum(maximum);
      parameters.scaled_maximum = scaled.scaled;
      parameters.scale = -(parameters.blank_cotangent + parameters.label_cotangent) *
                         expf(-fmaf(scaled.residual, kLn2, log_sum));
    }
    rows.parameters[i] = parameters;
    rows.labels[i] = label;
    rows.large_maxima[i] = large_maximum;
  }
  return has_large;
}

// Whether any row that the kElements elements from `column` of `row` on touch is active.
template <int kElements, bool kShortRows>
__device__ __forceinline__ bool IsAnyActive(const BlockRows& rows, uint32_t count, uint32_t row,
                                            uint32_t column, uint32_t V) {
  bool is_active = IsActive(rows.parameters[row]);
  if constexpr (kShortRows) {
    for (uint32_t next = row + 1; next < count && (next - row) * V < column + kElements; ++next) {
      is_active |= IsActive(rows.parameters[next]);
    }
  } else if (column + kElements > V) {
    is_active |= IsActive(rows.parameters[row + 1]);
  }
  return is_active;
}

// The functions below turn a granule's logits, `values`, into their cotangents. The first element
// is column `column` of row `row`.

template <int kElements>
__device__ __forceinline__ void ToCotangentsInOneRow(const RowParameters& row, int32_t label,
                                                     uint32_t column, uint32_t blank,
                                                     float (&values)[kElements]) {
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    values[j] = row.scale * ScaledExp(values[j], row.scaled_maximum);
  }
  const uint32_t blank_at = blank - column;
  const uint32_t label_at = static_cast<uint32_t>(label) - column;
  if (blank_at < kElements || label_at < kElements) {
#pragma unroll
    for (uint32_t j = 0; j < kElements; ++j) {
      if (j == blank_at) values[j] += row.blank_cotangent;
      if (j == label_at) values[j] += row.label_cotangent;
    }
  }
}

// The first V - column elements belong to `row`, the others to `next`, the row after it. Both are
// passed by value: of a reference to shared memory, a parameter is loaded again wherever a select
// wants it, 40 loads a granule.
template <int kElements, bool kBranches>
__device__ __forceinline__ void ToCotangentsInTwoRows(RowParameters row, RowParameters next,
                                                      int32_t label, int32_t next_label,
                                                      uint32_t column, uint32_t blank, uint32_t V,
                                                      float (&values)[kElements]) {
  const uint32_t end = V - column;
#pragma unroll
  for (uint32_t j = 0; j < kElements; ++j) {
    const bool is_first = j < end;
    values[j] = (is_first ? row.scale : next.scale) *
                ScaledExp(values[j], is_first ? row.scaled_maximum : next.scaled_maximum);
  }
  // Only one of the two blanks, V apart, can lie in the granule. A label of kNoLabel may seem to
  // lie in the other row, where its cotangent of 0 does no harm.
  const bool is_own_blank = blank - column < kElements;
  const uint32_t blank_at = is_own_blank ? blank - column : blank + end;
  const float blank_cotangent = is_own_blank ? row.blank_cotangent : next.blank_cotangent;
  const uint32_t label_at = static_cast<uint32_t>(label) - column;
  const uint32_t next_label_at = static_cast<uint32_t>(next_label) + end;
  if (!kBranches || blank_at < kElements || label_at < kElements || next_label_at < kElements) {
#pragma unroll
    for (uint32_t j = 0; j < kElements; ++j) {
      if (j == blank_at) values[j] += blank_cotangent;
      if (j == label_at) values[j] += row.label_cotangent;
      if (j == next_label_at) values[j] += next.label_cotangent;
    }
  }
  const bool is_row_active = IsActive(row);
  const bool is_next_active = IsActive(next);
  if (!is_row_active || (!is_next_active && end < kElements)) {
#pragma unroll
    for (uint32_t j = 0; j < kElements; ++j) {
      if (!(j < end ? is_row_active : is_next_active)) values[j] = 0.f;
    }
  }
}

template <int kElements>
__device__ __forceinline__ void ToCotangentsInShortRows(const BlockRows& rows, uint32_t count,
                                                        uint32_t row, uint32_t column,
                                                        uint32_t blank, uint32_t V,
                                                        float (&values)[kElements]) {
  RowParameters parameters = rows.parameters[row];
  uint32_t label = static_cast<uint32_t>(rows.labels[row]);
  float large_maximum = rows.large_maxima[row];
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    float cotangent =
        parameters.scale * ScaledExp(values[j] - large_maximum, parameters.scaled_maximum);
    if (column == blank) cotangent += parameters.blank_cotangent;
    if (column == label) cotangent += parameters.label_cotangent;
    values[j] = IsActive(parameters) ? cotangent : 0.f;
    if (++column == V) {
      column = 0;
      row = min(row + 1, count);
      parameters = rows.parameters[row];
      label = static_cast<uint32_t>(rows.labels[row]);
      large_maximum = rows.large_maxima[row];
    }
  }
}

// The first `end` elements belong to one row, the others to the row after it.
template <int kElements>
__device__ __forceinline__ void SubtractLargeMaxima(float large_maximum, float next_large_maximum,
                                                    uint32_t end, float (&values)[kElements]) {
#pragma unroll
  for (uint32_t j = 0; j < kElements; ++j) {
    values[j] -= j < end ? large_maximum : next_large_maximum;
  }
}

template <int kElements, bool kBranches>
__device__ __forceinline__ void ToCotangents(const BlockRows& rows, bool has_large, uint32_t row,
                                             uint32_t column, uint32_t blank, uint32_t V,
                                             float (&values)[kElements]) {
  // The row after the block's last is inactive.
  const uint32_t next = row + 1;
  if (has_large) {
    SubtractLargeMaxima(rows.large_maxima[row], rows.large_maxima[next], V - column, values);
  }
  if (kBranches && column + kElements <= V) {
    ToCotangentsInOneRow<kElements>(rows.parameters[row], rows.labels[row], column, blank, values);
  } else {
    ToCotangentsInTwoRows<kElements, kBranches>(rows.parameters[row], rows.parameters[next],
                                                rows.labels[row], rows.labels[next], column, blank,
                                                V, values);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ROW_COTANGENTS_CUH_
