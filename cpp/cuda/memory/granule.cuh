// How elements lie in words of 4 bytes and in granules of 16, the widest access of one thread, and
// how maxima of them are taken. double has neither words nor granules: kernels take it element by
// element.
#ifndef JAX_RNNT_CUDA_MEMORY_GRANULE_CUH_
#define JAX_RNNT_CUDA_MEMORY_GRANULE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace jax_rnnt::cuda {

constexpr int kGranuleBytes = 16;

__device__ __forceinline__ float ToAccumulator(float x) { return x; }
__device__ __forceinline__ float ToAccumulator(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float ToAccumulator(__half x) { return __half2float(x); }
__device__ __forceinline__ double ToAccumulator(double x) { return x; }

__device__ __forceinline__ void FromAccumulator(float x, float* y) { *y = x; }
__device__ __forceinline__ void FromAccumulator(float x, __nv_bfloat16* y) {
  *y = __float2bfloat16_rn(x);
}
__device__ __forceinline__ void FromAccumulator(float x, __half* y) { *y = __float2half_rn(x); }
__device__ __forceinline__ void FromAccumulator(double x, double* y) { *y = x; }

// A word of 4 bytes: one float or a pair of 16-bit elements, the first in the low half.
//   Maximum    a running maximum, in the form that is cheapest to update. 16-bit pairs stay packed,
//              which halves the instructions for it: bfloat16 V = 1024 forward went from 79 % to 99
//              % of the copy bandwidth (H100 80GB, 2026-11). Maxima drop NaN; sums of exponentials
//              keep it.
//   Subtract   takes a number that the type holds from each element, rounded to the type.
template <typename T>
struct Word;

template <>
struct Word<float> {
  static constexpr int kElements = 1;
  static constexpr uint32_t kMinusInfinities = 0xff800000u;
  using Maximum = float;

  static __device__ __forceinline__ Maximum ToMaximum(uint32_t word) {
    return __uint_as_float(word);
  }
  static __device__ __forceinline__ Maximum Max(Maximum a, Maximum b) { return fmaxf(a, b); }
  static __device__ __forceinline__ float Reduce(Maximum a) { return a; }
  static __device__ __forceinline__ uint32_t Subtract(uint32_t word, float x) {
    return __float_as_uint(__uint_as_float(word) - x);
  }
  static __device__ __forceinline__ void Unpack(uint32_t word, float* values) {
    values[0] = __uint_as_float(word);
  }
  static __device__ __forceinline__ uint32_t Pack(const float* values) {
    return __float_as_uint(values[0]);
  }
};

template <>
struct Word<__nv_bfloat16> {
  static constexpr int kElements = 2;
  static constexpr uint32_t kMinusInfinities = 0xff80ff80u;
  using Maximum = __nv_bfloat162;

  static __device__ __forceinline__ Maximum ToMaximum(uint32_t word) {
    return *reinterpret_cast<const Maximum*>(&word);
  }
  static __device__ __forceinline__ Maximum Max(Maximum a, Maximum b) { return __hmax2(a, b); }
  static __device__ __forceinline__ float Reduce(Maximum a) {
    return fmaxf(__low2float(a), __high2float(a));
  }
  static __device__ __forceinline__ uint32_t Subtract(uint32_t word, float x) {
    const Maximum difference = __hsub2(ToMaximum(word), __float2bfloat162_rn(x));
    return *reinterpret_cast<const uint32_t*>(&difference);
  }
  static __device__ __forceinline__ void Unpack(uint32_t word, float* values) {
    values[0] = __uint_as_float(word << 16);
    values[1] = __uint_as_float(word & 0xffff0000u);
  }
  static __device__ __forceinline__ uint32_t Pack(const float* values) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[0], values[1]);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
};

template <>
struct Word<__half> {
  static constexpr int kElements = 2;
  static constexpr uint32_t kMinusInfinities = 0xfc00fc00u;
  using Maximum = __half2;

