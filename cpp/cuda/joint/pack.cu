// Packs the kernel (H, V) and the bias (V) of a joint network for the kernels over tiles.
//
// Pointers (T is __nv_bfloat16 or __half):
//   kernel (H, V), bias (V) or null, of T
//   packed_kernel (V chunks, H slices, 256, kSliceDepth) of T: zeros beyond H and V
//   packed_bias (V chunks, 256) of float: -inf beyond V
//
// A line holds kSliceDepth numbers of one column. The lines of a chunk are its columns in the order
// of ColumnOfLine, and the granules of a line are swizzled as the products want them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/joint/columns.cuh"
#include "cuda/joint/pack.h"
#include "cuda/joint/plan.cuh"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/exponents.cuh"

namespace jax_rnnt::cuda {
namespace {

// The most chunks: they are the second dimension of the grid.
constexpr int kMaxChunks = 65535;

// A block takes a slice of a chunk, a thread a column: rows of the kernel are read along V, and
// each column becomes a line.
template <typename T>
__global__ void __launch_bounds__(kWgmmaColumns)
    JointPackKernel(const T* __restrict__ kernel, const T* __restrict__ bias, int32_t H, int32_t V,
                    unsigned char* __restrict__ packed_kernel, float* __restrict__ packed_bias) {
  const int slices = gridDim.x;
  const int slice = blockIdx.x;
  const int line = threadIdx.x;
  const int64_t v = static_cast<int64_t>(blockIdx.y) * kWgmmaColumns + ColumnOfLine(line);
  unsigned char* target =
      packed_kernel + ((static_cast<int64_t>(blockIdx.y) * slices + slice) * kWgmmaColumns + line) *
                          kSliceLineBytes;
#pragma unroll
  for (int chunk = 0; chunk < kSliceLineBytes / kGranuleBytes; ++chunk) {
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t h = static_cast<int64_t>(slice) * kSliceDepth + chunk * 8 + i;
      values[i] = h < H && v < V ? ToAccumulator(kernel[h * V + v]) : 0.f;
    }
    reinterpret_cast<uint4*>(target)[SwizzledChunk<kSliceLineBytes>(line, chunk)] =
        Granule<T>::Pack(values);
  }
  if (slice == 0) {
    packed_bias[static_cast<int64_t>(blockIdx.y) * kWgmmaColumns + line] =
        v >= V            ? kMinusInfinity<float>
        : bias == nullptr ? 0.f
                          : ToAccumulator(bias[v]);
  }
}

}  // namespace

JointPackedBytes PackedJointBytes(int32_t H, int32_t V) {
  const JointPlan plan = MakePlan({1, 1, 1, H, V});
  if (plan.warpgroups == 0 || plan.chunks > kMaxChunks) return {0, 0};
  const int64_t lines = RoundUp(V, kWgmmaColumns);
  return {lines * RoundUp(H, kBlockDepth) * 2, lines * static_cast<int64_t>(sizeof(float))};
}

template <typename T>
cudaError_t JointPack(cudaStream_t stream, int32_t H, int32_t V, const T* kernel, const T* bias,
                      void* packed_kernel, float* packed_bias) {
  const JointPlan plan = MakePlan({1, 1, 1, H, V});
  if (plan.warpgroups == 0 || plan.chunks > kMaxChunks) return cudaErrorInvalidValue;
  JointPackKernel<T>
      <<<dim3(plan.depth_blocks * kSlicesPerBlock, plan.chunks), kWgmmaColumns, 0, stream>>>(
          kernel, bias, H, V, static_cast<unsigned char*>(packed_kernel), packed_bias);
  return cudaGetLastError();
}

#define JAX_RNNT_INSTANTIATE(T)                                                                \
  template cudaError_t JointPack<T>(cudaStream_t, int32_t, int32_t, const T*, const T*, void*, \
                                    float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
