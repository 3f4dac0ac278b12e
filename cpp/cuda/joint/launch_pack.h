// The kernels that pack, one for either instruction.
#ifndef JAX_RNNT_CUDA_JOINT_LAUNCH_PACK_H_
#define JAX_RNNT_CUDA_JOINT_LAUNCH_PACK_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/joint/plan.h"

namespace jax_rnnt::cuda {

// As JointPack (cuda/joint/pack.h) for the plan's target.
template <typename T>
cudaError_t LaunchWgmmaPack(cudaStream_t stream, const JointPlan& plan, int32_t H, int32_t W,
                            const T* kernel, const T* bias, void* packed_kernel,
                            float* packed_bias);
template <typename T>
cudaError_t LaunchMmaPack(cudaStream_t stream, const JointPlan& plan, int32_t H, int32_t W,
                          const T* kernel, const T* bias, void* packed_kernel, float* packed_bias);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_LAUNCH_PACK_H_
