// Matrix products of a warp: D (16, 8) += A (16, 16) B (16, 8), with 16-bit A and B and float32 D
// in registers. Needs compute capability 8.0 and no instruction that is newer.
#ifndef JAX_RNNT_CUDA_JOINT_MMA_MMA_CUH_
#define JAX_RNNT_CUDA_JOINT_MMA_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace jax_rnnt::cuda {

// Loads A from shared memory. `address` is that of 16 bytes of row lane % 16 of A, the first half
// of the row for lanes below 16, the second half for the others.
__device__ __forceinline__ void LoadMatrix(uint32_t address, uint32_t (&a)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address));
}

// b0 and b1 are two neighbours of B's column lane / 4, from row 2 (lane % 4) and 8 rows below. d[2
// i
// + e] is row 8 i + lane / 4, column 2 (lane % 4) + e of D.
template <typename T>
__device__ __forceinline__ void Multiply(float* d, const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_MMA_MMA_CUH_
