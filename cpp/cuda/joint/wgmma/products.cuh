// A tile's activations times the packed kernel, chunk by chunk.
#ifndef JAX_RNNT_CUDA_JOINT_WGMMA_PRODUCTS_CUH_
#define JAX_RNNT_CUDA_JOINT_WGMMA_PRODUCTS_CUH_

#include <cstdint>

#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma/slice_ring.cuh"
#include "cuda/joint/wgmma/wgmma.cuh"

namespace jax_rnnt::cuda {

// Multiplies a warpgroup's blocks of activations with the slices, in the order in which they come.
template <typename T>
class SliceProducts {
 public:
  __device__ __forceinline__ explicit SliceProducts(const SliceRing& ring)
      : ring_(ring), first_b_(WgmmaStart(ring.slices)) {}

  // Adds to the logits the products of the block of activations that starts at `a` and the next
  // slices. The last of them is under way until Finish or the next block.
  __device__ __forceinline__ void AddBlock(uint32_t a, float (&logits)[kWgmmaAccumulators]) {
#pragma unroll
    for (int slice = 0; slice < kSlicesPerBlock; ++slice) {
      const uint32_t b = StartSlice();
#pragma unroll
      for (int k = 0; k < kSliceSteps; ++k) {
        Wgmma<T>(logits,
                 WgmmaDescriptor<kBlockLineBytes>(a + (slice * kSliceSteps + k) * kWgmmaDepthStep),
                 WgmmaDescriptor<kSliceLineBytes>(b + k * kWgmmaDepthStep));
      }
      EndProducts(true);
    }
  }

  // Likewise adds the products of a block and its part of a narrow chunk's slice, one of
  // kNarrowBlocks. After the last part that it needs of a slice, the next slice follows.
  __device__ __forceinline__ void AddNarrowBlock(uint32_t a, int part, bool is_last,
                                                 float (&logits)[kNarrowAccumulators]) {
    constexpr int kPartBytes = kSliceBytes / kNarrowBlocks;
    const uint32_t b = StartSlice() + part * (kPartBytes / 16);
#pragma unroll
    for (int k = 0; k < kSlicesPerBlock * kSliceSteps; ++k) {
      Wgmma<T>(logits, WgmmaDescriptor<kBlockLineBytes>(a + k * kWgmmaDepthStep),
               WgmmaDescriptor<kSliceLineBytes>(b + k / kSliceSteps * (kNarrowSliceBytes / 16) +
                                                k % kSliceSteps * kWgmmaDepthStep));
    }
    EndProducts(is_last);
  }

  // Waits for the last products, whose logits are then valid.
  template <int kAccumulators>
  __device__ __forceinline__ void Finish(float (&logits)[kAccumulators]) {
    WaitForWgmma<0>();
    PinAccumulators(logits);
    ReleaseStage(ring_, unfinished_);
    unfinished_ = -1;
  }

 private:
  static constexpr int kSliceSteps = kSliceDepth / kWgmmaDepth;

  // Waits for the slice, and returns where it starts.
  __device__ __forceinline__ uint32_t StartSlice() {
    // The slice, which the copying thread has sent for, becomes visible to the products.
    WaitBarrier(ring_.full + position_.stage, position_.parity);
    // The lanes of the warp, which may leave the wait one by one, meet: products take whole
    // warps.
    __syncwarp();
    FenceWgmma();
    return first_b_ + position_.stage * (kSliceBytes / 16);
  }

  // Leaves the products since the last call under way, and waits for those before them. If they
  // are the slice's last, the next slice follows.
  __device__ __forceinline__ void EndProducts(bool is_last) {
    CommitWgmma();
    WaitForWgmma<1>();
    if (unfinished_ >= 0) ReleaseStage(ring_, unfinished_);
    unfinished_ = -1;
    if (!is_last) return;
    unfinished_ = position_.stage;
    position_.Advance(ring_.stages);
  }

  const SliceRing& ring_;
  uint32_t first_b_;
  RingPosition position_;
  int unfinished_ = -1;  // the stage that products under way read; -1 for none
};

// Sets a thread's accumulators to the bias. `bias` is that of the chunk's lines.
template <int kAccumulators>
__device__ __forceinline__ void SetToBias(const float* bias, float (&logits)[kAccumulators]) {
  const float2* pairs = reinterpret_cast<const float2*>(bias) + threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kAccumulators / 4; ++j) {
    const float2 pair = __ldg(pairs + 4 * j);
    logits[4 * j] = logits[4 * j + 2] = pair.x;
    logits[4 * j + 1] = logits[4 * j + 3] = pair.y;
  }
  PinAccumulators(logits);
}

// Computes a warpgroup's logits, chunk by chunk.
//   lines            the warpgroup's activations, whose blocks are block_bytes apart
//   activations()    is called once, for an object whose Compute() is called for each block in
//                    turn by all threads of the warpgroup
//   epilogue(first_v, logits)
//                    is called at the end of each chunk, whole or narrow, with the thread's logits
//                    of columns first_v on, one array laid out as AccumulatorColumn says, for it to
//                    do with as it likes. Logits of columns beyond W mean nothing.
template <typename T, typename Activations, typename Epilogue>
__device__ __forceinline__ void MultiplySlices(const TileInputs<T>& inputs, const SliceRing& ring,
                                               int warpgroup, const unsigned char* lines,
                                               int block_bytes, const Activations& activations,
                                               const Epilogue& epilogue) {
  const uint32_t first_a = WgmmaStart(lines);
  const uint32_t block_step = block_bytes / 16;
  const JointPlan& plan = inputs.plan;
  SliceProducts<T> products(ring);
  {
    float logits[1][kWgmmaAccumulators];
#pragma unroll 1
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      SetToBias(inputs.packed_bias + static_cast<int64_t>(chunk) * kWgmmaColumns, logits[0]);
      // Two loops, so that the registers of the activations are free after the first.
      uint32_t a = first_a;
      if (chunk == 0) {
        auto blocks = activations();
#pragma unroll 1
        for (int block = 0; block < plan.depth_blocks; ++block, a += block_step) {
          blocks.Compute();
          // The block's activations become visible to the products of the warpgroup's four warps.
          FenceForAsync();
          SyncWarpgroup(warpgroup);
          products.AddBlock(a, logits[0]);
        }
      } else {
#pragma unroll 1
        for (int block = 0; block < plan.depth_blocks; ++block, a += block_step) {
          products.AddBlock(a, logits[0]);
        }
      }
      products.Finish(logits[0]);
      epilogue(chunk * kWgmmaColumns, logits);
    }
  }
#pragma unroll 1
  for (int chunk = 0; chunk < plan.narrow_chunks; ++chunk) {
    const int32_t first_v = plan.chunks * kWgmmaColumns + chunk * kNarrowColumns;
    float logits[1][kNarrowAccumulators];
    SetToBias(inputs.packed_bias + first_v, logits[0]);
    uint32_t a = first_a;
#pragma unroll 1
    for (int block = 0; block < plan.depth_blocks; ++block, a += block_step) {
      const int part = block % kNarrowBlocks;
      products.AddNarrowBlock(a, part, part + 1 == kNarrowBlocks || block + 1 == plan.depth_blocks,
                              logits[0]);
    }
    products.Finish(logits[0]);
    epilogue(first_v, logits);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_WGMMA_PRODUCTS_CUH_
