// The columns of a chunk of logits that a thread has, and its accumulators for them.
#ifndef JAX_RNNT_CUDA_JOINT_COLUMNS_CUH_
#define JAX_RNNT_CUDA_JOINT_COLUMNS_CUH_

#include <cstdint>

#include "cuda/joint/wgmma.cuh"

namespace jax_rnnt::cuda {

// The column of a chunk that a line of the packed kernel holds. Of the products, lane q of each
// quad has lines 8 j + 2 q + e (kWgmmaAccumulators).
__host__ __device__ __forceinline__ constexpr int ColumnOfLine(int line) {
  return line / 32 * 32 + line % 8 / 2 * 8 + line / 8 % 4 * 2 + line % 2;
}

// In this order accumulator i is of this column of the chunk, and kLaneColumns more for each lane
// before this one in its quad. It is of the thread's row i / 2 % 2.
constexpr int kLaneColumns = 8;
__host__ __device__ __forceinline__ constexpr int AccumulatorColumn(int i) {
  return i / 16 * 32 + i % 16 / 4 * 2 + i % 2;
}

// This lane's first column of a chunk.
__device__ __forceinline__ int32_t FirstLaneColumn() { return threadIdx.x % 4 * kLaneColumns; }

// The place of column v among this lane's accumulators, in a chunk that starts at first_v: if
// is_here, accumulator 4 group + 2 row + is_odd. kPaddingRow and kNoLabel are nowhere.
struct AccumulatorPlace {
  bool is_here;
  bool is_odd;
  uint32_t group;
};
__device__ __forceinline__ AccumulatorPlace PlaceOf(int32_t v, int32_t first_v) {
  const uint32_t offset = static_cast<uint32_t>(v - first_v) - FirstLaneColumn();
  return {offset < kWgmmaColumns && (offset & 24) == 0, (offset & 1) != 0,
          offset / 32 * 4 + (offset & 7) / 2};
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_COLUMNS_CUH_
