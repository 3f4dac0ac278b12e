// The sizes of packed kernels, and which kernel packs them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/joint/launch_pack.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/plan.h"

namespace jax_rnnt::cuda {

JointPackedBytes PackedJointBytes(const JointTarget& target, int32_t H, int32_t W) {
  const JointPlan plan = MakePlan(target, H, W);
  constexpr int64_t kBiasBytes = sizeof(float);
  switch (plan.products) {
    case JointProducts::kWgmma:
      return {(WideSlices(plan) + NarrowSlices(plan)) * kSliceBytes,
              (int64_t{kChunkWidth} * plan.chunks + int64_t{kNarrowColumns} * plan.narrow_chunks) *
                  kBiasBytes};
    case JointProducts::kMma:
      return {(kGroupWarps * StreamSteps(plan) + kStreamTail) * kStepBytes,
              int64_t{kChunkWidth} * plan.chunks * kBiasBytes};
    case JointProducts::kNone:
      break;
  }
  return {0, 0};
}

template <typename T>
cudaError_t JointPack(cudaStream_t stream, const JointTarget& target, int32_t H, int32_t W,
                      const T* kernel, const T* bias, void* packed_kernel, float* packed_bias) {
  const JointPlan plan = MakePlan(target, H, W);
  if (plan.groups == 0) return cudaErrorInvalidValue;
  return plan.products == JointProducts::kWgmma
             ? LaunchWgmmaPack(stream, plan, H, W, kernel, bias, packed_kernel, packed_bias)
             : LaunchMmaPack(stream, plan, H, W, kernel, bias, packed_kernel, packed_bias);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                   \
  template cudaError_t JointPack<T>(cudaStream_t, const JointTarget&, int32_t, int32_t, const T*, \
                                    const T*, void*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
