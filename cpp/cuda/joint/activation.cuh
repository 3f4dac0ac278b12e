// Activations of the joint network in float32, and their derivatives, for a few elements of one row
// at a time. All activations map 0 to a finite number. A NaN among the elements gives NaN for
// itself, and perhaps for others of the row.
//
// tanh, silu, gelu and sigmoid come down to 1 / (1 + 2^z). Two elements share one reciprocal, as
// ex2 and rcp run at an eighth of the rate of other instructions: 1 / a = b / (a b). The error of
// the quotient is within 4e-7 of the quotient.
#ifndef JAX_RNNT_CUDA_JOINT_ACTIVATION_CUH_
#define JAX_RNNT_CUDA_JOINT_ACTIVATION_CUH_

#include <type_traits>

#include "cuda/joint/shape.h"
#include "cuda/rows/exponents.cuh"

namespace jax_rnnt::cuda {

// The smaller and the larger of two numbers; unlike fminf and fmaxf, NaN if either is NaN.
__device__ __forceinline__ float MinOrNan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float c;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
#else
  return b < a || b != b ? b : a;
#endif
}
__device__ __forceinline__ float MaxOrNan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
#else
  return b > a || b != b ? b : a;
#endif
}

__device__ __forceinline__ float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Up to this z, the product of two 1 + 2^z is a normal number, and so is its reciprocal.
constexpr float kLargestExponent = 60.f;

// Replaces z0 and z1, each at most kLargestExponent, by 1 / (1 + 2^z).
__device__ __forceinline__ void SigmoidPair(float* z0, float* z1) {
  const float a = 1.f + Exp2(*z0);
  const float b = 1.f + Exp2(*z1);
  const float reciprocal = Reciprocal(__fmul_rn(a, b));
  *z0 = __fmul_rn(reciprocal, b);
  *z1 = __fmul_rn(reciprocal, a);
}

// tanh x = 1 - 2 / (1 + e^2x). Below this |x|, where that loses its relative accuracy, tanh is
// three terms of its series: the next one is 2e-7 of the result at the end of the interval.
constexpr float kSmallTanh = 0.125f;

// tanh x from sigmoid = 1 / (1 + e^2x).
__device__ __forceinline__ float FinishTanh(float x, float sigmoid) {
  const float square = __fmul_rn(x, x);
  const float series = fmaf(__fmul_rn(square, x), fmaf(square, 0.133333333f, -0.333333333f), x);
  const float quotient = fmaf(sigmoid, -2.f, 1.f);
  return fabsf(x) < kSmallTanh ? series : quotient;
}

// Replaces each x by activation(x).
template <Activation kActivation, int kCount>
__device__ __forceinline__ void Activate(float (&x)[kCount]) {
  static_assert(kCount % 2 == 0);
  if constexpr (kActivation == Activation::kRelu) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = MaxOrNan(x[i], 0.f);
  } else if constexpr (kActivation == Activation::kTanh) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      float a = MinOrNan(__fmul_rn(x[i], 2 * kLog2E), kLargestExponent);
      float b = MinOrNan(__fmul_rn(x[i + 1], 2 * kLog2E), kLargestExponent);
      SigmoidPair(&a, &b);
      x[i] = FinishTanh(x[i], a);
      x[i + 1] = FinishTanh(x[i + 1], b);
    }
  } else if constexpr (kActivation == Activation::kSilu) {
    // Below -40 the result is 0 to within 2e-16; where x is clamped, so is the exponent.
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      x[i] = MaxOrNan(x[i], -40.f);
      x[i + 1] = MaxOrNan(x[i + 1], -40.f);
      float a = __fmul_rn(x[i], -kLog2E);
      float b = __fmul_rn(x[i + 1], -kLog2E);
      SigmoidPair(&a, &b);
      x[i] = __fmul_rn(x[i], a);
      x[i + 1] = __fmul_rn(x[i + 1], b);
    }
  } else if constexpr (kActivation == Activation::kGelu) {
    // (x / 2) (1 + tanh y) = x / (1 + e^-2y) with y = sqrt(2 / pi) (x + 0.044715 x^3). Below -7 the
    // result is 0 to within 3e-15.
    constexpr float kLinear = -2 * kLog2E * 0.797884560802865f;
    constexpr float kCubic = kLinear * 0.044715f;
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      x[i] = MaxOrNan(x[i], -7.f);
      x[i + 1] = MaxOrNan(x[i + 1], -7.f);
      float a = __fmul_rn(x[i], fmaf(__fmul_rn(x[i], x[i]), kCubic, kLinear));
      float b = __fmul_rn(x[i + 1], fmaf(__fmul_rn(x[i + 1], x[i + 1]), kCubic, kLinear));
      SigmoidPair(&a, &b);
      x[i] = __fmul_rn(x[i], a);
      x[i + 1] = __fmul_rn(x[i + 1], b);
    }
  } else if constexpr (kActivation == Activation::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      x[i] = MinOrNan(__fmul_rn(x[i], -kLog2E), kLargestExponent);
      x[i + 1] = MinOrNan(__fmul_rn(x[i + 1], -kLog2E), kLargestExponent);
      SigmoidPair(&x[i], &x[i + 1]);
    }
  }
}

