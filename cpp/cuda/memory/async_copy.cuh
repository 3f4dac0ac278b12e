// Copies of 4, 8 or 16 bytes a thread from global to shared memory. From sm_80 on they are
// cp.async, which passes no register; before, they are a load and a store (20 to 30 % slower for
// the row kernels when an H100 did the same).
#ifndef JAX_RNNT_CUDA_MEMORY_ASYNC_COPY_CUH_
#define JAX_RNNT_CUDA_MEMORY_ASYNC_COPY_CUH_

#include <cstdint>

#include "cuda/memory/shared_address.cuh"

namespace jax_rnnt::cuda {

template <typename T>
__device__ __forceinline__ void CopyAsync(T* shared, const T* global) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
#if __CUDA_ARCH__ >= 800
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (sizeof(T) == 16) {  // the one size that may pass the first-level cache by
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(global),
                 "n"(sizeof(T))
                 : "memory");
  }
#else
  *shared = *global;
#endif
}

// CopyAsync to a 32-bit address where `condition` holds, without a branch.
template <typename T>
__device__ __forceinline__ void CopyAsyncIf(bool condition, uint32_t shared, const T* global) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "{ .reg .pred wanted;\n"
      "  setp.ne.s32 wanted, %3, 0;\n"
      "  @wanted cp.async.ca.shared.global [%0], [%1], %2; }" ::"r"(shared),
      "l"(global), "n"(sizeof(T)), "r"(static_cast<int>(condition))
      : "memory");
#else
  if (condition) StoreShared(shared, *global);
#endif
}

// Makes one group of the copies that this thread has started since the last call.
__device__ __forceinline__ void CommitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the newest kPending groups of this thread have arrived. This thread can then
// read what they copied; a barrier makes it visible to others.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_ASYNC_COPY_CUH_
