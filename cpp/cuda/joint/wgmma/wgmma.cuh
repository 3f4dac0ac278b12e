// Matrix products of a warpgroup (sm_90a): D (64, n) += A (64, 16) B (16, n), where n is 256 or 32,
// with 16-bit A and B in shared memory and float32 D in registers. A product runs beside the
// threads that started it.
//
// Both operands lie "K-major" in shared memory: a line of kSwizzleBytes for each row of A or column
// of B, with consecutive k. The 16-byte chunks of each line are permuted so that the same chunk of
// eight lines takes all banks (cuda/memory/swizzle.cuh). Lines of 128 bytes start at multiples of
// 1024 bytes by eights, lines of 64 bytes at multiples of 512.
#ifndef JAX_RNNT_CUDA_JOINT_WGMMA_WGMMA_CUH_
#define JAX_RNNT_CUDA_JOINT_WGMMA_WGMMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/joint/plan.h"
#include "cuda/memory/bulk_copy.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "This file is for compute capability 9.0 alone: compile it for sm_90a."
#endif

namespace jax_rnnt::cuda {

constexpr int kWarpgroupThreads = 128;
constexpr int kWgmmaRows = kGroupCells;
constexpr int kWgmmaColumns = kChunkWidth;
constexpr int kWgmmaDepth = 16;

// The accumulators of a thread, for n = 256: d[4 j + 2 i + e] is row 16 warp + 8 i + lane / 4,
// column 8 j + 2 (lane % 4) + e.
constexpr int kWgmmaAccumulators = kWgmmaRows * kWgmmaColumns / kWarpgroupThreads;
// For n = 32 they are laid out alike.
constexpr int kNarrowAccumulators = kWgmmaRows * kNarrowColumns / kWarpgroupThreads;

// The start of an operand's lines, as the low 32 bits of its descriptor; the operands of one kind
// differ in nothing else. Adding kWgmmaDepthStep moves the start by kWgmmaDepth along the lines,
// adding 1 moves it by 16 bytes of memory.
__device__ __forceinline__ uint32_t WgmmaStart(const void* lines) {
  // The distance between chunks is without meaning where lines are swizzled.
  constexpr uint32_t kUnused = 1;
  return kUnused << 16 | (SharedAddress(lines) & 0x3ffff) >> 4;
}
constexpr uint32_t kWgmmaDepthStep = kWgmmaDepth * 2 / 16;

// The descriptor of an operand, which Wgmma takes.
template <int kSwizzleBytes>
__device__ __forceinline__ uint64_t WgmmaDescriptor(uint32_t start) {
  static_assert(kSwizzleBytes == 128 || kSwizzleBytes == 64);
  constexpr uint64_t kSwizzle = kSwizzleBytes == 128 ? 1 : 2;
  constexpr uint64_t kEightLines = 8 * kSwizzleBytes / 16;
  return kSwizzle << 62 | kEightLines << 32 | start;
}

// Orders this thread's writes to accumulators before the products that follow.
__device__ __forceinline__ void FenceWgmma() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// The products since the last call become one group.
__device__ __forceinline__ void CommitWgmma() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending groups are unfinished.
template <int kPending>
__device__ __forceinline__ void WaitForWgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of the accumulators across this point.
template <int kAccumulators>
__device__ __forceinline__ void PinAccumulators(float (&d)[kAccumulators]) {
#pragma unroll
  for (int i = 0; i < kAccumulators; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The product for a type of A and B and for n = 256, "bf16" or "f16". It is a macro because the
// instruction's text, which has the type in it, must be a literal, and names the 128 accumulators
// one by one.
// clang-format off
#define JAX_RNNT_WGMMA(type) \
  asm volatile( \
      "{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " " \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, " \
      "%128, %129, add, 1, 1, 0, 0;\n}" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), \
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), \
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), \
        "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), \
        "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), \
        "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), \
        "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), \
        "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), \
        "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), \
        "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), \
        "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), \
        "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), \
        "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), \
        "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), \
        "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), \
        "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), \
        "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), \
        "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), \
        "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), \
        "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), \
        "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), \
        "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), \
        "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127]) \
      : "l"(a), "l"(b))

#define JAX_RNNT_NARROW_WGMMA(type) \
  asm volatile( \
      "{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " " \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, " \
      "%16, %17, add, 1, 1, 0, 0;\n}" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), \
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), \
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]) \
      : "l"(a), "l"(b))
// clang-format on

// The accumulators must not be touched until WaitForWgmma has waited for the product's group.
template <typename T>
__device__ __forceinline__ void Wgmma(float (&d)[kWgmmaAccumulators], uint64_t a, uint64_t b) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    JAX_RNNT_WGMMA("bf16");
  } else {
    JAX_RNNT_WGMMA("f16");
  }
}
template <typename T>
__device__ __forceinline__ void Wgmma(float (&d)[kNarrowAccumulators], uint64_t a, uint64_t b) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    JAX_RNNT_NARROW_WGMMA("bf16");
  } else {
    JAX_RNNT_NARROW_WGMMA("f16");
  }
}
#undef JAX_RNNT_WGMMA
#undef JAX_RNNT_NARROW_WGMMA

// A barrier of the threads of one warpgroup, of two at most: what each of them has written before
// becomes visible to the others.
__device__ __forceinline__ void SyncWarpgroup(int warpgroup) {
  // Barrier 0 is that of __syncthreads. With the number in a register all 16 barriers would count
  // as used.
  if (warpgroup == 0) {
    asm volatile("bar.sync 1, %0;" ::"n"(kWarpgroupThreads) : "memory");
  } else {
    asm volatile("bar.sync 2, %0;" ::"n"(kWarpgroupThreads) : "memory");
  }
}

// Give registers of the multiprocessor back, and take them, until each thread of the warpgroup has
// kRegisters. Every warp of the warpgroup must call.
template <int kRegisters>
__device__ __forceinline__ void ReleaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_WGMMA_WGMMA_CUH_
