// JAX_RNNT_HOST_DEVICE marks a function that host and device share.
#ifndef JAX_RNNT_CORE_HOST_DEVICE_H_
#define JAX_RNNT_CORE_HOST_DEVICE_H_

#if defined(__CUDACC__)
#define JAX_RNNT_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always inlined: files compiled for different instruction sets must not share one copy.
#define JAX_RNNT_HOST_DEVICE inline __attribute__((always_inline))
#endif

#endif  // JAX_RNNT_CORE_HOST_DEVICE_H_
