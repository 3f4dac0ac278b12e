// Division of indices by a number that is known when a kernel is launched: a multiplication by the
// reciprocal and one correction instead of the division of tens of instructions.
#ifndef JAX_RNNT_CUDA_MEMORY_DIVIDE_CUH_
#define JAX_RNNT_CUDA_MEMORY_DIVIDE_CUH_

#include <cstdint>

namespace jax_rnnt::cuda {

// Exact for every 32-bit (64-bit) dividend and every divisor >= 1: with w bits and
// reciprocal = floor((2^w - 1) / divisor) >= 2^w / divisor - 1, the high word of dividend *
// reciprocal is the quotient or one less, as dividend / 2^w < 1.
class Divider {
 public:
  explicit Divider(uint32_t divisor)
      : divisor_(divisor),
        reciprocal32_(UINT32_MAX / divisor),
        reciprocal64_(UINT64_MAX / divisor) {}

  __device__ __forceinline__ uint32_t divisor() const { return divisor_; }

  __device__ __forceinline__ uint32_t Divide(uint32_t dividend, uint32_t* remainder) const {
    uint32_t quotient = __umulhi(dividend, reciprocal32_);
    *remainder = dividend - quotient * divisor_;
    if (*remainder >= divisor_) {
      ++quotient;
      *remainder -= divisor_;
    }
    return quotient;
  }

  __device__ __forceinline__ uint32_t Divide(uint32_t dividend) const {
    uint32_t remainder;
    return Divide(dividend, &remainder);
  }

  __device__ __forceinline__ uint64_t Divide64(uint64_t dividend, uint32_t* remainder) const {
    uint64_t quotient = __umul64hi(dividend, reciprocal64_);
    uint64_t rest = dividend - quotient * divisor_;
    if (rest >= divisor_) {
      ++quotient;
      rest -= divisor_;
    }
    *remainder = static_cast<uint32_t>(rest);
    return quotient;
  }

 private:
  uint32_t divisor_;
  uint32_t reciprocal32_;
  uint64_t reciprocal64_;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_MEMORY_DIVIDE_CUH_
