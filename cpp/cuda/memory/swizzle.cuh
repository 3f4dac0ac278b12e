// Lines of shared memory whose 16-byte chunks are permuted, so that the same chunk of eight lines
// in a row takes all banks.
#ifndef JAX_RNNT_CUDA_MEMORY_SWIZZLE_CUH_
#define JAX_RNNT_CUDA_MEMORY_SWIZZLE_CUH_

namespace jax_rnnt::cuda {

// The place of chunk `chunk` in line `line` of kSwizzleBytes.
template <int kSwizzleBytes>
__host__ __device__ __forceinline__ constexpr int SwizzledChunk(int line, int chunk) {
  static_assert(kSwizzleBytes == 128 || kSwizzleBytes == 64);
  return kSwizzleBytes == 128 ? chunk ^ (line & 7) : chunk ^ ((line >> 1) & 3);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_SWIZZLE_CUH_
