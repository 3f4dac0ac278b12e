// The kernel and bias of a joint network in the order in which the kernels over tiles read them.
#ifndef JAX_RNNT_CUDA_JOINT_PACK_H_
#define JAX_RNNT_CUDA_JOINT_PACK_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_rnnt::cuda {

// The bytes of JointPack's two results; zeros where the kernels over tiles do not take the sizes.
// Both must be positive, W below 2^24, and H up to 1408, as shared memory must hold a tile's
// activations.
struct JointPackedBytes {
  int64_t kernel;
  int64_t bias;
};
JointPackedBytes PackedJointBytes(int32_t H, int32_t W);

// Instantiated for T = __nv_bfloat16 and __half. Enqueues one kernel, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs.
//   kernel (H, W)    bias (W) or null
//   packed_kernel, packed_bias  as many bytes as PackedJointBytes says, aligned to 128
template <typename T>
cudaError_t JointPack(cudaStream_t stream, int32_t H, int32_t W, const T* kernel, const T* bias,
                      void* packed_kernel, float* packed_bias);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_PACK_H_