// s + w s (1 - s), where s = sigmoid(y) and y has the sign of x. `small` is sigmoid(-|y|), from
// which neither s nor 1 - s is a difference of near numbers.
__device__ __forceinline__ float SigmoidSlope(float x, float w, float small) {
  const float large = 1.f - small;
  return x >= 0.f ? __fmul_rn(large, fmaf(w, small, 1.f)) : __fmul_rn(small, fmaf(w, large, 1.f));
}

// Replaces each x by activation'(x), with an absolute error within 1e-6. relu' is 0 at 0 and at
// NaN; the others but none' keep NaN.
template <Activation kActivation, int kCount>
__device__ __forceinline__ void Differentiate(float (&x)[kCount]) {
  static_assert(kCount % 2 == 0);
  if constexpr (kActivation == Activation::kNone) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = 1.f;
  } else if constexpr (kActivation == Activation::kRelu) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = x[i] > 0.f ? 1.f : 0.f;
  } else if constexpr (kActivation == Activation::kTanh) {
    // 1 - tanh^2 x = 4 s (1 - s) with s = sigmoid(-2 |x|), which is at most 1 / 2.
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      float a = MinOrNan(__fmul_rn(fabsf(x[i]), 2 * kLog2E), kLargestExponent);
      float b = MinOrNan(__fmul_rn(fabsf(x[i + 1]), 2 * kLog2E), kLargestExponent);
      SigmoidPair(&a, &b);
      x[i] = __fmul_rn(4.f * a, 1.f - a);
      x[i + 1] = __fmul_rn(4.f * b, 1.f - b);
    }
  } else if constexpr (kActivation == Activation::kSigmoid) {
    // s (1 - s) with s = sigmoid(-|x|), which is at most 1 / 2.
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      float a = MinOrNan(__fmul_rn(fabsf(x[i]), kLog2E), kLargestExponent);
      float b = MinOrNan(__fmul_rn(fabsf(x[i + 1]), kLog2E), kLargestExponent);
      SigmoidPair(&a, &b);
      x[i] = __fmul_rn(a, 1.f - a);
      x[i + 1] = __fmul_rn(b, 1.f - b);
    }
  } else if constexpr (kActivation == Activation::kSilu) {
    // Beyond 40 the derivative is 0 or 1 to within 2e-16.
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const float x0 = MinOrNan(fabsf(x[i]), 40.f);
      const float x1 = MinOrNan(fabsf(x[i + 1]), 40.f);
      float a = __fmul_rn(x0, kLog2E);
      float b = __fmul_rn(x1, kLog2E);
      SigmoidPair(&a, &b);
      x[i] = SigmoidSlope(x[i], copysignf(x0, x[i]), a);
      x[i + 1] = SigmoidSlope(x[i + 1], copysignf(x1, x[i + 1]), b);
    }
  } else if constexpr (kActivation == Activation::kGelu) {
    // gelu is x sigmoid(2 y) as in Activate: w = x 2 y'. Beyond 7 the derivative is 0 or 1 to
    // within 1e-13.
    constexpr float kLinear = 2 * 0.797884560802865f;
    constexpr float kCubic = kLinear * 0.044715f;
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const float x0 = MinOrNan(fabsf(x[i]), 7.f);
      const float x1 = MinOrNan(fabsf(x[i + 1]), 7.f);
      const float square0 = __fmul_rn(x0, x0);
      const float square1 = __fmul_rn(x1, x1);
      float a = __fmul_rn(x0, fmaf(square0, kLog2E * kCubic, kLog2E * kLinear));
      float b = __fmul_rn(x1, fmaf(square1, kLog2E * kCubic, kLog2E * kLinear));
      SigmoidPair(&a, &b);
      const float w0 = __fmul_rn(x0, fmaf(square0, 3 * kCubic, kLinear));
      const float w1 = __fmul_rn(x1, fmaf(square1, 3 * kCubic, kLinear));
      x[i] = SigmoidSlope(x[i], copysignf(w0, x[i]), a);
      x[i + 1] = SigmoidSlope(x[i + 1], copysignf(w1, x[i + 1]), b);
    }
  }
}

// Calls body(std::integral_constant<Activation, activation>()), which must return nothing.
template <typename Body>
__device__ __forceinline__ void DispatchActivation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kNone:
      return body(std::integral_constant<Activation, Activation::kNone>());
    case Activation::kTanh:
      return body(std::integral_constant<Activation, Activation::kTanh>());
    case Activation::kRelu:
      return body(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kSilu:
      return body(std::integral_constant<Activation, Activation::kSilu>());
    case Activation::kGelu:
      return body(std::integral_constant<Activation, Activation::kGelu>());
    case Activation::kSigmoid:
      return body(std::integral_constant<Activation, Activation::kSigmoid>());
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_ACTIVATION_CUH_
