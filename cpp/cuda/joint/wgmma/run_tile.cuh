// A block of threads on a tile: the warpgroups that multiply, and the thread that copies.
#ifndef JAX_RNNT_CUDA_JOINT_WGMMA_RUN_TILE_CUH_
#define JAX_RNNT_CUDA_JOINT_WGMMA_RUN_TILE_CUH_

#include <cstdint>

#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma/slice_ring.cuh"
#include "cuda/joint/wgmma/wgmma.cuh"
#include "cuda/memory/bulk_copy.cuh"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {

// With the 65536 registers of a multiprocessor spread evenly over 384 threads, each thread would
// have 168: 128 accumulators and too few for the rest. The warpgroup of the copying thread gives
// its registers up to the others.
constexpr int kCopyRegisters = 24;
constexpr int kProductRegisters = 240;

constexpr int JointThreads(int warpgroups) { return (warpgroups + 1) * kWarpgroupThreads; }

// The first frame of the tile whose logits a thread's accumulators are: of its only pair of rows.
struct WarpFrame {
  __device__ __forceinline__ int operator()(int = 0) const { return ReadThread() / kWarpSize * 2; }
};

// Runs a block of JointThreads(kWarpgroups) threads. kWarpgroups warpgroups of 64 rows each call
// multiply(ring, warpgroup, lines, block_bytes), in which they go through MultiplySlices once. One
// more warpgroup copies, and does nothing else. `shared` holds, from a multiple of kAlignment on,
// depth_blocks blocks of activations, `stages` slices and the barriers.
template <typename T, int kWarpgroups, typename Multiply>
__device__ __forceinline__ void RunTile(const TileInputs<T>& inputs, unsigned char* shared,
                                        const Multiply& multiply) {
  constexpr int kBlockBytes = kWarpgroups * kWgmmaRows * kBlockLineBytes;
  unsigned char* lines = shared + (kAlignment - SharedAddress(shared) % kAlignment) % kAlignment;
  unsigned char* slices = lines + inputs.plan.depth_blocks * kBlockBytes;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(slices + inputs.plan.stages * kSliceBytes);
  const SliceRing ring{slices, barriers, barriers + kMaxStages, inputs.plan.stages};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < inputs.plan.stages; ++stage) {
      InitBarrier(ring.full + stage, 1);
      InitBarrier(ring.empty + stage, kWarpgroups * kWarpgroupThreads / kWarpSize);
    }
    FenceBarrierInit();
  }
  // The ring's barriers, which thread 0 has initialised, become visible to all threads.
  __syncthreads();

  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (warpgroup == kWarpgroups) {
    if constexpr (kWarpgroups > 1) ReleaseRegisters<kCopyRegisters>();
    if (threadIdx.x % kWarpgroupThreads == 0) {
      CopySlices(ring, inputs.packed_kernel, WideSlices(inputs.plan) + NarrowSlices(inputs.plan));
    }
  } else {
    if constexpr (kWarpgroups > 1) TakeRegisters<kProductRegisters>();
    multiply(ring, warpgroup, lines + warpgroup * (kWgmmaRows * kBlockLineBytes), kBlockBytes);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_WGMMA_RUN_TILE_CUH_
