// How every kernel over tiles is enqueued.
#ifndef JAX_RNNT_CUDA_JOINT_LAUNCH_BLOCKS_CUH_
#define JAX_RNNT_CUDA_JOINT_LAUNCH_BLOCKS_CUH_

#include <cuda_runtime_api.h>

namespace jax_rnnt::cuda {

// Enqueues `blocks` blocks of a kernel, which have the shared memory of the arguments' plan.
template <typename Arguments>
cudaError_t LaunchBlocks(cudaStream_t stream, void (*kernel)(Arguments), unsigned int blocks,
                         int threads, const Arguments& arguments) {
  const int shared_bytes = arguments.inputs.plan.shared_bytes;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<blocks, threads, shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_LAUNCH_BLOCKS_CUH_
