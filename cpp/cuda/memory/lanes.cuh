// Maxima and sums over the lanes of a warp.
#ifndef JAX_RNNT_CUDA_MEMORY_LANES_CUH_
#define JAX_RNNT_CUDA_MEMORY_LANES_CUH_

namespace jax_rnnt::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned int kAllLanes = 0xffffffffu;

// The maximum over each run of kLanes lanes, in all of its lanes; NaN is dropped. Every lane of the
// warp must take part.
template <int kLanes, typename Acc>
__device__ __forceinline__ Acc MaxOverLanes(Acc maximum) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    maximum = fmax(maximum, __shfl_xor_sync(kAllLanes, maximum, distance));
  }
  return maximum;
}

// The sum over each run of kLanes lanes, in all of its lanes. Every lane of the warp must take
// part.
template <int kLanes, typename Acc>
__device__ __forceinline__ Acc SumOverLanes(Acc sum) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  return sum;
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_LANES_CUH_
