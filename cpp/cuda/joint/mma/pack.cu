// Packs the kernel (H, W) and the bias (W) of a joint network for the kernels that multiply by
// mma.sync.
//
// Pointers (T is __nv_bfloat16 or __half):
//   kernel (H, W), bias (W) or null, of T
//   packed_kernel of T, zeros beyond H and W: granules of 16 bytes,
//     (kGroupWarps, steps of all chunks, 2, 32 lanes), then zeros of the tail
//   packed_bias (256 chunks) of float: -inf beyond W
//
// A warp's steps lie one after the other, as it reads them. Two granules of a lane are what it has
// of the step's B in four products, 8 columns each: word 2 i + k of granule p is of product 2 p + i
// and of half k of the depth. Column 2 q + e of product j is the warp's column 8 q + 2 j + e
// (ColumnOfLine), so that a lane's accumulators of a row are neighbours.
//
// A thread takes a granule.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/joint/columns.cuh"
#include "cuda/joint/launch_pack.h"
#include "cuda/joint/plan.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kPackThreads = 256;
constexpr int kStepGranules = kStepBytes / kGranuleBytes;

template <typename T>
__global__ void __launch_bounds__(kPackThreads)
    JointPackKernel(const JointPlan plan, const T* __restrict__ kernel, const T* __restrict__ bias,
                    int32_t H, int32_t W, uint4* __restrict__ packed_kernel,
                    float* __restrict__ packed_bias) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  const int64_t step = i / kStepGranules;  // of all warps
  if (step >= kGroupWarps * StreamSteps(plan) + kStreamTail) return;
  const int64_t warp = step / StreamSteps(plan);
  const int64_t warp_step = step % StreamSteps(plan);
  const int chunk_steps = plan.depth_blocks * kBlockSteps;
  const int64_t chunk = warp_step / chunk_steps;
  const int depth = static_cast<int>(warp_step % chunk_steps) * kStepDepth;
  const int lane = static_cast<int>(i % kWarpSize);
  const int pair = static_cast<int>(i % kStepGranules) / kWarpSize;
  float values[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int product = 2 * pair + k / 4;
    const int64_t v =
        chunk * kChunkWidth + warp * kWarpColumns + ColumnOfLine(8 * product + lane / 4);
    const int h = depth + k / 2 % 2 * 8 + lane % 4 * 2 + k % 2;
    const bool is_inside = warp < kGroupWarps && h < H && v < W;
    values[k] = is_inside ? ToAccumulator(kernel[static_cast<int64_t>(h) * W + v]) : 0.f;
  }
  packed_kernel[i] = Granule<T>::Pack(values);
  if (i < static_cast<int64_t>(kChunkWidth) * plan.chunks) {
    packed_bias[i] = i >= W            ? kMinusInfinity<float>
                     : bias == nullptr ? 0.f
                                       : ToAccumulator(bias[i]);
  }
}

}  // namespace

template <typename T>
cudaError_t LaunchMmaPack(cudaStream_t stream, const JointPlan& plan, int32_t H, int32_t W,
                          const T* kernel, const T* bias, void* packed_kernel, float* packed_bias) {
  const int64_t granules = (kGroupWarps * StreamSteps(plan) + kStreamTail) * kStepGranules;
  JointPackKernel<T><<<CountBlocks(granules, kPackThreads), kPackThreads, 0, stream>>>(
      plan, kernel, bias, H, W, static_cast<uint4*>(packed_kernel), packed_bias);
  return cudaGetLastError();
}

#define JAX_RNNT_INSTANTIATE(T)                                                           \
  template cudaError_t LaunchMmaPack<T>(cudaStream_t, const JointPlan&, int32_t, int32_t, \
                                        const T*, const T*, void*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
