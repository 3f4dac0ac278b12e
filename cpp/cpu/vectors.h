// Vectors of floats as wide as the instruction set that a file is compiled for, by the extensions
// of GCC and Clang.
//
// Only files that are compiled once for each instruction set include this one (cpu/isa.h). Every
// function is static and always inlined, so that no two sets share a copy. <immintrin.h> keeps the
// same rule.
#ifndef JAX_RNNT_CPU_VECTORS_H_
#define JAX_RNNT_CPU_VECTORS_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <utility>  // std::integer_sequence, a type

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define JAX_RNNT_INLINE static inline __attribute__((always_inline))

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kLanes = kVectorBytes / sizeof(float);
constexpr float kInfinity = static_cast<float>(HUGE_VAL);

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));

JAX_RNNT_INLINE Floats Broadcast(float x) { return x - Floats{}; }

JAX_RNNT_INLINE Floats Load(const float* x) {
  Floats result;
  memcpy(&result, x, sizeof(result));
  return result;
}

JAX_RNNT_INLINE Ints Load(const int32_t* x) {
  Ints result;
  memcpy(&result, x, sizeof(result));
  return result;
}

JAX_RNNT_INLINE void Store(float* x, Floats value) { memcpy(x, &value, sizeof(value)); }

JAX_RNNT_INLINE Ints ToBits(Floats x) {
  Ints result;
  memcpy(&result, &x, sizeof(result));
  return result;
}

JAX_RNNT_INLINE Floats FromBits(Ints x) {
  Floats result;
  memcpy(&result, &x, sizeof(result));
  return result;
}

// 0, 1, 2, ...
JAX_RNNT_INLINE Ints LaneIndices() {
  Ints result;
  for (int i = 0; i < kLanes; ++i) result[i] = i;
  return result;
}

// x[first], ..., x[last - 1] in their lanes, 0 <= first <= last <= kLanes, and `fill` in the
// others, which are not read.
JAX_RNNT_INLINE Floats LoadWindow(const float* x, int32_t first, int32_t last, float fill) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << last) - (1u << first));
  return _mm512_mask_loadu_ps(Broadcast(fill), mask, x);
#elif defined(__AVX2__)
  const Ints lane = LaneIndices();
  const Ints mask = (lane >= first) & (lane < last);
  __m256i bits;
  memcpy(&bits, &mask, sizeof(bits));
  const Floats result = _mm256_maskload_ps(x, bits);
  return mask ? result : Broadcast(fill);
#else
  Floats result = Broadcast(fill);
  for (int i = 0; i < kLanes; ++i) {
    if (i >= first && i < last) result[i] = x[i];
  }
  return result;
#endif
}

// Stores the lanes first, ..., last - 1 of `value` to x; the others are not written.
JAX_RNNT_INLINE void StoreWindow(float* x, int32_t first, int32_t last, Floats value) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << last) - (1u << first));
  _mm512_mask_storeu_ps(x, mask, value);
#elif defined(__AVX2__)
  const Ints lane = LaneIndices();
  const Ints mask = (lane >= first) & (lane < last);
  __m256i bits;
  memcpy(&bits, &mask, sizeof(bits));
  _mm256_maskstore_ps(x, bits, value);
#else
  for (int i = 0; i < kLanes; ++i) {
    if (i >= first && i < last) x[i] = value[i];
  }
#endif
}

// The first `count` floats at x, 0 <= count <= kLanes, then `fill`; nothing behind them is read.
JAX_RNNT_INLINE Floats LoadFirst(const float* x, int64_t count, float fill) {
  return LoadWindow(x, 0, static_cast<int32_t>(count), fill);
}

