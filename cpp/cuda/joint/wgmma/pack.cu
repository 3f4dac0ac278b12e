// Packs the kernel (H, W) and the bias (W) of a joint network for the kernels that multiply by
// wgmma.
//
// Pointers (T is __nv_bfloat16 or __half):
//   kernel (H, W), bias (W) or null, of T
//   packed_kernel of T, zeros beyond H and W: slices of kSliceBytes,
//     (chunks, H slices, 256, kSliceDepth), then
//     (narrow chunks, H slices, 8, kNarrowColumns, kSliceDepth)
//   packed_bias (256 chunks + kNarrowColumns narrow chunks) of float: -inf beyond W
//
// A line holds kSliceDepth numbers of one column. The lines of a chunk are its columns in the order
// of ColumnOfLine, and the granules of a line are swizzled as the products want them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/joint/columns.cuh"
#include "cuda/joint/launch_pack.h"
#include "cuda/joint/plan.h"
#include "cuda/joint/wgmma/wgmma.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/swizzle.cuh"
#include "cuda/rows/exponents.cuh"

namespace jax_rnnt::cuda {
namespace {

// A block takes a slice, a thread a line of it: rows of the kernel are read along W, and each
// column becomes a line.
template <typename T>
__global__ void __launch_bounds__(kWgmmaColumns)
    JointPackKernel(const JointPlan plan, const T* __restrict__ kernel, const T* __restrict__ bias,
                    int32_t H, int32_t W, unsigned char* __restrict__ packed_kernel,
                    float* __restrict__ packed_bias) {
  const int64_t slice = blockIdx.x;
  const int64_t narrow_slice = slice - WideSlices(plan);
  const bool is_narrow = narrow_slice >= 0;
  const int64_t chunks = is_narrow ? plan.narrow_chunks : plan.chunks;
  const int64_t chunk_slices = (is_narrow ? NarrowSlices(plan) : WideSlices(plan)) / chunks;
  const int64_t chunk = (is_narrow ? narrow_slice : slice) / chunk_slices;
  const int64_t depth = (is_narrow ? narrow_slice : slice) % chunk_slices;
  const int columns = is_narrow ? kNarrowColumns : kWgmmaColumns;
  const int line = static_cast<int>(threadIdx.x) % columns;
  const int64_t first_line =
      (is_narrow ? int64_t{kWgmmaColumns} * plan.chunks : 0) + chunk * columns;
  const int64_t v = first_line + ColumnOfLine(line);
  const int64_t first_h =
      (depth * (kWgmmaColumns / columns) + static_cast<int>(threadIdx.x) / columns) * kSliceDepth;
  unsigned char* target = packed_kernel + slice * kSliceBytes + threadIdx.x * kSliceLineBytes;
#pragma unroll
  for (int granule = 0; granule < kSliceLineBytes / kGranuleBytes; ++granule) {
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t h = first_h + granule * 8 + i;
      values[i] = h < H && v < W ? ToAccumulator(kernel[h * W + v]) : 0.f;
    }
    reinterpret_cast<uint4*>(target)[SwizzledChunk<kSliceLineBytes>(line, granule)] =
        Granule<T>::Pack(values);
  }
  if (first_h == 0) {
    packed_bias[first_line + line] = v >= W            ? kMinusInfinity<float>
                                     : bias == nullptr ? 0.f
                                                       : ToAccumulator(bias[v]);
  }
}

}  // namespace

template <typename T>
cudaError_t LaunchWgmmaPack(cudaStream_t stream, const JointPlan& plan, int32_t H, int32_t W,
                            const T* kernel, const T* bias, void* packed_kernel,
                            float* packed_bias) {
  const int64_t slices = WideSlices(plan) + NarrowSlices(plan);
  JointPackKernel<T><<<static_cast<unsigned int>(slices), kWgmmaColumns, 0, stream>>>(
      plan, kernel, bias, H, W, static_cast<unsigned char*>(packed_kernel), packed_bias);
  return cudaGetLastError();
}

#define JAX_RNNT_INSTANTIATE(T)                                                             \
  template cudaError_t LaunchWgmmaPack<T>(cudaStream_t, const JointPlan&, int32_t, int32_t, \
                                          const T*, const T*, void*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
