// Rows of logits as the arithmetic's type: float and double where they lie, 16-bit types through a
// buffer.
//
// Included by files that are compiled once for each instruction set alone (cpu/isa.h).
#ifndef JAX_RNNT_CPU_ROWS_READ_ROW_H_
#define JAX_RNNT_CPU_ROWS_READ_ROW_H_

#include <stdint.h>
#include <string.h>

#include "core/half.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

JAX_RNNT_INLINE float ToReal(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

JAX_RNNT_INLINE float ToReal(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  // The value is converted from the integer. A product of subnormal floats could be flushed to
  // zero, if the caller has told the CPU to.
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

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_ROWS_READ_ROW_H_
