// What is added to a row of logits when it is read: nothing, or a bias of W numbers.
//
//   kIsThere         whether there is a bias
//   Add              the sum of a logit and the bias of its column
//   With             a row as an array of sums
//   AddToGranules    adds to what was loaded of a batch of granules: first, first + kLanes, ... of
//                    a row that starts `skipped` elements after the first of its granules. Those in
//                    [begin, end) were loaded; the row has V elements.
#ifndef JAX_RNNT_CUDA_ROWS_BIAS_CUH_
#define JAX_RNNT_CUDA_ROWS_BIAS_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/entries.h"
#include "cuda/memory/divide.cuh"
#include "cuda/memory/granule.cuh"

namespace jax_rnnt::cuda {

struct NoBias {
  static constexpr bool kIsThere = false;

  template <typename Real>
  __device__ __forceinline__ Real Add(Real logit, uint32_t) const {
    return logit;
  }
  template <typename T>
  __device__ __forceinline__ const T* With(const T* logits) const {
    return logits;
  }
  template <int kLanes, int kBatch>
  __device__ __forceinline__ void AddToGranules(uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
                                                uint4 (&)[kBatch]) const {}
};

template <typename Real>
struct BiasedRow {
  __device__ __forceinline__ Real operator[](uint32_t column) const {
    return logits[column] + __ldg(bias + column);
  }

  const Real* logits;
  const Real* bias;
};

// The bias of one row.
template <typename Real>
struct RowBias {
  static constexpr bool kIsThere = true;

  __device__ __forceinline__ Real Add(Real logit, uint32_t column) const {
    return logit + __ldg(values + column);
  }
  __device__ __forceinline__ BiasedRow<Real> With(const Real* logits) const {
    return {logits, values};
  }
  template <int kLanes, int kBatch>
  __device__ __forceinline__ void AddToGranules(uint32_t first, uint32_t skipped, uint32_t begin,
                                                uint32_t end, uint32_t V,
                                                uint4 (&batch)[kBatch]) const {
    using G = Granule<float>;
    constexpr uint32_t kElements = G::kElements;
    const bool is_aligned =
        skipped == 0 && reinterpret_cast<uintptr_t>(values) % kGranuleBytes == 0;
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const uint32_t index = first + k * kLanes;
      if (index < begin || index >= end) continue;
      const uint32_t column = index * kElements - skipped;  // modulo 2^32
      float added[kElements] = {0.f, 0.f, 0.f, 0.f};
      if (is_aligned && column + kElements <= V) {
        G::Unpack(__ldg(reinterpret_cast<const uint4*>(values) + index), added);
      } else {
#pragma unroll
        for (uint32_t j = 0; j < kElements; ++j) {
          if (column + j < V) added[j] = __ldg(values + (column + j));
        }
      }
      float logits[kElements];
      G::Unpack(batch[k], logits);
#pragma unroll
      for (uint32_t j = 0; j < kElements; ++j) logits[j] += added[j];
      batch[k] = G::Pack(logits);
    }
  }

  const Real* values;
};

// Biases of rows as kernels take them.
template <typename Real>
class DeviceRowBiases {
 public:
  using Bias = RowBias<Real>;

  DeviceRowBiases(const RowBiases<Real>& biases, int32_t width)
      : values_(biases.values),
        width_(width),
        rows_(static_cast<uint32_t>(std::max<int64_t>(biases.rows, 1))) {}

  __device__ __forceinline__ Bias Of(int64_t row) const {
    uint32_t rest;
    return {values_ + rows_.Divide64(static_cast<uint64_t>(row), &rest) * width_};
  }

 private:
  const Real* values_;
  int32_t width_;
  Divider rows_;
};

struct NoBiases {
  using Bias = NoBias;

  __device__ __forceinline__ Bias Of(int64_t) const { return {}; }
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_BIAS_CUH_
