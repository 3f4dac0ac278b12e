// Exponentials of float32 numbers, and of rows of logits relative to their maximum.
#ifndef JAX_RNNT_CUDA_ROWS_EXPONENTS_CUH_
#define JAX_RNNT_CUDA_ROWS_EXPONENTS_CUH_

#include <cstdint>
#include <limits>

namespace jax_rnnt::cuda {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.693147180559945309417f;

template <typename Number>
inline constexpr Number kMinusInfinity = -std::numeric_limits<Number>::infinity();

// Relative error 2^-22; 2^0 is exactly 1, 2^-inf exactly 0, and NaN stays NaN.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float Exp(float x) { return Exp2(x * kLog2E); }

// exp(x - maximum) with one fused multiply-add for the exponent:
//   exp(x - maximum) = ScaledExp(x, scaled) 2^-residual
// where `scaled` is maximum * log2(e), rounded, and `residual` is what the rounding took away. The
// exponent is then as good as that of the exact difference x - maximum, at any offset of the
// logits: 1e-3, the last place of a sum near 1e4, never enters. It takes one instruction less for
// each element than the difference and its product.
struct ScaledMaximum {
  float scaled;
  float residual;
};

__device__ __forceinline__ ScaledMaximum ScaleMaximum(float maximum) {
  const float scaled = __fmul_rn(maximum, kLog2E);
  return {scaled, fmaf(maximum, kLog2E, -scaled)};
}

__device__ __forceinline__ float ScaledExp(float x, float scaled) {
  return Exp2(fmaf(x, kLog2E, -scaled));
}

// A maximum of this magnitude or above, +inf included, is subtracted from its row beforehand and
// counts as 0. The residual, up to 2^-4 below this bound, would spoil the sum's last places and
// then overflow. Of the 16-bit types only bfloat16 gets here, where its numbers are 2^12 apart:
// differences may be rounded to it.
constexpr float kLargeMaximum = 1048576.f;  // 2^20

__device__ __forceinline__ bool IsLargeMaximum(float maximum) {
  return fabsf(maximum) >= kLargeMaximum;
}

// exp((logit - maximum) - log_sum)
__device__ __forceinline__ float Softmax(float logit, float maximum, float log_sum) {
  return Exp2(fmaf(logit - maximum, kLog2E, -log_sum * kLog2E));
}
__device__ __forceinline__ double Softmax(double logit, double maximum, double log_sum) {
  return exp((logit - maximum) - log_sum);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_EXPONENTS_CUH_
