// A block of threads on a tile: a tile's activations times the packed kernel, chunk by chunk.
//
// A block has one or two groups of eight warps. A warp multiplies all 64 cells of its group with 32
// columns of each chunk, its own, so that
//
//   - no part of the kernel is wanted by two warps of a group: it goes from the second-level cache
//     (the first-level one, where there are two groups) straight into registers, packed as one
//     linear stream a warp, loaded kStepsAhead steps before it is used. No ring in shared memory,
//     no barrier but one before the first product: warps drift apart, and one's epilogue hides
//     behind another's products;
//   - shared memory gives 64 x 32 products' sums for each 64 lines that it reads.
//
// All activations are computed before the first product: no accumulators then take the registers
// that hide one activation's latency behind another's.
//
// The order in which a logit's products are summed is the same with one group and with two.
#ifndef JAX_RNNT_CUDA_JOINT_MMA_PRODUCTS_CUH_
#define JAX_RNNT_CUDA_JOINT_MMA_PRODUCTS_CUH_

#include <cstdint>

#include "cuda/joint/columns.cuh"
#include "cuda/joint/mma/mma.cuh"
#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/memory/shared_address.cuh"

namespace jax_rnnt::cuda {

constexpr int kGroupThreads = kGroupWarps * kWarpSize;
// Of activations, all that a thread has in a block.
constexpr int kFramesAtOnce = 2;

// Products of 16 cells each: what a warp multiplies with a step of the kernel.
constexpr int kProductCells = 16;
constexpr int kGroupProducts = kGroupCells / kProductCells;
// The accumulators of a thread for 16 cells: of two rows, in the order of AccumulatorColumn.
constexpr int kProductAccumulators = kProductCells * kWarpColumns / kWarpSize;
using GroupLogits = float[kGroupProducts][kProductAccumulators];

// The first frame of the tile whose logits a thread has in a product of its group: of a pair of
// rows.
struct ProductFrame {
  __device__ __forceinline__ int operator()(int product) const {
    return ReadThread() / kGroupThreads * kGroupFrames + product * (kProductCells / kTileColumns);
  }
};

// A warp's stream of the packed kernel. The last steps that it loads are of what follows in memory.
template <bool kIsShared>
class KernelStream {
 public:
  __device__ __forceinline__ explicit KernelStream(const uint4* first) : next_(first) {}

  // Loads the first steps.
  __device__ __forceinline__ void Start() {
#pragma unroll
    for (int i = 0; i < kStepsAhead; ++i) Load(i, i);
    next_ += kStepsAhead * kStepGranules;
  }

  // Adds to the logits the products of a block of activations and the next steps. `address` is
  // where this lane loads the block's first matrix from.
  template <typename T>
  __device__ __forceinline__ void MultiplyBlock(uint32_t address, GroupLogits& logits) {
#pragma unroll
    for (int step = 0; step < kBlockSteps; ++step) {
      Load((step + kStepsAhead) % kBlockSteps, step);
      // The granules of a step are bits 5 and 6 of the address, swizzled or not.
      const uint32_t step_address = address ^ (step * kStepDepth * 2);
      uint32_t a[2][4];
      LoadMatrix(step_address, a[0]);
#pragma unroll
      for (int m = 0; m < kGroupProducts; ++m) {
        if (m + 1 < kGroupProducts) {
          LoadMatrix(step_address + (m + 1) * kProductCells * kBlockLineBytes, a[(m + 1) % 2]);
        }
        const uint4(&b)[2] = b_[step];
        Multiply<T>(logits[m], a[m % 2], b[0].x, b[0].y);
        Multiply<T>(logits[m] + 4, a[m % 2], b[0].z, b[0].w);
        Multiply<T>(logits[m] + 8, a[m % 2], b[1].x, b[1].y);
        Multiply<T>(logits[m] + 12, a[m % 2], b[1].z, b[1].w);
      }
    }
    next_ += kBlockSteps * kStepGranules;
  }

 private:
  static constexpr int kStepGranules = kStepBytes / kGranuleBytes;

  __device__ __forceinline__ void Load(int slot, int step) {
    b_[slot][0] = LoadGranule(next_ + step * kStepGranules);
    b_[slot][1] = LoadGranule(next_ + step * kStepGranules + kWarpSize);
  }

  // What no other warp of the block reads is of no use to the first-level cache.
  static __device__ __forceinline__ uint4 LoadGranule(const uint4* source) {
    uint4 v;
    if constexpr (kIsShared) {
      asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "l"(source));
    } else {
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "l"(source));
    }
    return v;
  }

  const uint4* next_;
  uint4 b_[kBlockSteps][2];
};

// Sets a thread's accumulators to the bias, whose first column of this lane is `bias`.
__device__ __forceinline__ void SetToBias(const float* bias, GroupLogits& logits) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(bias));
  const float4 high = __ldg(reinterpret_cast<const float4*>(bias) + 1);
  const float columns[kLaneColumns] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int m = 0; m < kGroupProducts; ++m) {
#pragma unroll
    for (int i = 0; i < kProductAccumulators; ++i) logits[m][i] = columns[AccumulatorColumn(i)];
  }
}

// Computes the logits of a warp of group `group`, chunk by chunk.
//   W                of the kernel
//   lines            the group's activations, whose blocks are kGroups kGroupBlockBytes apart
//   activations()    is called once, for an object whose Compute() is called for each block in turn
//                    by all threads of the group
//   epilogue(first_v, logits)
//                    is called at the end of each chunk with the thread's logits of columns first_v
//                    on: of each product in the order of AccumulatorColumn. Logits of columns
//                    beyond W mean nothing.
template <typename T, int kGroups, typename Activations, typename Epilogue>
__device__ __forceinline__ void MultiplyChunks(const TileInputs<T>& inputs, int32_t W, int group,
                                               const unsigned char* lines,
                                               const Activations& activations,
                                               const Epilogue& epilogue) {
  constexpr uint32_t kBlockBytes = kGroups * kGroupBlockBytes;
  const JointPlan& plan = inputs.plan;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize % kGroupWarps;
  const int32_t warp_v = warp * kWarpColumns;
  // Only in the last chunk may a warp be without columns.
  const bool is_short = (plan.chunks - 1) * kChunkWidth + warp_v >= W;
  const int chunks = is_short ? plan.chunks - 1 : plan.chunks;
  KernelStream<(kGroups > 1)> stream(
      reinterpret_cast<const uint4*>(inputs.packed_kernel + warp * StreamSteps(plan) * kStepBytes) +
      lane);
  const float* bias = inputs.packed_bias + warp_v + FirstLaneColumn();
  const uint32_t first_address = SharedAddress(lines) + lane % kProductCells * kBlockLineBytes +
                                 (lane / kProductCells ^ lane % kTileColumns) * kGranuleBytes;
  // What is loaded ahead arrives while activations are computed. A short warp may not use it.
  stream.Start();
  {
    auto blocks = activations();
#pragma unroll 1
    for (int block = 0; block < plan.depth_blocks; ++block) blocks.Compute();
  }
  // The activations become visible to all warps. Those of both groups start together, so that what
  // one has loaded of the kernel the other finds in the first-level cache.
  __syncthreads();
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    GroupLogits logits;
    SetToBias(bias + chunk * kChunkWidth, logits);
    uint32_t address = first_address;
#pragma unroll 1
    for (int block = 0; block < plan.depth_blocks; ++block, address += kBlockBytes) {
      stream.template MultiplyBlock<T>(address, logits);
    }
    epilogue(chunk * kChunkWidth + warp_v, logits);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_MMA_PRODUCTS_CUH_
