// A tile's activations times the packed kernel, chunk by chunk.
#ifndef JAX_RNNT_CUDA_JOINT_PRODUCTS_CUH_
#define JAX_RNNT_CUDA_JOINT_PRODUCTS_CUH_

#include <cstdint>

#include "cuda/joint/plan.cuh"
#include "cuda/joint/slice_ring.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma.cuh"

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
      // The slice, which the copying thread has sent for, becomes visible to the products.
      WaitBarrier(ring_.full + position_.stage, position_.parity);
      // The lanes of the warp, which may leave the wait one by one, meet: products take whole
      // warps.
      __syncwarp();
      const uint32_t b = first_b_ + position_.stage * (kSliceBytes / 16);
      FenceWgmma();
#pragma unroll
      for (int k = 0; k < kSliceDepth / kWgmmaDepth; ++k) {
        constexpr int kSteps = kSliceDepth / kWgmmaDepth;
        Wgmma<T>(logits,
                 WgmmaDescriptor<kBlockLineBytes>(a + (slice * kSteps + k) * kWgmmaDepthStep),
                 WgmmaDescriptor<kSliceLineBytes>(b + k * kWgmmaDepthStep));
      }
      CommitWgmma();
      WaitForWgmma<1>();
      if (unfinished_ >= 0) ReleaseStage(ring_, unfinished_);
      unfinished_ = position_.stage;
      position_.Advance(ring_.stages);
    }
  }

  // Waits for the last products, whose logits are then valid.
  __device__ __forceinline__ void Finish(float (&logits)[kWgmmaAccumulators]) {
    WaitForWgmma<0>();
    PinAccumulators(logits);
    ReleaseStage(ring_, unfinished_);
    unfinished_ = -1;
  }

 private:
  const SliceRing& ring_;
  uint32_t first_b_;
  RingPosition position_;
  int unfinished_ = -1;  // the stage that products under way read; -1 for none
};

// Computes a warpgroup's logits, chunk by chunk.
//   lines            the warpgroup's activations, whose blocks are block_bytes apart
//   activations()    is called once, for an object whose Compute(block) is called for each block in
//                    turn
//   epilogue(first_v, logits)
//                    is called at the end of each chunk with the thread's logits of columns first_v
//                    on, laid out as AccumulatorColumn says, for it to do with as it likes. Logits
//                    of columns beyond V mean nothing.
template <typename T, typename Activations, typename Epilogue>
__device__ __forceinline__ void MultiplySlices(const TileInputs<T>& inputs, const SliceRing& ring,
                                               const unsigned char* lines, int block_bytes,
                                               const Activations& activations, Epilogue& epilogue) {
  const uint32_t first_a = WgmmaStart(lines);
  const uint32_t block_step = block_bytes / 16;
  const float* bias = inputs.packed_bias + 2 * (threadIdx.x % 4);
  SliceProducts<T> products(ring);
  float logits[kWgmmaAccumulators];
#pragma unroll 1
  for (int chunk = 0; chunk < inputs.chunks; ++chunk) {
#pragma unroll
    for (int j = 0; j < kWgmmaColumns / 8; ++j) {
      const float2 pair = __ldg(
          reinterpret_cast<const float2*>(bias + static_cast<int64_t>(chunk) * kWgmmaColumns) +
          4 * j);
      logits[4 * j] = logits[4 * j + 2] = pair.x;
      logits[4 * j + 1] = logits[4 * j + 3] = pair.y;
    }
    PinAccumulators(logits);
    // Two loops, so that the registers of the activations are free after the first.
    uint32_t a = first_a;
    if (chunk == 0) {
      auto blocks = activations();
#pragma unroll 1
      for (int block = 0; block < inputs.depth_blocks; ++block, a += block_step) {
        blocks.Compute(block);
        products.AddBlock(a, logits);
      }
    } else {
#pragma unroll 1
      for (int block = 0; block < inputs.depth_blocks; ++block, a += block_step) {
        products.AddBlock(a, logits);
      }
    }
    products.Finish(logits);
    epilogue(chunk * kWgmmaColumns, logits);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_PRODUCTS_CUH_
