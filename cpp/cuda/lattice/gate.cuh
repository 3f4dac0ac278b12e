// Signals between the warps of a block, and of a cluster of blocks where there are clusters.
//
// A Gate opens its phases 0, 1, 2, ... one after the other, each after kCount arrivals. What a
// thread wrote before it arrived is visible to whoever has waited for the phase. From sm_80 on a
// gate is an mbarrier, before it is a count of arrivals.
//
// Only the current phase and the next one may be waited for.
#ifndef JAX_RNNT_CUDA_LATTICE_GATE_CUH_
#define JAX_RNNT_CUDA_LATTICE_GATE_CUH_

#include <cstdint>

#include "cuda/memory/shared_address.cuh"

namespace jax_rnnt::cuda {

// A gate's place in shared memory, for SharedAddress.
struct GateWord {
  uint64_t word;
};

template <int kCount>
class Gate {
 public:
  __device__ __forceinline__ explicit Gate(uint32_t address) : address_(address) {}

  // One thread's. ClusterSync must stand between Init and the first use, and between the last use
  // and Reset, which another Init may follow.
  __device__ void Reset() {
#if __CUDA_ARCH__ >= 800
    asm volatile("mbarrier.inval.shared.b64 [%0];" ::"r"(address_) : "memory");
#endif
  }
  __device__ void Init() {
#if __CUDA_ARCH__ >= 800
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address_), "r"(kCount) : "memory");
#else
    asm volatile("st.volatile.shared.u32 [%0], 0;" ::"r"(address_) : "memory");
#endif
  }

  __device__ __forceinline__ void Arrive() {
#if __CUDA_ARCH__ >= 800
    asm volatile("{ .reg .b64 state;\n  mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(address_)
                 : "memory");
#else
    __threadfence_block();
    asm volatile("red.shared.add.u32 [%0], 1;" ::"r"(address_) : "memory");
#endif
  }

  // Arrives once all copies (memory/async_copy.cuh) that this thread has started are here.
  __device__ __forceinline__ void ArriveWithCopies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address_) : "memory");
#else
    Arrive();
#endif
  }

  __device__ __forceinline__ void Wait(unsigned phase) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{ .reg .pred done;\n"
        "WAIT:\n"
        "  mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
        "  @!done bra WAIT; }" ::"r"(address_),
        "r"(phase & 1)
        : "memory");
#elif __CUDA_ARCH__ >= 800
    asm volatile(
        "{ .reg .pred done;\n"
        "WAIT:\n"
        "  mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
        "  @!done bra WAIT; }" ::"r"(address_),
        "r"(phase & 1)
        : "memory");
#else
    unsigned arrivals;
    do {
      asm volatile("ld.volatile.shared.u32 %0, [%1];" : "=r"(arrivals) : "r"(address_) : "memory");
    } while (arrivals < kCount * (phase + 1));
    __threadfence_block();
#endif
  }

#if __CUDA_ARCH__ >= 900
  // Arrives, and keeps the phase closed until so many bytes have come by st.async.
  __device__ __forceinline__ void ArriveExpecting(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(address_), "r"(bytes)
                 : "memory");
  }
#endif

 private:
  uint32_t address_;
};

// A gate that a whole warp arrives at together: one lane does, behind the others. The arrivals of
// 32 lanes take so long that a lattice of nine arcs takes 1.3 times as long with them, but they are
// what compute-sanitizer's racecheck follows; for it, compile with JAX_RNNT_EVERY_LANE_ARRIVES.
#ifdef JAX_RNNT_EVERY_LANE_ARRIVES
constexpr int kWarpArrivals = 32;
#else
constexpr int kWarpArrivals = 1;
#endif
template <int kCount>
__device__ __forceinline__ void ArriveAsWarp(Gate<kCount> gate, int lane) {
#ifdef JAX_RNNT_EVERY_LANE_ARRIVES
  gate.Arrive();
#else
  __syncwarp();  // what all lanes did is ordered before the one arrival
  if (lane == 0) gate.Arrive();
#endif
}

// Blocks of a cluster. Before sm_90 a block is a cluster of its own.
__device__ __forceinline__ unsigned ClusterRank() {
#if __CUDA_ARCH__ >= 900
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}

__device__ __forceinline__ unsigned ClusterSize() {
#if __CUDA_ARCH__ >= 900
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}

// Waits for all threads of the cluster, whose writes are then visible to each other.
__device__ __forceinline__ void ClusterSync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

// Shared memory of the cluster's blocks: an address of this block's as block `rank` has it.
__device__ __forceinline__ uint32_t MapToRank(uint32_t address, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  uint32_t result;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(result) : "r"(address), "r"(rank));
  return result;
#else
  return address;
#endif
}

// Raises a word in any block's shared memory, or by its own address in this block's alone, to at
// least `value`. It orders nothing else, and so
// waits for nothing: an arrival that releases to the cluster waits for all of the thread's stores
// to memory, and walks of a lone sequence take 190 us instead of 129 with it.
__device__ __forceinline__ void RaiseWord(uint32_t address, unsigned value, bool is_clustered) {
#if __CUDA_ARCH__ >= 900
  if (is_clustered) {
    asm volatile("red.relaxed.cluster.shared::cluster.max.u32 [%0], %1;" ::"r"(address), "r"(value)
                 : "memory");
    return;
  }
#endif
  asm volatile("red.shared.max.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

// Such a word of this block's.
__device__ __forceinline__ unsigned LoadWord(uint32_t address) {
  unsigned value;
#if __CUDA_ARCH__ >= 900
  asm volatile("ld.relaxed.cluster.shared::cta.u32 %0, [%1];"
               : "=r"(value)
               : "r"(address)
               : "memory");
#else
  asm volatile("ld.volatile.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
#endif
  return value;
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_GATE_CUH_
