// Granules of 8 elements of a 16-bit type, at the end of a row or where rows are not aligned: loads
// and stores of which only the first elements belong to the row.
#ifndef JAX_RNNT_CUDA_MEMORY_PARTIAL_GRANULE_CUH_
#define JAX_RNNT_CUDA_MEMORY_PARTIAL_GRANULE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace jax_rnnt::cuda {

// The granule of 8 elements at `source`. Elements from `count` (any number) on are beyond the row:
// they are not read and become zeros.
template <bool kHasGranules, typename T>
__device__ __forceinline__ uint4 LoadGranule(const T* source, int count) {
  if constexpr (kHasGranules) {
    return count > 0 ? __ldg(reinterpret_cast<const uint4*>(source)) : make_uint4(0, 0, 0, 0);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned short* pair = reinterpret_cast<const unsigned short*>(source) + 2 * i;
      const uint32_t low = 2 * i < count ? __ldg(pair) : 0;
      const uint32_t high = 2 * i + 1 < count ? __ldg(pair + 1) : 0;
      words[i] = low | high << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// Stores the first `count` (any number) elements of a granule to `target`.
template <bool kHasGranules, typename T>
__device__ __forceinline__ void StoreGranule(T* target, int count, const uint4& granule) {
  if constexpr (kHasGranules) {
    if (count > 0) *reinterpret_cast<uint4*>(target) = granule;
  } else {
    const uint32_t words[4] = {granule.x, granule.y, granule.z, granule.w};
    unsigned short* elements = reinterpret_cast<unsigned short*>(target);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) elements[i] = static_cast<unsigned short>(words[i / 2] >> (i % 2 * 16));
    }
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_PARTIAL_GRANULE_CUH_