  static __device__ __forceinline__ Maximum ToMaximum(uint32_t word) {
    return *reinterpret_cast<const Maximum*>(&word);
  }
  static __device__ __forceinline__ Maximum Max(Maximum a, Maximum b) { return __hmax2(a, b); }
  static __device__ __forceinline__ float Reduce(Maximum a) {
    return fmaxf(__low2float(a), __high2float(a));
  }
  static __device__ __forceinline__ uint32_t Subtract(uint32_t word, float x) {
    const Maximum difference = __hsub2(ToMaximum(word), __float2half2_rn(x));
    return *reinterpret_cast<const uint32_t*>(&difference);
  }
  static __device__ __forceinline__ void Unpack(uint32_t word, float* values) {
    const float2 pair = __half22float2(ToMaximum(word));
    values[0] = pair.x;
    values[1] = pair.y;
  }
  static __device__ __forceinline__ uint32_t Pack(const float* values) {
    const __half2 pair = __floats2half2_rn(values[0], values[1]);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
};

// The word with -inf in place of each element that is not to be kept. A float is the low element;
// it has no high one.
template <typename T>
__device__ __forceinline__ uint32_t MaskWord(uint32_t word, bool keep_low, bool keep_high) {
  if constexpr (Word<T>::kElements == 1) {
    return keep_low ? word : Word<T>::kMinusInfinities;
  } else {
    const uint32_t mask = (keep_low ? 0x0000ffffu : 0u) | (keep_high ? 0xffff0000u : 0u);
    return (word & mask) | (Word<T>::kMinusInfinities & ~mask);
  }
}

// A granule of 16 bytes: four words.
template <typename T>
struct Granule {
  using W = Word<T>;
  using Maximum = typename W::Maximum;
  static constexpr int kElements = 4 * W::kElements;

  static __device__ __forceinline__ uint4 MinusInfinities() {
    constexpr uint32_t kWord = W::kMinusInfinities;
    return make_uint4(kWord, kWord, kWord, kWord);
  }
  static __device__ __forceinline__ Maximum LowestMaximum() {
    return W::ToMaximum(W::kMinusInfinities);
  }
  static __device__ __forceinline__ Maximum Max(Maximum running, const uint4& granule) {
    const Maximum low = W::Max(W::ToMaximum(granule.x), W::ToMaximum(granule.y));
    const Maximum high = W::Max(W::ToMaximum(granule.z), W::ToMaximum(granule.w));
    return W::Max(W::Max(running, low), high);
  }
  static __device__ __forceinline__ float Reduce(Maximum a) { return W::Reduce(a); }
  static __device__ __forceinline__ void Unpack(const uint4& granule, float* values) {
    W::Unpack(granule.x, values);
    W::Unpack(granule.y, values + W::kElements);
    W::Unpack(granule.z, values + 2 * W::kElements);
    W::Unpack(granule.w, values + 3 * W::kElements);
  }
  static __device__ __forceinline__ uint4 Pack(const float* values) {
    return make_uint4(W::Pack(values), W::Pack(values + W::kElements),
                      W::Pack(values + 2 * W::kElements), W::Pack(values + 3 * W::kElements));
  }
  static __device__ __forceinline__ uint4 Subtract(const uint4& granule, float x) {
    return make_uint4(W::Subtract(granule.x, x), W::Subtract(granule.y, x),
                      W::Subtract(granule.z, x), W::Subtract(granule.w, x));
  }
  // -inf in place of every element j whose column + j, modulo 2^32, is not below V.
  static __device__ __forceinline__ uint4 MaskColumns(const uint4& granule, uint32_t column,
                                                      uint32_t V) {
    return make_uint4(MaskWordColumns(granule.x, column, V),
                      MaskWordColumns(granule.y, column + W::kElements, V),
                      MaskWordColumns(granule.z, column + 2 * W::kElements, V),
                      MaskWordColumns(granule.w, column + 3 * W::kElements, V));
  }
  // -inf in place of one element.
  static __device__ __forceinline__ uint4 MaskElement(const uint4& granule, uint32_t element) {
    return make_uint4(MaskWordElement(granule.x, element),
                      MaskWordElement(granule.y, element - W::kElements),
                      MaskWordElement(granule.z, element - 2 * W::kElements),
                      MaskWordElement(granule.w, element - 3 * W::kElements));
  }

 private:
  static __device__ __forceinline__ uint32_t MaskWordColumns(uint32_t word, uint32_t column,
                                                             uint32_t V) {
    return MaskWord<T>(word, column < V, column + 1 < V);
  }
  static __device__ __forceinline__ uint32_t MaskWordElement(uint32_t word, uint32_t element) {
    return MaskWord<T>(word, element != 0, element != 1);
  }
};

inline bool IsGranuleAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kGranuleBytes == 0;
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_GRANULE_CUH_
