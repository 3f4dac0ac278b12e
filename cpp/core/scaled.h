// Non-negative numbers as mantissa * 2^exponent, for products and sums over thousands of steps.
//
// A float32 logarithm of a whole prefix is good to 0.001 when it is near 10,000. Scaled numbers
// take no logarithm in any step: the mantissa keeps the 24 bits of its type at any length, and the
// exponent is a whole number kept as a float, which holds every sum of arcs that a float32
// log-probability can express.
//
// Invariants: the exponent is finite and whole. Zero is mantissa 0 with an exponent at or below
// kZeroExponent, so that the sum of zero and a number aligns to the number. A NaN lives in the
// mantissa.
#ifndef JAX_RNNT_CORE_SCALED_H_
#define JAX_RNNT_CORE_SCALED_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace jax_rnnt {

template <typename Real>
struct alignas(2 * sizeof(Real)) Scaled {
  Real mantissa;
  Real exponent;
};

// Probabilities below 2^-(1e37) count as impossible, in either type. The bound is far enough from
// the lowest float32 that kMaxUnnormalizedSteps additions of it stay finite.
template <typename Real>
inline constexpr Real kZeroExponent = Real(-1e37);

// A part of less than 2^-64 of a whole counts as none. Added to the other parts of the whole it
// would be lost in either type, and a row of logits that only such arcs leave need not be read
// again.
inline constexpr int kNegligibleBits = 64;

// The most steps between two calls of Normalize. Each step multiplies a mantissa by an arc's, in
// (2^-1, 2^0.5], and a sum at most doubles it: the mantissa then stays within 2^-16 and 2^24 of
// where it was.
inline constexpr int kMaxUnnormalizedSteps = 16;

// The layout of a floating-point type, for exact powers of two by integer shifts.
template <typename Real>
struct FloatBits;
template <>
struct FloatBits<float> {
  using Word = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kRoundingConstant = 12582912.0f;  // 1.5 * 2^23: x + c rounds x to whole
  static constexpr float kLargestRounded = 4194304.0f;     // 2^22: for |x| below it
};
template <>
struct FloatBits<double> {
  using Word = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kRoundingConstant = 6755399441055744.0;
  static constexpr double kLargestRounded = 2251799813685248.0;
};

template <typename Real>
JAX_RNNT_HOST_DEVICE typename FloatBits<Real>::Word ToBits(Real x) {
  typename FloatBits<Real>::Word bits;
  memcpy(&bits, &x, sizeof(x));
  return bits;
}

