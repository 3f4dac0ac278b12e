// A row of logits while it is reduced, and what is stored of it: a running maximum and sum, in
// parts that lanes hold (cuda/rows/pick.h and entries.h have the equations).
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

// Stores a row whose exponentials sum to sum * exp(reference + log_scale), where reference is
// ExponentReference(maximum).
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

// Stores the sum of a row's core alone, given as StoreRow takes it: log_sum is -inf where nothing
// of the core is above -inf, and the maximum 0 where the sum is NaN.
template <typename Acc>
__device__ __forceinline__ void StoreSum(Acc* maxima, Acc* log_sums, int64_t row, Acc reference,
                                         Acc sum, Acc log_scale) {
  const Acc log_sum = log(sum) + log_scale;
  maxima[row] = isnan(log_sum) ? 0 : reference;
  log_sums[row] = log_sum;
}

// The number that exponents are relative to: the maximum, or 0 where all is -inf.
template <typename Acc>
__device__ __forceinline__ Acc ExponentReference(Acc maximum) {
  return maximum == kMinusInfinity<Acc> ? 0 : maximum;
}

// The `scaled` that ScaledExp takes for a row's elements, and its residual: of the reference, or of
// 0 where the reference is large and has been subtracted from the elements.
__device__ __forceinline__ ScaledMaximum ScaleForSum(float reference) {
  return ScaleMaximum(IsLargeMaximum(reference) ? 0.f : reference);
}

// A part of a row: its maximum, and sum_v exp(x_v - ExponentReference(maximum)) over it.
struct PartialRow {
  float maximum = kMinusInfinity<float>;
  float sum = 0.f;
};

// The factor of a sum when its maximum rises. The sum below a maximum of -inf is 0 or NaN, and NaN
// must last.
__device__ __forceinline__ float RescaleFactor(float maximum, float new_maximum) {
  return maximum == kMinusInfinity<float> ? 1.f : Exp(maximum - new_maximum);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ROW_SUMS_CUH_
