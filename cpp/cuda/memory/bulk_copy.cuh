// Bulk copies from global to shared memory (sm_90), and the barriers in shared memory that count
// their bytes. One thread starts a copy of kilobytes, which passes no register.
#ifndef JAX_RNNT_CUDA_MEMORY_BULK_COPY_CUH_
#define JAX_RNNT_CUDA_MEMORY_BULK_COPY_CUH_

#include <cstdint>

#include "cuda/memory/shared_address.cuh"

namespace jax_rnnt::cuda {

// A phase of the barrier ends when `arrivals` arrivals and all bytes announced for it have come.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes the barriers that this thread has initialised visible to bulk copies; a barrier of the
// whole block must follow.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and announces the bytes of copies that the phase is to wait for.
__device__ __forceinline__ void ArriveExpectBytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

// Waits until the phase of this parity has ended: 0 for the first, third, ... phase of the barrier,
// 1 for the second, fourth, ... On a new barrier the phase of parity 1 counts as ended.
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

// Starts a copy whose bytes `barrier` counts. `bytes` and both pointers are multiples of 16.
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