template <typename Real>
JAX_RNNT_HOST_DEVICE Real FromBits(typename FloatBits<Real>::Word bits) {
  Real x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// a * b and a * b + c. On a device Product rounds the product and MultiplyAdd does not: were the
// choice left to the compiler, the same sum could differ in its last bit between two kernels.
#if defined(__CUDA_ARCH__)
JAX_RNNT_HOST_DEVICE float Product(float a, float b) { return __fmul_rn(a, b); }
JAX_RNNT_HOST_DEVICE double Product(double a, double b) { return __dmul_rn(a, b); }
JAX_RNNT_HOST_DEVICE float MultiplyAdd(float a, float b, float c) { return fmaf(a, b, c); }
JAX_RNNT_HOST_DEVICE double MultiplyAdd(double a, double b, double c) { return fma(a, b, c); }
#else
template <typename Real>
JAX_RNNT_HOST_DEVICE Real Product(Real a, Real b) {
  return a * b;
}
template <typename Real>
JAX_RNNT_HOST_DEVICE Real MultiplyAdd(Real a, Real b, Real c) {
  return a * b + c;
}
#endif

// log2(e) as kernels on a device take it. In float, where one number must do, it is too small by
// 1.3e-8 of itself, a third of what the rounding of a log-probability costs. This error shortens
// all arcs alike, and NegativeLog takes it back.
template <typename Real>
inline constexpr Real kDeviceLog2E = Real(1.4426950408889634);
template <>
inline constexpr float kDeviceLog2E<float> = 1.44269502162933349609375f;

// log_prob * log2(e) as a whole number, where its magnitude is below kLargestRounded. On a device
// the product is rounded up, by one instruction that rounds product and sum at once; on the host it
// is rounded to the nearest.
#if defined(__CUDA_ARCH__)
JAX_RNNT_HOST_DEVICE float WholeLog2(float log_prob) {
  constexpr float kRound = FloatBits<float>::kRoundingConstant;
  return __fmaf_ru(log_prob, kDeviceLog2E<float>, kRound) - kRound;
}
JAX_RNNT_HOST_DEVICE double WholeLog2(double log_prob) {
  constexpr double kRound = FloatBits<double>::kRoundingConstant;
  return __fma_ru(log_prob, kDeviceLog2E<double>, kRound) - kRound;
}
#else
template <typename Real>
JAX_RNNT_HOST_DEVICE Real WholeLog2(Real log_prob) {
  constexpr Real kRound = FloatBits<Real>::kRoundingConstant;
  return (Product(log_prob, Real(1.4426950408889634)) + kRound) - kRound;
}
#endif

// exp(log_prob) / 2^whole, where whole is WholeLog2(log_prob): in (2^-1, 1] on a device, in
// [2^-0.5, 2^0.5] on the host. ex2.approx has a bias that depends on where its argument lies, so
// that kernels which multiply the same arcs must take it in the same interval: with (-1, 0] in one
// kernel and [-0.5, 0.5] in another, a posterior drifts by 1.3e-8 for each frame from where the
// walks meet, on an H100.
JAX_RNNT_HOST_DEVICE float SplitMantissa(float log_prob, float whole) {
#if defined(__CUDA_ARCH__)
  const float fraction = fmaf(log_prob, kDeviceLog2E<float>, -whole);
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(fraction));
  return result;
#else
  // ln(2) in two parts, the first of ten bits, so that its product is exact without a fused
  // multiply.
  const float x = (log_prob - whole * 0.693359375f) - whole * -2.12194440e-4f;
  // Taylor's coefficients 1 / k!: the first one left out is 5e-9 at the ends of the interval.
  float p = 1.98412698e-4f;
  p = p * x + 1.38888889e-3f;
  p = p * x + 8.33333333e-3f;
  p = p * x + 4.16666667e-2f;
  p = p * x + 1.66666667e-1f;
  p = p * x + 0.5f;
  p = p * x + 1.0f;
  return p * x + 1.0f;
#endif
}
JAX_RNNT_HOST_DEVICE double SplitMantissa(double log_prob, double whole) {
  const double high = MultiplyAdd(whole, -0.693145751953125, log_prob);
  return exp(MultiplyAdd(whole, -1.42860682030941723e-6, high));
}

// exp(log_prob), its mantissa as SplitMantissa returns it. -inf becomes zero; NaN and +inf become
// NaN.
template <typename Real>
JAX_RNNT_HOST_DEVICE Scaled<Real> Split(Real log_prob) {
  using Bits = FloatBits<Real>;
  const Real log2_prob = Product(log_prob, Real(1.4426950408889634));
  const Real rounded = WholeLog2(log_prob);
  // Beyond the reach of the rounding constant a number becomes whole when its lowest bit is
  // cleared, and the log-probability itself carries a relative error of one bit.
  const bool far = log2_prob <= -Bits::kLargestRounded;
  const bool zero = log2_prob < kZeroExponent<Real>;
  const Real whole = FromBits<Real>(ToBits(log2_prob) & ~typename Bits::Word{1});
  const Real near_mantissa = SplitMantissa(log_prob, rounded);
  const Real far_mantissa = zero ? Real(0) : Real(1);
  const Real exponent = far ? whole : rounded;
  return {far ? far_mantissa : near_mantissa,
          exponent > kZeroExponent<Real> ? exponent : kZeroExponent<Real>};
}

