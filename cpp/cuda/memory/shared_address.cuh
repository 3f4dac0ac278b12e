// Shared memory by its 32-bit addresses. A kernel that holds such an address in a register loads
// and stores by one instruction; the compiler makes a pointer's address anew at every use, where a
// block belongs to a cluster from a special register that takes some 50 cycles to read.
#ifndef JAX_RNNT_CUDA_MEMORY_SHARED_ADDRESS_CUH_
#define JAX_RNNT_CUDA_MEMORY_SHARED_ADDRESS_CUH_

#include <cstdint>

namespace jax_rnnt::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// An address that stays in a register.
__device__ __forceinline__ uint32_t KeptSharedAddress(const void* pointer) {
  uint32_t address = SharedAddress(pointer);
  asm volatile("mov.b32 %0, %0;" : "+r"(address));
  return address;
}

__device__ __forceinline__ float LoadShared(uint32_t address, float) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
__device__ __forceinline__ double LoadShared(uint32_t address, double) {
  double value;
  asm volatile("ld.shared.f64 %0, [%1];" : "=d"(value) : "r"(address) : "memory");
  return value;
}
template <typename Real>
__device__ __forceinline__ Real LoadShared(uint32_t address) {
  return LoadShared(address, Real());
}

__device__ __forceinline__ void StoreShared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ __forceinline__ void StoreShared(uint32_t address, double value) {
  asm volatile("st.shared.f64 [%0], %1;" ::"r"(address), "d"(value) : "memory");
}

// Two neighbours at once.
__device__ __forceinline__ void LoadSharedPair(uint32_t address, float* first, float* second) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(*first), "=f"(*second)
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void LoadSharedPair(uint32_t address, double* first, double* second) {
  asm volatile("ld.shared.v2.f64 {%0, %1}, [%2];"
               : "=d"(*first), "=d"(*second)
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void StoreSharedPair(uint32_t address, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second)
               : "memory");
}
__device__ __forceinline__ void StoreSharedPair(uint32_t address, double first, double second) {
  asm volatile("st.shared.v2.f64 [%0], {%1, %2};" ::"r"(address), "d"(first), "d"(second)
               : "memory");
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_SHARED_ADDRESS_CUH_