// The larger of two numbers; b if either is NaN.
JAX_RNNT_INLINE Floats Max(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

template <int... kLane>
JAX_RNNT_INLINE Floats ShiftUp(Floats x, Floats first, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(x, first, (kLane == 0 ? kLanes : kLane - 1)...);
}

// {first, x[0], x[1], ...}
JAX_RNNT_INLINE Floats ShiftUp(Floats x, float first) {
  return ShiftUp(x, Broadcast(first), std::make_integer_sequence<int, kLanes>());
}

template <int... kLane>
JAX_RNNT_INLINE Floats ShiftDown(Floats x, Floats last, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(x, last, (kLane + 1)...);
}

// {x[1], x[2], ..., last}
JAX_RNNT_INLINE Floats ShiftDown(Floats x, float last) {
  return ShiftDown(x, Broadcast(last), std::make_integer_sequence<int, kLanes>());
}

template <int kHalf, int... kLane>
JAX_RNNT_INLINE Floats Interleave(Floats a, Floats b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(
      a, b, (kHalf * (kLanes / 2) + kLane / 2 + (kLane % 2 == 0 ? 0 : kLanes))...);
}

// Turns kLanes rows into their columns.
JAX_RNNT_INLINE void Transpose(Floats* rows) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
    Floats next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = Interleave<0>(rows[i], rows[i + kLanes / 2], kAll);
      next[2 * i + 1] = Interleave<1>(rows[i], rows[i + kLanes / 2], kAll);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

typedef float Quad __attribute__((vector_size(16)));

#if defined(__AVX2__)
typedef float Octet __attribute__((vector_size(32)));
#endif

// Combines the quarters or halves of a vector by `combine` into one vector of four.
template <typename Combine>
JAX_RNNT_INLINE Quad Fold(Floats x, const Combine& combine) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  Octet halves[2];
  memcpy(halves, &x, sizeof(x));
  const Octet folded = combine(halves[0], halves[1]);
#else
  const Octet folded = x;
#endif
  Quad quads[2];
  memcpy(quads, &folded, sizeof(folded));
  return combine(quads[0], quads[1]);
#else
  (void)combine;
  return x;
#endif
}

JAX_RNNT_INLINE float Sum(Floats x) {
  const Quad quad = Fold(x, [](auto a, auto b) { return a + b; });
  return (quad[0] + quad[2]) + (quad[1] + quad[3]);
}

// NaN among the numbers may or may not be ignored.
JAX_RNNT_INLINE float Largest(Floats x) {
  const Quad quad = Fold(x, [](auto a, auto b) { return a > b ? a : b; });
  const float even = quad[0] > quad[2] ? quad[0] : quad[2];
  const float odd = quad[1] > quad[3] ? quad[1] : quad[3];
  return even > odd ? even : odd;
}

// exp(r) for |r| <= ln(2) / 2: the polynomial 1 + r + r^2 (...) of least relative error, 3e-9.
JAX_RNNT_INLINE Floats ExpOfFraction(Floats r) {
  Floats p = r * 1.38144669e-3f + 8.36878041e-3f;
  p = p * r + 4.16683942e-2f;
  p = p * r + 1.66665201e-1f;
  p = p * r + 0.499999934f;
  p = p * r + 1.0f;
  return p * r + 1.0f;
}

constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: x + kRounding - kRounding is whole

// x - whole * ln(2), in two parts, the first of ten bits, so that its product is exact without a
// fused multiply.
JAX_RNNT_INLINE Floats WithoutPowersOfTwo(Floats x, Floats whole) {
  return (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
}

// exp(x) for x <= 0 to about an ulp; NaN stays NaN. Below -87 the result is 0.
JAX_RNNT_INLINE Floats Exp(Floats x) {
  const Floats shifted = x * 1.44269504f + kRounding;
  const Floats whole = shifted - kRounding;
  const Floats p = ExpOfFraction(WithoutPowersOfTwo(x, whole));
#if defined(__AVX512F__)
  const __mmask16 keep = _mm512_cmp_ps_mask(x, Broadcast(-87.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(keep, p, whole);
#else
  // The low bits of `shifted` are the whole part: they go to the exponent, which cannot overflow
  // where the result is kept.
  const Floats scaled = FromBits(ToBits(p) + (ToBits(shifted) << 23));
  return x < Broadcast(-87.0f) ? Floats{} : scaled;
#endif
}

// log(x) of a normal number to about an ulp.
JAX_RNNT_INLINE Floats Log(Floats x) {
  const Ints bits = ToBits(x);
  const Ints exponent = (bits - 0x3f3504f3) >> 23;  // leaves [sqrt(1/2), sqrt(2))
  const Floats f = FromBits(bits - (exponent << 23)) - 1.0f;
  const Floats whole = __builtin_convertvector(exponent, Floats);
  // The polynomial f - f^2 / 2 + f^3 (...) of least relative error, which is 6e-9.
  Floats p = f * -7.63449776e-2f + 1.27615775e-1f;
  p = p * f + -1.31601822e-1f;
  p = p * f + 1.42017579e-1f;
  p = p * f + -1.66233574e-1f;
  p = p * f + 2.00012269e-1f;
  p = p * f + -2.50008210e-1f;
  p = p * f + 3.33333317e-1f;
  const Floats square = f * f;
  const Floats small = whole * -2.12194440e-4f + (square * (f * p) - 0.5f * square);
  return (small + f) + whole * 0.693359375f;
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_VECTORS_H_
