// Bulk copies from global to shared memory and the barriers in shared memory that count their bytes
// (sm_90): one thread starts a copy of kilobytes, which passes no register.
#ifndef JAX_RNNT_CUDA_MEMORY_BULK_COPY_CUH_
#define JAX_RNNT_CUDA_MEMORY_BULK_COPY_CUH_

#include <cstdint>

namespace jax_rnnt::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A barrier's phase ends with `arrivals` arrivals and all bytes announced for it.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes the barriers that this thread has initialised known to copies; a block barrier must follow.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives and announces the bytes of copies.
__device__ __forceinline__ void ArriveExpectBytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

// Waits for the end of a phase: parity 0 for the first, third, ... one. A new barrier counts as
// one whose phase of parity 1 has ended.
__device__ __forceinline__ void WaitBarrier(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// `bytes` and both pointers are multiples of 16. The bytes are counted by `barrier`.
__device__ __forceinline__ void CopyBulk(void* shared, const void* global, uint32_t bytes,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

// Makes this thread's ordinary writes to shared memory visible to wgmma and bulk copies, once a
// barrier has followed.
__device__ __forceinline__ void FenceForAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_BULK_COPY_CUH_
