// The kernel and bias of a joint network in the order in which the kernels over tiles read them.
#ifndef JAX_RNNT_CUDA_JOINT_PACK_H_
#define JAX_RNNT_CUDA_JOINT_PACK_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/joint/target.h"

namespace jax_rnnt::cuda {

// The bytes of JointPack's two results; zeros where the kernels over tiles do not take the sizes.
// Both must be positive, W below 2^24, and H such that shared memory holds a tile's activations: up
// to 1408 with wgmma, and without it up to 768 in 99 KB, 1280 in 163 KB, 1792 in 227 KB.
struct JointPackedBytes {
  int64_t kernel;
  int64_t bias;
};
JointPackedBytes PackedJointBytes(const JointTarget& target, int32_t H, int32_t W);

// Instantiated for T = __nv_bfloat16 and __half. Enqueues one kernel, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs.
//   kernel (H, W)    bias (W) or null
//   packed_kernel, packed_bias  as many bytes as PackedJointBytes says, aligned to 128
template <typename T>
cudaError_t JointPack(cudaStream_t stream, const JointTarget& target, int32_t H, int32_t W,
                      const T* kernel, const T* bias, void* packed_kernel, float* packed_bias);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_PACK_H_
