// The ring in shared memory through which the slices of the packed kernel pass.
#ifndef JAX_RNNT_CUDA_JOINT_WGMMA_SLICE_RING_CUH_
#define JAX_RNNT_CUDA_JOINT_WGMMA_SLICE_RING_CUH_

#include <cstdint>

#include "cuda/joint/plan.h"
#include "cuda/memory/bulk_copy.cuh"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {

// The ring: `stages` slices and two barriers for each.
struct SliceRing {
  unsigned char* slices;
  uint64_t* full;   // of a stage: its slice has arrived
  uint64_t* empty;  // of a stage: all warps have read its slice
  int stages;
};

struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Copies every slice once, in the order in which it lies in memory. The copying thread calls this.
__device__ __forceinline__ void CopySlices(const SliceRing& ring,
                                           const unsigned char* packed_kernel, int64_t slices) {
  RingPosition position;
#pragma unroll 1
  for (int64_t i = 0; i < slices; ++i) {
    // All warps have read what the stage held before.
    WaitBarrier(ring.empty + position.stage, position.parity ^ 1);
    uint64_t* full = ring.full + position.stage;
    ArriveExpectBytes(full, kSliceBytes);
    CopyBulk(ring.slices + position.stage * kSliceBytes, packed_kernel + i * kSliceBytes,
             kSliceBytes, full);
    position.Advance(ring.stages);
  }
}

// Lets the copying thread know that this warp has read the stage's slice.
__device__ __forceinline__ void ReleaseStage(const SliceRing& ring, int stage) {
  if (threadIdx.x % kWarpSize == 0) Arrive(ring.empty + stage);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_WGMMA_SLICE_RING_CUH_