template <typename Real>
JAX_RNNT_HOST_DEVICE Scaled<Real> Multiply(Scaled<Real> a, Scaled<Real> b) {
  return {Product(a.mantissa, b.mantissa), a.exponent + b.exponent};
}

// 2^x for whole x <= 0, no smaller than the type's smallest normal number.
template <typename Real>
JAX_RNNT_HOST_DEVICE Real PowerOfTwoUpToOne(Real x) {
  using Bits = FloatBits<Real>;
  const Real lowest = Real(1 - Bits::kBias);
  const Real clamped = x > lowest ? x : lowest;
  // The sum's low bits are the biased exponent; the shift drops the rest.
  const auto bits = ToBits(clamped + (Bits::kRoundingConstant + Real(Bits::kBias)));
  return FromBits<Real>(bits << Bits::kMantissaBits);
}

template <typename Real>
JAX_RNNT_HOST_DEVICE Scaled<Real> Add(Scaled<Real> a, Scaled<Real> b) {
  const Real difference = a.exponent - b.exponent;
  const bool a_leads = difference >= 0;
  const Real leading = a_leads ? a.mantissa : b.mantissa;
  const Real trailing = a_leads ? b.mantissa : a.mantissa;
  const Real scale = PowerOfTwoUpToOne(a_leads ? -difference : difference);
  return {MultiplyAdd(trailing, scale, leading), a_leads ? a.exponent : b.exponent};
}

// The same number with its mantissa in [1, 2), or zero with kZeroExponent.
template <typename Real>
JAX_RNNT_HOST_DEVICE Scaled<Real> Normalize(Scaled<Real> a) {
  using Bits = FloatBits<Real>;
  constexpr auto kExponentMask =
      ((typename Bits::Word{1} << (8 * sizeof(Real) - 1 - Bits::kMantissaBits)) - 1);
  const int shift = static_cast<int>(ToBits(a.mantissa) >> Bits::kMantissaBits & kExponentMask);
  const bool zero = a.mantissa == 0;
  // NaN has the largest exponent, whose reciprocal power is still a number: NaN stays NaN.
  const auto reciprocal = static_cast<typename Bits::Word>(2 * Bits::kBias - shift)
                          << Bits::kMantissaBits;
  return {zero ? Real(0) : a.mantissa * FromBits<Real>(reciprocal),
          zero ? kZeroExponent<Real> : a.exponent + Real(shift - Bits::kBias)};
}

// The share a / b of a part a in a whole b. It stays in [0, 1] whatever rounding did to the
// exponents, which in float are exact up to 2^24, a cost of 1e7 nats. It is 0 where a or b is zero,
// where the part is negligible (to within the mantissas) and where the whole is NaN.
template <typename Real>
JAX_RNNT_HOST_DEVICE Real Share(Scaled<Real> a, Scaled<Real> b) {
  if (a.mantissa == 0 || !(b.mantissa > 0)) return 0;
  const Real difference = a.exponent - b.exponent;
  // The mantissas need not be normalised, so the exponents may differ in either direction.
  const bool above = difference > 0;
  const Real power = PowerOfTwoUpToOne(above ? -difference : difference);
  const Real quotient = a.mantissa / b.mantissa;
  const Real share = above ? quotient / power : quotient * power;
  const bool negligible = difference < Real(-kNegligibleBits);
  return negligible ? Real(0) : share > Real(1) ? Real(1) : share;
}

// -log of the number in nats; +inf for zero.
template <typename Real>
JAX_RNNT_HOST_DEVICE double NegativeLog(Scaled<Real> a) {
#if defined(__CUDA_ARCH__)
  constexpr double kLn2 = 1 / static_cast<double>(kDeviceLog2E<Real>);
#else
  constexpr double kLn2 = 0.69314718055994530942;
#endif
  if (a.mantissa == 0) return HUGE_VAL;
  const double mantissa_log = log(static_cast<double>(a.mantissa));
  return -MultiplyAdd(kLn2, static_cast<double>(a.exponent), mantissa_log);
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_SCALED_H_
