// Scaled numbers of core/scaled.h on vectors of floats, one number a lane, and which lanes of a
// vector are columns of a row.
//
// Included by files that are compiled once for each instruction set alone (cpu/isa.h).
#ifndef JAX_RNNT_CPU_LATTICE_SCALED_VECTORS_H_
#define JAX_RNNT_CPU_LATTICE_SCALED_VECTORS_H_

#include <stdint.h>

#include "core/scaled.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

struct Numbers {
  Floats mantissa;
  Floats exponent;
};

constexpr float kZeroLog = -1e37f;
static_assert(kZeroLog == kZeroExponent<float>);

JAX_RNNT_INLINE Numbers Zeros() { return {Floats{}, Broadcast(kZeroLog)}; }

// Split, Multiply, Add and Normalize of core/scaled.h on vectors.
JAX_RNNT_INLINE Numbers SplitVector(Floats log_prob) {
  const Floats log2_prob = log_prob * 1.44269504f;
  const Floats rounded = (log2_prob + kRounding) - kRounding;
  const Floats near_mantissa = ExpOfFraction(WithoutPowersOfTwo(log_prob, rounded));
  const Ints far = log2_prob <= Broadcast(-4194304.0f);
  const Floats far_mantissa = log2_prob < Broadcast(kZeroLog) ? Floats{} : Broadcast(1.0f);
  const Floats exponent = far ? FromBits(ToBits(log2_prob) & ~1) : rounded;
  return {far ? far_mantissa : near_mantissa, Max(exponent, Broadcast(kZeroLog))};
}

JAX_RNNT_INLINE Numbers Multiply(Numbers a, Numbers b) {
  return {a.mantissa * b.mantissa, a.exponent + b.exponent};
}

// 2^x for whole x in [-126, 127].
JAX_RNNT_INLINE Floats PowerOfTwo(Floats x) {
  return FromBits(ToBits(x + (kRounding + 127.0f)) << 23);
}

JAX_RNNT_INLINE Numbers Add(Numbers a, Numbers b) {
  const Floats difference = a.exponent - b.exponent;
  const Ints a_leads = difference >= Floats{};
  const Floats leading = a_leads ? a.mantissa : b.mantissa;
  const Floats trailing = a_leads ? b.mantissa : a.mantissa;
  const Floats distance = FromBits(ToBits(difference) | INT32_MIN);  // -|difference|
  return {trailing * PowerOfTwo(Max(distance, Broadcast(-126.0f))) + leading,
          a_leads ? a.exponent : b.exponent};
}

JAX_RNNT_INLINE Numbers Normalize(Numbers a) {
  const Ints shift = ToBits(a.mantissa) >> 23 & 0xff;
  const Ints zero = a.mantissa == Floats{};
  const Floats reciprocal = FromBits((254 - shift) << 23);
  const Floats exponent = a.exponent + __builtin_convertvector(shift - 127, Floats);
  return {a.mantissa * reciprocal, zero ? Broadcast(kZeroLog) : exponent};
}

// -cotangent * part / total, the share in [0, 1] as Share of core/scaled.h gives it.
JAX_RNNT_INLINE Floats ArcCotangents(Numbers part, float reciprocal, float exponent,
                                     float cotangent) {
  const Floats difference = part.exponent - exponent;
  const Floats within = Max(-Max(-difference, Broadcast(-126.0f)), Broadcast(-126.0f));
  const Floats quotient = part.mantissa * reciprocal;
  const Floats product = quotient * PowerOfTwo(within);
  const Floats share = product > 1.0f ? Broadcast(1.0f) : product;
  const Ints none = (difference < Broadcast(-126.0f)) | (product == Floats{});
  return none ? Floats{} : 0.0f - share * cotangent;
}

// The columns [first, last) of a row, as lanes of the vector whose lane 0 is column `begin`.
struct Window {
  int32_t first;
  int32_t last;
};

JAX_RNNT_INLINE Window MakeWindow(int64_t begin, int64_t first, int64_t last) {
  auto lane = [begin](int64_t column) {
    const int64_t x = column - begin;
    return static_cast<int32_t>(x < 0 ? 0 : x > kLanes ? kLanes : x);
  };
  return {lane(first), lane(last)};
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_SCALED_VECTORS_H_
