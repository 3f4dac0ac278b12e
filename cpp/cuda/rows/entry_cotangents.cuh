// How the backward of entries turns logits into their cotangents: the parameters of a block's rows
// and the cotangents of single logits in shared memory, and a granule of logits in registers
// (entries_backward.cu has the equations).
//
// A granule's logits are turned into their terms of the sum over the core as if no column had an
// entry. What entries add lies in shared memory, with a mark for each element of the block: a
// granule without a mark, as nearly all of a long row, is ready then.
#ifndef JAX_RNNT_CUDA_ROWS_ENTRY_COTANGENTS_CUH_
#define JAX_RNNT_CUDA_ROWS_ENTRY_COTANGENTS_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_cotangents.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {

template <typename Acc>
struct EntryCotangentArrays {
  DeviceRowLabels labels;
  const Acc* maxima;
  const Acc* log_sums;
  const Acc* sums;
  int32_t count;
  int32_t columns[kMaxEntries];  // the label's is another in each row
  const Acc* entries[kMaxEntries];
};

template <typename Acc>
EntryCotangentArrays<Acc> MakeEntryCotangentArrays(const EntriesOptions& options,
                                                   const RowLabels& labels, const Acc* maxima,
                                                   const Acc* log_sums,
                                                   const EntriesCotangents<Acc>& cotangents) {
  const int32_t count = kFirstPickEntry + options.pick_count;
  EntryCotangentArrays<Acc> arrays{
      DeviceRowLabels(labels), maxima, log_sums, cotangents.sums, count, {}, {}};
  arrays.columns[kBlankEntry] = options.blank;
  arrays.entries[kBlankEntry] = cotangents.blanks;
  arrays.entries[kLabelEntry] = cotangents.labels;
  std::copy_n(options.picks, options.pick_count, arrays.columns + kFirstPickEntry);
  std::copy_n(cotangents.picks, options.pick_count, arrays.entries + kFirstPickEntry);
  return arrays;
}

// The columns that are a row's core.
struct CoreColumns {
  __device__ __forceinline__ bool IsLeftOut(int32_t column, int32_t label) const {
    return (without_blank && column == blank) || (without_label && column == label);
  }

  int32_t tokens;
  int32_t blank;
  bool without_blank;
  bool without_label;
};

// Whether a row that is not padding has the term from its sum.
template <typename Acc>
__device__ __forceinline__ bool HasSumTerm(Acc sum_cotangent, Acc log_sum) {
  return sum_cotangent != 0 && fabs(log_sum) < -kMinusInfinity<Acc>;
}

// What the sum's term of a row needs; the scale is 0 where there is none, and logits are not
// needed.
struct SumTerm {
  float scaled_maximum;  // 0 where the maximum is large: it is subtracted before
  float scale;           // the factor of ScaledExp(x_v, scaled_maximum)
};

// Of a maximum that is not large.
__device__ __forceinline__ SumTerm MakeSumTerm(float maximum, float log_sum, float sum_cotangent) {
  const ScaledMaximum scaled = ScaleMaximum(maximum);
  return {scaled.scaled, sum_cotangent * expf(-fmaf(scaled.residual, kLn2, log_sum))};
}

// The marks of kElements elements, a byte for each.
template <int kElements>
struct EntryMarks {
  static constexpr int kWords = (kElements + 3) / 4;

  __device__ __forceinline__ bool HasAny() const { return (words[0] | words[kWords - 1]) != 0; }
  __device__ __forceinline__ uint32_t Of(int element) const {
    return words[element / 4] >> element % 4 * 8 & 0xffu;
  }

  uint32_t words[kWords];
};

constexpr uint8_t kIsEntry = 1;
constexpr uint8_t kIsLeftOut = 2;

// The rows of a block of kBlockElements elements.
template <int kBlockElements>
class EntryBlock {
 public:
  static size_t Bytes(int row_capacity) {
    return kBlockElements * (sizeof(float) + 1) + row_capacity * (sizeof(SumTerm) + sizeof(float));
  }

