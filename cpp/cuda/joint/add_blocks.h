// Adds the parts of a list to the blocks of an array that they belong to, in the list's order.
#ifndef JAX_RNNT_CUDA_JOINT_ADD_BLOCKS_H_
#define JAX_RNNT_CUDA_JOINT_ADD_BLOCKS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_rnnt::cuda {

// added[b] = sums[b] + every parts[r] with blocks[r] = b, one after the other as r rises.
// Instantiated for Real = float and double. Enqueues a copy, where `added` is not `sums`, and one
// kernel, allocates nothing, synchronises nothing and gives the same bits for the same inputs.
//   sums, added  (B, L), the same pointer or apart
//   blocks       (R), any numbers: those outside [0, B) have their parts dropped
//   parts        (R, L)
// Rows that are whole granules of 16 bytes at aligned addresses are faster. The kernel compares
// every part's place with every other: it is made for R of hundreds.
template <typename Real>
cudaError_t AddBlocks(cudaStream_t stream, int64_t B, int64_t L, int64_t R, const Real* sums,
                      const int32_t* blocks, const Real* parts, Real* added);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_ADD_BLOCKS_H_
