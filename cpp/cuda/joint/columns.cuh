// The columns of a chunk of logits that a thread has, and its accumulators for them.
#ifndef JAX_RNNT_CUDA_JOINT_COLUMNS_CUH_
#define JAX_RNNT_CUDA_JOINT_COLUMNS_CUH_

#include <algorithm>
#include <cstdint>

#include "core/entries.h"

namespace jax_rnnt::cuda {

// The column of a chunk that a line of the packed kernel holds. Of the products, lane q of each
// quad has lines 8 j + 2 q + e, with either instruction.
__host__ __device__ __forceinline__ constexpr int ColumnOfLine(int line) {
  return line / 32 * 32 + line % 8 / 2 * 8 + line / 8 % 4 * 2 + line % 2;
}

// In this order accumulator i is of this column of the chunk, and kLaneColumns more for each lane
// before this one in its quad. It is of the thread's row i / 2 % 2.
constexpr int kLaneColumns = 8;
__host__ __device__ __forceinline__ constexpr int AccumulatorColumn(int i) {
  return i / 16 * 32 + i % 16 / 4 * 2 + i % 2;
}

// The columns of which a thread has kAccumulators: four lanes have two rows of them.
template <int kAccumulators>
inline constexpr int kChunkColumns = kAccumulators * 4 / 2;

// This lane's first column of a chunk.
__device__ __forceinline__ int32_t FirstLaneColumn() { return threadIdx.x % 4 * kLaneColumns; }

// The place of column v among this lane's accumulators, in a chunk of kColumns that starts at
// first_v: if is_here, accumulator 4 group + 2 row + is_odd. kPaddingRow and kNoLabel are nowhere.
struct AccumulatorPlace {
  bool is_here;
  bool is_odd;
  uint32_t group;
};
template <int kColumns>
__device__ __forceinline__ AccumulatorPlace PlaceOf(int32_t v, int32_t first_v) {
  const uint32_t offset = static_cast<uint32_t>(v - first_v) - FirstLaneColumn();
  return {offset < kColumns && (offset & 24) == 0, (offset & 1) != 0,
          offset / 32 * 4 + (offset & 7) / 2};
}

// The lane of a quad that has column v in its chunk.
__device__ __forceinline__ int LaneOfColumn(int32_t v) { return v / kLaneColumns & 3; }

// Whether a chunk has column v: the same for all lanes if v is.
template <int kColumns>
__device__ __forceinline__ bool HasColumn(int32_t v, int32_t first_v) {
  return static_cast<uint32_t>(v - first_v) < kColumns;
}

// The logits of column v in the thread's two rows; `picked` stays where the thread has none.
template <int kAccumulators>
__device__ __forceinline__ void TakeAt(int32_t v, int32_t first_v,
                                       const float (&logits)[kAccumulators], float (&picked)[2]) {
  const AccumulatorPlace place = PlaceOf<kChunkColumns<kAccumulators>>(v, first_v);
  if (!place.is_here) return;
#pragma unroll
  for (int j = 0; j < kAccumulators / 4; ++j) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float logit = place.is_odd ? logits[4 * j + 2 * row + 1] : logits[4 * j + 2 * row];
      picked[row] = place.group == j ? logit : picked[row];
    }
  }
}

// Calls update(row, &number) for the numbers of column v in the thread's two rows, if it has them.
template <int kAccumulators, typename Update>
__device__ __forceinline__ void UpdateAt(int32_t v, int32_t first_v,
                                         float (&numbers)[kAccumulators], const Update& update) {
  const AccumulatorPlace place = PlaceOf<kChunkColumns<kAccumulators>>(v, first_v);
  if (!place.is_here) return;
#pragma unroll
  for (int j = 0; j < kAccumulators / 4; ++j) {
    const bool is_even = place.group == j && !place.is_odd;
    const bool is_odd = place.group == j && place.is_odd;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      if (is_even) update(row, &numbers[4 * j + 2 * row]);
      if (is_odd) update(row, &numbers[4 * j + 2 * row + 1]);
    }
  }
}

// The options of a row as epilogues take them. A chunk below plain_columns has neither picks nor
// columns that are left out: nearly all chunks of nearly all batches, whose way past the rest is
// one branch.
struct ChunkOptions {
  EntriesOptions entries;
  int32_t plain_columns;
};

inline ChunkOptions MakeChunkOptions(const EntriesOptions& entries) {
  int32_t plain_columns = entries.without_label ? 0 : entries.tokens;
  if (entries.without_blank) plain_columns = std::min(plain_columns, entries.blank);
  for (int32_t i = 0; i < entries.pick_count; ++i) {
    plain_columns = std::min(plain_columns, entries.picks[i]);
  }
  return {entries, plain_columns};
}

template <int kAccumulators>
__device__ __forceinline__ bool IsPlainChunk(const ChunkOptions& options, int32_t first_v) {
  return first_v + kChunkColumns<kAccumulators> <= options.plain_columns;
}

// Puts one number where a column is not in the core of the rows with this label: beyond the tokens,
// the blank or the label where they are left out.
template <int kAccumulators>
__device__ __forceinline__ void ReplaceLeftOut(const EntriesOptions& options, int32_t label,
                                               int32_t first_v, float number,
                                               float (&numbers)[kAccumulators]) {
  if (options.tokens - first_v < kChunkColumns<kAccumulators>) {
    const int32_t left = options.tokens - first_v - FirstLaneColumn();
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) {
      if (AccumulatorColumn(i) >= left) numbers[i] = number;
    }
  }
  const auto replace = [&](int, float* at) { *at = number; };
  if (options.without_blank && HasColumn<kChunkColumns<kAccumulators>>(options.blank, first_v)) {
    UpdateAt(options.blank, first_v, numbers, replace);
  }
  if (options.without_label) UpdateAt(label, first_v, numbers, replace);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_COLUMNS_CUH_
