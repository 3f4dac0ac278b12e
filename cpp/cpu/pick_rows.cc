// Pick over a range of rows, on one thread (the formulas are in cpu/pick.h).
//
// A row is read as the arithmetic's type first: float and double where they lie, 16-bit types
// through a buffer that stays in the cache. Then it is three loops over vectors: maximum, sum of
// exponentials, softmax. The end of a row is the vector of its last elements, which overlaps the
// one before: free of branches for the maximum and for storing, masked for the sum.
//
// Compiled once for each instruction set (cpu/isa.h), with the vectors of GCC and Clang.
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/row_label.h"
#include "cpu/isa.h"

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

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));

#define JAX_RNNT_INLINE static inline __attribute__((always_inline))

// ---- Types of logits
// ------------------------------------------------------------------------------

JAX_RNNT_INLINE float ToReal(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

JAX_RNNT_INLINE float ToReal(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  // By value and not by multiplying subnormal floats, which the caller may have told the CPU to
  // flush.
  const float subnormal = static_cast<float>(magnitude) * 5.9604645e-8f;  // 2^-24
  uint32_t subnormal_bits;
  memcpy(&subnormal_bits, &subnormal, sizeof(subnormal_bits));
  const uint32_t rebias = magnitude >= 0x7c00u ? 224u << 23 : 112u << 23;  // inf and NaN: to 255
  const uint32_t bits = (magnitude < 0x0400u ? subnormal_bits : (magnitude << 13) + rebias) | sign;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

JAX_RNNT_INLINE void FromReal(float x, BFloat16* result) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;  // to nearest, ties to even
  result->bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

JAX_RNNT_INLINE void FromReal(float x, Float16* result) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Adding 0.5 aligns a subnormal's last bit with the float's last bit, rounding it on the way.
  float aligned;
  memcpy(&aligned, &magnitude, sizeof(aligned));
  aligned += 0.5f;
  uint32_t aligned_bits;
  memcpy(&aligned_bits, &aligned, sizeof(aligned_bits));
  const uint32_t subnormal = aligned_bits - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t value = magnitude >= 0x47800000u  ? special
                         : magnitude < 0x38800000u ? subnormal
                                                   : normal;
  result->bits = static_cast<uint16_t>(value | sign);
}

JAX_RNNT_INLINE const float* ReadRow(const float* row, int64_t, float*) { return row; }
JAX_RNNT_INLINE const double* ReadRow(const double* row, int64_t, double*) { return row; }
template <typename T>
JAX_RNNT_INLINE const float* ReadRow(const T* row, int64_t V, float* buffer) {
  for (int64_t v = 0; v < V; ++v) buffer[v] = ToReal(row[v]);
  return buffer;
}

JAX_RNNT_INLINE float* RowToWrite(float* row, float*) { return row; }
JAX_RNNT_INLINE double* RowToWrite(double* row, double*) { return row; }
template <typename T>
JAX_RNNT_INLINE float* RowToWrite(T*, float* buffer) {
  return buffer;
}

JAX_RNNT_INLINE void WriteRow(const float*, int64_t, float*) {}
JAX_RNNT_INLINE void WriteRow(const double*, int64_t, double*) {}
template <typename T>
JAX_RNNT_INLINE void WriteRow(const float* buffer, int64_t V, T* row) {
  for (int64_t v = 0; v < V; ++v) FromReal(buffer[v], row + v);
}

// ---- Vectors
// --------------------------------------------------------------------------------------

JAX_RNNT_INLINE Floats Load(const float* x) {
  Floats result;
  memcpy(&result, x, sizeof(result));
  return result;
}

JAX_RNNT_INLINE void Store(float* x, Floats value) { memcpy(x, &value, sizeof(value)); }

// The first `count` floats at x, then `fill`.
JAX_RNNT_INLINE Floats LoadFirst(const float* x, int64_t count, float fill) {
  Floats result;
  for (int i = 0; i < kLanes; ++i) result[i] = i < count ? x[i] : fill;
  return result;
}

JAX_RNNT_INLINE Floats Max(Floats a, Floats b) { return a > b ? a : b; }

// exp(x) for x <= 0 to about an ulp; NaN stays NaN. Below -87 the result is 0.
JAX_RNNT_INLINE Floats Exp(Floats x) {
  const Floats lowest = Floats{} - 87.0f;
  const Floats clamped = x < lowest ? lowest : x;
  const Floats shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to whole
  const Floats whole = shifted - 12582912.0f;
  const Floats r = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Floats p = r * 1.98412698e-4f + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  Ints bits;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + 0x3f800000;  // the low bits of `shifted` are the whole part
  Floats power;
  memcpy(&power, &bits, sizeof(power));
  return x < lowest ? Floats{} : p * power;
}

// The last vector of a row of V >= kLanes floats, zero in the lanes that earlier vectors had.
JAX_RNNT_INLINE Floats KeepTail(Floats last, int64_t V) {
  Floats result;
  const int64_t seen = kLanes - V % kLanes;
  for (int i = 0; i < kLanes; ++i) result[i] = i >= seen ? last[i] : 0.0f;
  return result;
}

JAX_RNNT_INLINE float RowMax(const float* x, int64_t V) {
  const Floats lowest = Floats{} - static_cast<float>(HUGE_VAL);
  Floats most[4] = {lowest, lowest, lowest, lowest};
  int64_t v = 0;
  for (; v + 4 * kLanes <= V; v += 4 * kLanes) {
    for (int i = 0; i < 4; ++i) most[i] = Max(most[i], Load(x + v + i * kLanes));
  }
  for (; v + kLanes <= V; v += kLanes) most[0] = Max(most[0], Load(x + v));
  if (v < V) {
    const Floats tail = V >= kLanes ? Load(x + V - kLanes) : LoadFirst(x, V, lowest[0]);
    most[1] = Max(most[1], tail);
  }
  const Floats all = Max(Max(most[0], most[1]), Max(most[2], most[3]));
  float result = all[0];
  for (int i = 1; i < kLanes; ++i) result = all[i] > result ? all[i] : result;
  return result;
}

JAX_RNNT_INLINE float SumExp(const float* x, int64_t V, float maximum) {
  Floats sums[4] = {};
  int64_t v = 0;
  for (; v + 4 * kLanes <= V; v += 4 * kLanes) {
    for (int i = 0; i < 4; ++i) sums[i] += Exp(Load(x + v + i * kLanes) - maximum);
  }
  for (; v + kLanes <= V; v += kLanes) sums[0] += Exp(Load(x + v) - maximum);
  if (v < V) {
    sums[1] += V >= kLanes ? KeepTail(Exp(Load(x + V - kLanes) - maximum), V)
                           : Exp(LoadFirst(x, V, -static_cast<float>(HUGE_VAL)) - maximum);
  }
  const Floats all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float result = 0;
  for (int i = 0; i < kLanes; ++i) result += all[i];
  return result;
}

// result_v = scale * exp((x_v - maximum) - log_sum); result may be x.
JAX_RNNT_INLINE void ScaledSoftmax(const float* x, int64_t V, float maximum, float log_sum,
                                   float scale, float* result) {
  if (V < kLanes) {
    const Floats row = scale * Exp((LoadFirst(x, V, 0.0f) - maximum) - log_sum);
    for (int64_t v = 0; v < V; ++v) result[v] = row[v];
    return;
  }
  const Floats last = Load(x + V - kLanes);  // before the loop may write over it
  int64_t v = 0;
  for (; v + kLanes <= V; v += kLanes) {
    Store(result + v, scale * Exp((Load(x + v) - maximum) - log_sum));
  }
  if (v < V) Store(result + V - kLanes, scale * Exp((last - maximum) - log_sum));
}

JAX_RNNT_INLINE double RowMax(const double* x, int64_t V) {
  double result = -HUGE_VAL;
  for (int64_t v = 0; v < V; ++v) result = x[v] > result ? x[v] : result;
  return result;
}

JAX_RNNT_INLINE double SumExp(const double* x, int64_t V, double maximum) {
  double result = 0;
  for (int64_t v = 0; v < V; ++v) result += exp(x[v] - maximum);
  return result;
}

JAX_RNNT_INLINE void ScaledSoftmax(const double* x, int64_t V, double maximum, double log_sum,
                                   double scale, double* result) {
  for (int64_t v = 0; v < V; ++v) result[v] = scale * exp((x[v] - maximum) - log_sum);
}

JAX_RNNT_INLINE float Log(float x) { return logf(x); }
JAX_RNNT_INLINE double Log(double x) { return log(x); }

JAX_RNNT_INLINE bool IsPadding(int32_t label, int64_t V) { return label < kNoLabel || label >= V; }

}  // namespace

