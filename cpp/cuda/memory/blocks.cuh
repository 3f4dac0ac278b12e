// How many blocks of threads a kernel takes: to cover an array, and on a multiprocessor at once.
#ifndef JAX_RNNT_CUDA_MEMORY_BLOCKS_CUH_
#define JAX_RNNT_CUDA_MEMORY_BLOCKS_CUH_

#include <cstdint>
#include <limits>

namespace jax_rnnt::cuda {

// The number of warps that a multiprocessor holds at once.
#if !defined(__CUDA_ARCH__)
constexpr int kMaxResidentWarps = 64;
#elif __CUDA_ARCH__ == 750
constexpr int kMaxResidentWarps = 32;
#elif __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
constexpr int kMaxResidentWarps = 48;
#else
constexpr int kMaxResidentWarps = 64;
#endif

// For __launch_bounds__: `wanted` blocks of so many threads on a multiprocessor, or as many as it
// holds.
constexpr int ResidentBlocks(int threads, int wanted) {
  const int most = kMaxResidentWarps * 32 / threads;
  return wanted < most ? wanted : most;
}

// The number of blocks that cover `items`, items_per_block each; 0, with which the launch fails,
// where it passes the grid's 2^31 - 1. No tensor gets there: 2^31 blocks of the least that one
// takes in these kernels (64 rows, 256 elements, 1 KB of logits) are 1 TB of buffers and more, 350
// GB in the forward of double, whose blocks take 4 rows.
inline unsigned int CountBlocks(int64_t items, int64_t items_per_block) {
  const int64_t blocks = (items - 1) / items_per_block + 1;
  return blocks <= std::numeric_limits<int32_t>::max() ? static_cast<unsigned int>(blocks) : 0;
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_BLOCKS_CUH_
