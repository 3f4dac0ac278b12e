// bfloat16 and float16 as they lie in memory, on machines whose compiler has no such types.
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
