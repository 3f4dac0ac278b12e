// What the kernels that reduce rows of logits share: a row's running maximum and sum, over the
// lanes that hold its parts, and what is written of it (cuda/rows/pick.h has the equations).
#ifndef JAX_RNNT_CUDA_ROWS_ROW_SUMS_CUH_
#define JAX_RNNT_CUDA_ROWS_ROW_SUMS_CUH_

#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"

namespace jax_rnnt::cuda {

template <typename Acc>
struct RowResults {
  Acc* blank_log_probs;
  Acc* label_log_probs;
  Acc* maxima;
  Acc* log_sums;
};

template <typename Acc>
__device__ __forceinline__ void StorePaddingRow(const RowResults<Acc>& results, int64_t row) {
  results.blank_log_probs[row] = kMinusInfinity<Acc>;
  results.label_log_probs[row] = kMinusInfinity<Acc>;
  results.maxima[row] = 0;
  results.log_sums[row] = 0;
}

// `sum` is relative to reference + log_scale, reference being ExponentReference(maximum).
template <typename Acc>
__device__ __forceinline__ void StoreRow(const RowResults<Acc>& results, int64_t row, Acc reference,
                                         Acc sum, Acc log_scale, Acc blank_logit, Acc label_logit,
                                         int32_t label) {
  // +inf marks a row of nothing but -inf, and makes both log-probabilities -inf.
  const Acc log_sum = sum == 0 ? -kMinusInfinity<Acc> : log(sum) + log_scale;
  results.blank_log_probs[row] = (blank_logit - reference) - log_sum;
  results.label_log_probs[row] =
      label == kNoLabel ? kMinusInfinity<Acc> : (label_logit - reference) - log_sum;
  results.maxima[row] = reference;
  results.log_sums[row] = log_sum;
}

template <typename Acc>
__device__ __forceinline__ Acc ExponentReference(Acc maximum) {
  return maximum == kMinusInfinity<Acc> ? 0 : maximum;
}

// What ScaledExp of a row's elements takes, 0 where its large maximum has been subtracted.
__device__ __forceinline__ ScaledMaximum ScaleForSum(float reference) {
  return ScaleMaximum(IsLargeMaximum(reference) ? 0.f : reference);
}

// Part of a row: sum_v exp(x_v - ExponentReference(maximum)) over it.
struct PartialRow {
  float maximum = kMinusInfinity<float>;
  float sum = 0.f;
};

// What the sum is multiplied with as the maximum rises. The sum below a maximum of -inf is 0 or,
// which must last, NaN.
__device__ __forceinline__ float RescaleFactor(float maximum, float new_maximum) {
  return maximum == kMinusInfinity<float> ? 1.f : Exp(maximum - new_maximum);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ROW_SUMS_CUH_
