// How the kernels over tiles cut a shape up: tiles of cells, blocks of activations, chunks of
// columns, and the shared memory that they take. cuda/joint/tile.cuh has the whole picture.
#ifndef JAX_RNNT_CUDA_JOINT_PLAN_H_
#define JAX_RNNT_CUDA_JOINT_PLAN_H_

#include <algorithm>
#include <cstdint>

#include "core/host_device.h"
#include "cuda/joint/target.h"

namespace jax_rnnt::cuda {

// A tile has kTileColumns columns of the lattice. Groups of threads multiply, each the cells of
// kGroupFrames frames. The eight lines that a swizzle permutes are the tile's columns at one frame.
constexpr int kTileColumns = 8;
constexpr int kGroupFrames = 8;
constexpr int kGroupCells = kGroupFrames * kTileColumns;

// Activations lie in blocks of 64 numbers for each cell, which are lines of 128 bytes.
constexpr int kBlockDepth = 64;
constexpr int kBlockLineBytes = kBlockDepth * 2;
constexpr int kLineGranules = kBlockLineBytes / 16;
constexpr int kGroupBlockBytes = kGroupCells * kBlockLineBytes;

// The columns of the kernel that a group multiplies with before its epilogue.
constexpr int kChunkWidth = 256;

// How a joint network of H by W is cut up; all zeros where it does not fit.
struct JointPlan {
  JointProducts products = JointProducts::kNone;
  int groups = 0;         // that multiply
  int depth_blocks = 0;   // of activations: H over kBlockDepth
  int chunks = 0;         // of the columns: W over kChunkWidth
  int narrow_chunks = 0;  // behind them: kWgmma's alone
  int stages = 0;         // of the ring, each of which holds a slice: kWgmma's alone
  int shared_bytes = 0;
};

// The most chunks that are taken.
constexpr int64_t kMaxChunks = 65535;

constexpr int64_t DivideUp(int64_t x, int64_t y) { return (x + y - 1) / y; }

// ---- Of kWgmma: slices of the kernel, kSliceDepth numbers of each column of a chunk, pass a ring.

// The finer the slices, the sooner a part of the ring is free for the next load: H = 640 leaves 64
// KB for the ring, four slices of 32 or two of 64.
constexpr int kSliceDepth = 32;
constexpr int kSliceLineBytes = kSliceDepth * 2;
constexpr int kSliceBytes = kChunkWidth * kSliceLineBytes;
constexpr int kSlicesPerBlock = kBlockDepth / kSliceDepth;

// Behind the whole chunks of 256 columns, up to kMostNarrowChunks narrow ones take the rest: five
// columns more would otherwise cost a chunk. One of them takes 0.15 of the time of a whole chunk in
// the forward and 0.25 in the gradients (H = 640, H100): four would take about as long as it. A
// slice of theirs has as many bytes as any other, for kNarrowBlocks blocks of activations.
constexpr int kNarrowColumns = 32;
constexpr int kMostNarrowChunks = 3;
constexpr int kNarrowSliceBytes = kNarrowColumns * kSliceLineBytes;
constexpr int kNarrowBlocks = kSliceBytes / (kNarrowSliceBytes * kSlicesPerBlock);

constexpr int kMinStages = 3;
constexpr int kMaxStages = 8;
// Blocks of lines of 128 bytes start at multiples of 1024, which dynamic shared memory need not.
constexpr int kAlignment = 1024;
constexpr int kBarrierBytes = 2 * kMaxStages * sizeof(uint64_t);

JAX_RNNT_HOST_DEVICE int64_t WideSlices(const JointPlan& plan) {
  return int64_t{1} * plan.chunks * plan.depth_blocks * kSlicesPerBlock;
}
JAX_RNNT_HOST_DEVICE int64_t NarrowSlices(const JointPlan& plan) {
  return int64_t{1} * plan.narrow_chunks *
         ((plan.depth_blocks + kNarrowBlocks - 1) / kNarrowBlocks);
}

inline JointPlan MakeWgmmaPlan(int32_t H, int32_t W, int shared_bytes) {
  const int64_t depth_blocks = DivideUp(H, kBlockDepth);
  int64_t chunks = W / kChunkWidth;
  int64_t narrow_chunks = DivideUp(W % kChunkWidth, kNarrowColumns);
  // The activations are computed along with a whole chunk.
  if (chunks == 0 || narrow_chunks > kMostNarrowChunks) {
    ++chunks;
    narrow_chunks = 0;
  }
  if (chunks > kMaxChunks) return {};
  for (int groups = 2; groups >= 1; --groups) {
    const int64_t fixed_bytes =
        kAlignment + kBarrierBytes + depth_blocks * groups * kGroupBlockBytes;
    const int64_t stages =
        std::min<int64_t>(kMaxStages, (shared_bytes - fixed_bytes) / kSliceBytes);
    if (fixed_bytes <= shared_bytes && stages >= kMinStages) {
      return {JointProducts::kWgmma,
              groups,
              static_cast<int>(depth_blocks),
              static_cast<int>(chunks),
              static_cast<int>(narrow_chunks),
              static_cast<int>(stages),
              static_cast<int>(fixed_bytes + stages * kSliceBytes)};
    }
  }
  return {};
}

// ---- Of kMma: each of kGroupWarps warps of a group multiplies with kWarpColumns columns of a
// chunk.

constexpr int kGroupWarps = 8;
constexpr int kWarpColumns = kChunkWidth / kGroupWarps;
// Behind the activations lie up to four numbers of each cell: in the forward two logits.
constexpr int kCellBytes = 16;
// A warp's steps through the kernel: kWarpColumns columns by kStepDepth, which is what one product
// takes, of all chunks in a row. Warps load kStepsAhead steps before they multiply with them: the
// last one's last loads are of a tail.
constexpr int kStepDepth = 16;
constexpr int kStepBytes = kWarpColumns * kStepDepth * 2;
constexpr int kBlockSteps = kBlockDepth / kStepDepth;
constexpr int kStepsAhead = 2;
constexpr int kStreamTail = kStepsAhead;

JAX_RNNT_HOST_DEVICE int64_t StreamSteps(const JointPlan& plan) {
  return int64_t{1} * plan.chunks * plan.depth_blocks * kBlockSteps;
}

inline JointPlan MakeMmaPlan(int32_t H, int32_t W, int shared_bytes) {
  const int64_t depth_blocks = DivideUp(H, kBlockDepth);
  const int64_t chunks = DivideUp(W, kChunkWidth);
  if (chunks > kMaxChunks) return {};
  for (int groups = 2; groups >= 1; --groups) {
    const int64_t bytes = groups * (depth_blocks * kGroupBlockBytes + kGroupCells * kCellBytes);
    if (bytes <= shared_bytes) {
      return {JointProducts::kMma,      groups, static_cast<int>(depth_blocks),
              static_cast<int>(chunks), 0,      0,
              static_cast<int>(bytes)};
    }
  }
  return {};
}

inline JointPlan MakePlan(const JointTarget& target, int32_t H, int32_t W) {
  if (H < 1 || W < 1) return {};
  switch (target.products) {
    case JointProducts::kWgmma:
      return MakeWgmmaPlan(H, W, target.shared_bytes);
    case JointProducts::kMma:
      return MakeMmaPlan(H, W, target.shared_bytes);
    case JointProducts::kNone:
      break;
  }
  return {};
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_PLAN_H_
