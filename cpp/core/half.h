// The bits of bfloat16 and float16 numbers, for compilers that have no such types.
#ifndef JAX_RNNT_CORE_HALF_H_
#define JAX_RNNT_CORE_HALF_H_

#include <cstdint>

namespace jax_rnnt {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_HALF_H_
