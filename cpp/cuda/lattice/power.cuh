// Powers of two and sums as the walks and the posteriors on a device take them.
#ifndef JAX_RNNT_CUDA_LATTICE_POWER_CUH_
#define JAX_RNNT_CUDA_LATTICE_POWER_CUH_

#include <cmath>
#include <cstdint>

#include "core/scaled.h"

namespace jax_rnnt::cuda {

__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ double Exp2(double x) { return exp2(x); }

__device__ __forceinline__ float RoundUpMultiplyAdd(float a, float b, float c) {
  return __fmaf_ru(a, b, c);
}
__device__ __forceinline__ double RoundUpMultiplyAdd(double a, double b, double c) {
  return __fma_ru(a, b, c);
}

// Brings the mantissa of a number into [1, 2); zero stays zero with a lower exponent. The bits of
// the exponent become a number by being those of a larger one.
__device__ __forceinline__ void NormalizeNear(float* mantissa, float* exponent) {
  const uint32_t field = __float_as_uint(*mantissa) & 0x7f800000u;
  *mantissa *= __uint_as_float(0x7f000000u - field);
  *exponent += __uint_as_float(0x4b000000u | field >> 23) - (8388608.0f + 127.0f);
}
__device__ __forceinline__ void NormalizeNear(double* mantissa, double* exponent) {
  const uint64_t field = ToBits(*mantissa) & 0x7ff0000000000000u;
  *mantissa *= FromBits<double>(0x7fe0000000000000u - field);
  *exponent += FromBits<double>(0x4330000000000000u | field >> 52) - (4503599627370496.0 + 1023.0);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_POWER_CUH_