  __device__ __forceinline__ EntryBlock(const CoreColumns& core, unsigned char* shared,
                                        int row_capacity)
      : core_(core),
        added_(reinterpret_cast<float*>(shared)),
        marks_(shared + kBlockElements * sizeof(float)),
        terms_(reinterpret_cast<SumTerm*>(marks_ + kBlockElements)),
        large_maxima_(reinterpret_cast<float*>(terms_ + row_capacity)) {}

  __device__ __forceinline__ bool Load(const EntryCotangentArrays<float>& arrays, int64_t first_row,
                                       uint32_t first_column, uint32_t row_count,
                                       uint32_t width) const {
    for (int i = threadIdx.x; i < kBlockElements / kGranuleBytes; i += blockDim.x) {
      reinterpret_cast<uint4*>(marks_)[i] = make_uint4(0, 0, 0, 0);
    }
    // All marks are off before the first one is set.
    __syncthreads();
    const RowLabelRun row_labels(arrays.labels, first_row);
    bool has_large = false;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i <= row_count; i += blockDim.x) {
      SumTerm term = {0.f, 0.f};
      float large_maximum = 0.f;
      if (i < row_count) {
        const int64_t row = first_row + i;
        // All loads start at once, needed or not: one that waits for another lengthens the time
        // before the block's first logits. The label, which branches, comes last.
        float maximum = __ldg(arrays.maxima + row);
        const float log_sum = __ldg(arrays.log_sums + row);
        const float sum_cotangent = __ldg(arrays.sums + row);
        float cotangents[kLoadedEntries];
        LoadEntries(arrays, 0, row, cotangents);
        const int32_t label = row_labels.Label(i);
        if (!IsPaddingRow(label, core_.tokens)) {
          if (HasSumTerm(sum_cotangent, log_sum)) {
            if (IsLargeMaximum(maximum)) {
              has_large = true;
              large_maximum = maximum;
              maximum = 0.f;
            }
            term = MakeSumTerm(maximum, log_sum, sum_cotangent);
          }
          const uint32_t row_start = i * width - first_column;  // modulo 2^32, as elements are
          AddEntries(arrays, 0, label, row_start, cotangents);
          for (int first = kLoadedEntries; first < arrays.count; first += kLoadedEntries) {
            LoadEntries(arrays, first, row, cotangents);
            AddEntries(arrays, first, label, row_start, cotangents);
          }
        }
      }
      terms_[i] = term;
      large_maxima_[i] = large_maximum;
    }
    return has_large;
  }

  // The element is at `column` of `row`.
  template <int kElements, bool kShortRows>
  __device__ __forceinline__ bool NeedsLogits(uint32_t row_count, uint32_t row, uint32_t column,
                                              uint32_t width) const {
    bool is_needed = column < Tokens() && HasTerm(row);
    if constexpr (kShortRows) {
      for (uint32_t next = row + 1; next < row_count && (next - row) * width < column + kElements;
           ++next) {
        is_needed |= HasTerm(next);
      }
    } else if (column + kElements > width) {
      is_needed |= HasTerm(row + 1);
    }
    return is_needed;
  }

  template <bool kBranches, int kElements>
  __device__ __forceinline__ void ToCotangents(bool has_large, uint32_t row, uint32_t column,
                                               uint32_t width, float (&values)[kElements]) const {
    // The row after the block's last has no term.
    const uint32_t end = width - column;
    if (has_large) SubtractLargeMaxima(large_maxima_[row], large_maxima_[row + 1], end, values);
    const SumTerm term = terms_[row];
    if (kBranches && column + kElements <= Tokens()) {
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        values[j] = term.scale * ScaledExp(values[j], term.scaled_maximum);
      }
      return;
    }
    const SumTerm next = terms_[row + 1];
    const uint32_t core_end = column < Tokens() ? Tokens() - column : 0;
