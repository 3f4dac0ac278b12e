// Vectors of doubles as wide as the instruction set that a file is compiled for, beside the vectors
// of floats of cpu/vectors.h, under the same rules.
#ifndef JAX_RNNT_CPU_SCORE_VECTORS_H_
#define JAX_RNNT_CPU_SCORE_VECTORS_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <utility>  // std::integer_sequence, a type

#include "cpu/vectors.h"

#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

constexpr int kScores = kVectorBytes / sizeof(double);
static_assert(kScores <= 8);

typedef double Scores __attribute__((vector_size(kVectorBytes)));

JAX_RNNT_INLINE Scores BroadcastScore(double x) { return x - Scores{}; }

JAX_RNNT_INLINE Scores LoadScores(const double* x) {
  Scores result;
  memcpy(&result, x, sizeof(result));
  return result;
}

template <int... kLane>
JAX_RNNT_INLINE Scores ShiftUp(Scores x, Scores before, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(before, x, (kScores - 1 + kLane)...);
}

// {last lane of before, x[0], x[1], ...}
JAX_RNNT_INLINE Scores ShiftUp(Scores x, Scores before) {
  return ShiftUp(x, before, std::make_integer_sequence<int, kScores>());
}

// The larger of two numbers, a if either is NaN.
JAX_RNNT_INLINE Scores Larger(Scores a, Scores b) {
#if defined(__AVX512F__)
  return _mm512_max_pd(b, a);
#elif defined(__AVX2__)
  return _mm256_max_pd(b, a);
#elif defined(__SSE2__)
  return _mm_max_pd(b, a);
#else
  return b > a ? b : a;
#endif
}

// Bit i says whether b is greater than a in lane i.
JAX_RNNT_INLINE uint32_t WhereGreater(Scores a, Scores b) {
#if defined(__AVX512F__)
  return _mm512_cmp_pd_mask(b, a, _CMP_GT_OQ);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(b, a, _CMP_GT_OQ)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_pd(_mm_cmpgt_pd(b, a)));
#else
  const auto greater = b > a;
  uint32_t bits = 0;
  for (int i = 0; i < kScores; ++i) bits |= static_cast<uint32_t>(greater[i] & 1) << i;
  return bits;
#endif
}

template <int kHalf, int... kLane>
JAX_RNNT_INLINE Scores Interleave(Scores a, Scores b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(
      a, b, (kHalf * (kScores / 2) + kLane / 2 + (kLane % 2 == 0 ? 0 : kScores))...);
}

// Turns kScores rows into their columns.
JAX_RNNT_INLINE void Transpose(Scores* rows) {
  constexpr auto kAll = std::make_integer_sequence<int, kScores>();
#pragma GCC unroll 3
  for (int stage = 1; stage < kScores; stage *= 2) {
    Scores next[kScores];
#pragma GCC unroll 4
    for (int i = 0; i < kScores / 2; ++i) {
      next[2 * i] = Interleave<0>(rows[i], rows[i + kScores / 2], kAll);
      next[2 * i + 1] = Interleave<1>(rows[i], rows[i + kScores / 2], kAll);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kScores; ++i) rows[i] = next[i];
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_SCORE_VECTORS_H_
