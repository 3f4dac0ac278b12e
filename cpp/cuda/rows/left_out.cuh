// Columns of a row that its sum leaves out.
#ifndef JAX_RNNT_CUDA_ROWS_LEFT_OUT_CUH_
#define JAX_RNNT_CUDA_ROWS_LEFT_OUT_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/memory/granule.cuh"

namespace jax_rnnt::cuda {

// Mask puts -inf in place of what is left out of a batch of granules: first, first + kLanes, ... of
// a row that starts `skipped` elements after the first of its granules.

struct NothingLeftOut {
  __device__ __forceinline__ bool Has(uint32_t) const { return false; }

  template <typename T, int kLanes, int kBatch>
  __device__ __forceinline__ void Mask(uint32_t, uint32_t, uint4 (&)[kBatch]) const {}
};

struct LeftOutColumns {
  // No column: beyond every row, and still so with `skipped` elements before it.
  static constexpr uint32_t kNone = UINT32_MAX - kGranuleBytes;

  __device__ __forceinline__ bool Has(uint32_t column) const {
    return column == columns[0] || column == columns[1];
  }

  template <typename T, int kLanes, int kBatch>
  __device__ __forceinline__ void Mask(uint32_t first, uint32_t skipped,
                                       uint4 (&batch)[kBatch]) const {
    constexpr uint32_t kElements = Granule<T>::kElements;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t element = skipped + columns[i];
      const uint32_t distance = element / kElements - first;
      if (distance < kLanes * kBatch) {
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          if (distance == k * kLanes) {
            batch[k] = Granule<T>::MaskElement(batch[k], element % kElements);
          }
        }
      }
    }
  }

  uint32_t columns[2];
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_LEFT_OUT_CUH_