#pragma unroll
    for (uint32_t j = 0; j < kElements; ++j) {
      const bool is_first = j < end;
      const bool is_token = !is_first || j < core_end;
      const float scale = is_first ? term.scale : next.scale;
      const float exponential =
          ScaledExp(values[j], is_first ? term.scaled_maximum : next.scaled_maximum);
      values[j] = is_token && scale != 0.f ? scale * exponential : 0.f;
    }
  }

  template <int kElements>
  __device__ __forceinline__ void ToCotangentsInShortRows(uint32_t row_count, uint32_t row,
                                                          uint32_t column, uint32_t width,
                                                          float (&values)[kElements]) const {
    SumTerm term = terms_[row];
    float large_maximum = large_maxima_[row];
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const float exponential = ScaledExp(values[j] - large_maximum, term.scaled_maximum);
      values[j] = column < Tokens() && term.scale != 0.f ? term.scale * exponential : 0.f;
      if (++column == width) {
        column = 0;
        row = min(row + 1, row_count);
        term = terms_[row];
        large_maximum = large_maxima_[row];
      }
    }
  }

  // `element` is a multiple of kElements.
  template <int kElements>
  __device__ __forceinline__ EntryMarks<kElements> MarksOf(uint32_t element) const {
    if constexpr (kElements == 1) {
      return {{marks_[element]}};
    } else if constexpr (kElements == 4) {
      return {{*reinterpret_cast<const uint32_t*>(marks_ + element)}};
    } else {
      const uint2 words = *reinterpret_cast<const uint2*>(marks_ + element);
      return {{words.x, words.y}};
    }
  }

  template <int kElements>
  __device__ __forceinline__ void AddMarked(const EntryMarks<kElements>& marks, uint32_t element,
                                            float (&values)[kElements]) const {
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const uint32_t mark = marks.Of(j);
      if (mark != 0) {
        values[j] = ((mark & kIsLeftOut) != 0 ? 0.f : values[j]) + added_[element + j];
      }
    }
  }

 private:
  // The cotangents of a row's entries lie in as many arrays: their loads take as long as one if
  // they start together.
  static constexpr int kLoadedEntries = 8;

  __device__ __forceinline__ uint32_t Tokens() const { return core_.tokens; }
  __device__ __forceinline__ bool HasTerm(uint32_t row) const { return terms_[row].scale != 0.f; }

  static __device__ __forceinline__ void LoadEntries(const EntryCotangentArrays<float>& arrays,
                                                     int first, int64_t row,
                                                     float (&cotangents)[kLoadedEntries]) {
#pragma unroll
    for (int i = 0; i < kLoadedEntries; ++i) {
      cotangents[i] = first + i < arrays.count ? __ldg(arrays.entries[first + i] + row) : 0.f;
    }
  }

  // The thread that calls this is the only one to add to the row, whose entries may coincide.
  __device__ __forceinline__ void AddEntries(const EntryCotangentArrays<float>& arrays, int first,
                                             int32_t label, uint32_t row_start,
                                             const float (&cotangents)[kLoadedEntries]) const {
#pragma unroll
    for (int i = 0; i < kLoadedEntries; ++i) {
      if (first + i >= arrays.count) break;
      const int32_t column = first + i == kLabelEntry ? label : arrays.columns[first + i];
      const uint32_t element = row_start + static_cast<uint32_t>(column);
      if (column != kNoLabel && element < kBlockElements) {
        added_[element] = cotangents[i] + (marks_[element] != 0 ? added_[element] : 0.f);
        marks_[element] = core_.IsLeftOut(column, label) ? kIsEntry | kIsLeftOut : kIsEntry;
      }
    }
  }

  CoreColumns core_;
  float* added_;          // to each element that has a mark
  unsigned char* marks_;  // of each element
  SumTerm* terms_;        // of each row
  float* large_maxima_;   // of each row; 0 where the maximum is not large
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ENTRY_COTANGENTS_CUH_
