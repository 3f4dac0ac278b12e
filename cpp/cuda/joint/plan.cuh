// How the kernels over tiles cut a shape up: tiles of cells, blocks of activations, slices of the
// kernel, and the shared memory that they take. cuda/joint/tile.cuh has the whole picture.
#ifndef JAX_RNNT_CUDA_JOINT_PLAN_CUH_
#define JAX_RNNT_CUDA_JOINT_PLAN_CUH_

#include <algorithm>
#include <cstdint>

#include "core/host_device.h"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/granule.cuh"

namespace jax_rnnt::cuda {

// A tile has kTileColumns columns of the lattice, and each warpgroup has the cells of
// kWarpgroupFrames frames. The eight lines that a swizzle permutes are the tile's columns at one
// frame.
constexpr int kTileColumns = 8;
constexpr int kWarpgroupFrames = kWgmmaRows / kTileColumns;

// Activations lie in blocks of 64 numbers for each cell, which are lines of 128 bytes.
constexpr int kBlockDepth = 64;
constexpr int kBlockLineBytes = kBlockDepth * 2;
constexpr int kLineGranules = kBlockLineBytes / kGranuleBytes;

// The finer the slices, the sooner a part of the ring is free for the next load: H = 640 leaves 64
// KB for the ring, four slices of 32 or two of 64.
constexpr int kSliceDepth = 32;
constexpr int kSliceLineBytes = kSliceDepth * 2;
constexpr int kSliceBytes = kWgmmaColumns * kSliceLineBytes;
constexpr int kSlicesPerBlock = kBlockDepth / kSliceDepth;

// Behind the whole chunks of 256 columns, up to kMostNarrowChunks narrow ones take the rest: five
// columns more would otherwise cost a chunk. One of them takes 0.15 of the time of a whole chunk in
// the forward and 0.25 in the gradients (H = 640, H100): four would take about as long as it. A
// slice of theirs has as many bytes as any other, for kNarrowBlocks blocks of activations.
constexpr int kMostNarrowChunks = 3;
constexpr int kNarrowSliceBytes = kNarrowColumns * kSliceLineBytes;
constexpr int kNarrowBlocks = kSliceBytes / (kNarrowSliceBytes * kSlicesPerBlock);

constexpr int kMinStages = 3;
constexpr int kMaxStages = 8;
// The shared memory that a block may have on compute capability 9.0.
constexpr int kMaxSharedBytes = 227 * 1024;
// Blocks of lines of 128 bytes start at multiples of 1024, which dynamic shared memory need not.
constexpr int kAlignment = 1024;
constexpr int kBarrierBytes = 2 * kMaxStages * sizeof(uint64_t);

constexpr int64_t RoundUp(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// How a joint network of H by W is cut up; all zeros where it does not fit.
struct JointPlan {
  int warpgroups;     // that multiply
  int stages;         // of the ring, each of which holds a slice
  int depth_blocks;   // of activations: H over kBlockDepth
  int chunks;         // of the columns: W over kWgmmaColumns
  int narrow_chunks;  // behind them
  int shared_bytes;

  JAX_RNNT_HOST_DEVICE int64_t WideSlices() const {
    return int64_t{1} * chunks * depth_blocks * kSlicesPerBlock;
  }
  JAX_RNNT_HOST_DEVICE int64_t NarrowSlices() const {
    return int64_t{1} * narrow_chunks * ((depth_blocks + kNarrowBlocks - 1) / kNarrowBlocks);
  }
  JAX_RNNT_HOST_DEVICE int64_t Lines() const {
    return int64_t{kWgmmaColumns} * chunks + int64_t{kNarrowColumns} * narrow_chunks;
  }
};

inline JointPlan MakePlan(int32_t H, int32_t W) {
  const JointPlan none{0, 0, 0, 0, 0, 0};
  if (H < 1 || W < 1) return none;
  const int64_t depth_blocks = RoundUp(H, kBlockDepth) / kBlockDepth;
  int64_t chunks = W / kWgmmaColumns;
  int64_t narrow_chunks = RoundUp(W % kWgmmaColumns, kNarrowColumns) / kNarrowColumns;
  // The activations are computed along with a whole chunk.
  if (chunks == 0 || narrow_chunks > kMostNarrowChunks) {
    ++chunks;
    narrow_chunks = 0;
  }
  for (int warpgroups = 2; warpgroups >= 1; --warpgroups) {
    const int64_t fixed_bytes =
        kAlignment + kBarrierBytes + depth_blocks * warpgroups * kWgmmaRows * kBlockLineBytes;
    const int64_t stages =
        std::min<int64_t>(kMaxStages, (kMaxSharedBytes - fixed_bytes) / kSliceBytes);
    if (fixed_bytes <= kMaxSharedBytes && stages >= kMinStages) {
      return JointPlan{warpgroups,
                       static_cast<int>(stages),
                       static_cast<int>(depth_blocks),
                       static_cast<int>(chunks),
                       static_cast<int>(narrow_chunks),
                       static_cast<int>(fixed_bytes + stages * kSliceBytes)};
    }
  }
  return none;
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_PLAN_CUH_
