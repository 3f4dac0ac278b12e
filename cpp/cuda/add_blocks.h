// Adds the parts of a list to the blocks of an array that they belong to, in the list's order.
#ifndef JAX_RNNT_CUDA_ADD_BLOCKS_H_
#define JAX_RNNT_CUDA_ADD_BLOCKS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace jax_rnnt::cuda {

// sums[b] += parts[r] for every r with blocks[r] = b, one after the other as r rises. Enqueues one
// kernel, allocates nothing, synchronises nothing and gives the same bits for the same inputs.
//   sums    (B, L), in place
//   blocks  (R), any numbers: those outside [0, B) have their parts dropped
//   parts   (R, L)
// An L that is a multiple of 4 with sums and parts aligned to 16 bytes is faster. Every part's
// place is compared with every other: it is made for R of hundreds.
cudaError_t AddBlocks(cudaStream_t stream, int64_t B, int64_t L, int64_t R, float* sums,
                      const int32_t* blocks, const float* parts);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ADD_BLOCKS_H_