template <typename T, typename Real>
void PickForwardRows(int64_t begin, int64_t end, int64_t V, int64_t blank, const T* logits,
                     const int32_t* labels, Real* blank_log_probs, Real* label_log_probs,
                     Real* maxima, Real* log_sums, Real* buffer) {
  constexpr Real kMinusInfinity = -static_cast<Real>(HUGE_VAL);
  for (int64_t r = begin; r < end; ++r) {
    const int32_t label = labels[r];
    blank_log_probs[r] = label_log_probs[r] = kMinusInfinity;
    maxima[r] = log_sums[r] = 0;
    if (IsPadding(label, V)) continue;
    const Real* x = ReadRow(logits + r * V, V, buffer);
    const Real maximum = RowMax(x, V);
    // A row whose numbers are all NaN has no maximum either, but a sum.
    const Real reference = maximum == kMinusInfinity ? 0 : maximum;
    const Real sum = SumExp(x, V, reference);
    const Real log_sum = sum == 0 ? -kMinusInfinity : Log(sum);
    maxima[r] = reference;
    log_sums[r] = log_sum;
    blank_log_probs[r] = (x[blank] - reference) - log_sum;
    if (label != kNoLabel) label_log_probs[r] = (x[label] - reference) - log_sum;
  }
}

template <typename T, typename Real>
void PickBackwardRows(int64_t begin, int64_t end, int64_t V, int64_t blank, const T* logits,
                      const int32_t* labels, const Real* maxima, const Real* log_sums,
                      const Real* blank_cotangents, const Real* label_cotangents,
                      T* logits_cotangents, Real* buffer) {
  for (int64_t r = begin; r < end; ++r) {
    const int32_t label = labels[r];
    const Real from_blank = blank_cotangents[r];
    const Real from_label = label == kNoLabel ? 0 : label_cotangents[r];
    T* out = logits_cotangents + r * V;
    const bool usable = !IsPadding(label, V) && log_sums[r] < static_cast<Real>(HUGE_VAL);
    if (!usable || (from_blank == 0 && from_label == 0)) {
      memset(out, 0, V * sizeof(T));
      continue;
    }
    const Real* x = ReadRow(logits + r * V, V, buffer);
    Real* row = RowToWrite(out, buffer);
    ScaledSoftmax(x, V, maxima[r], log_sums[r], -(from_blank + from_label), row);
    row[blank] += from_blank;
    if (label != kNoLabel) row[label] += from_label;
    WriteRow(row, V, out);
  }
}

#define JAX_RNNT_INSTANTIATE(T, Real)                                                          \
  template void PickForwardRows(int64_t, int64_t, int64_t, int64_t, const T*, const int32_t*,  \
                                Real*, Real*, Real*, Real*, Real*);                            \
  template void PickBackwardRows(int64_t, int64_t, int64_t, int64_t, const T*, const int32_t*, \
                                 const Real*, const Real*, const Real*, const Real*, T*, Real*);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE
