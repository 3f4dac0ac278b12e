// Random words without state: Philox4x32 of seven rounds (Salmon, Moraes, Dror and Shaw, "Parallel
// random numbers: as easy as 1, 2, 3", 2011), the fewest that pass the authors' tests. Four words
// for each counter and key, the same on host and device.
#ifndef JAX_RNNT_CORE_PHILOX_H_
#define JAX_RNNT_CORE_PHILOX_H_

#include <cstdint>

#include "core/host_device.h"

namespace jax_rnnt {

inline constexpr int kPhiloxRounds = 7;

struct PhiloxWords {
  uint32_t words[4];
};

JAX_RNNT_HOST_DEVICE PhiloxWords Philox4x32(const PhiloxWords& counter, uint32_t key0,
                                            uint32_t key1) {
  PhiloxWords x = counter;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * x.words[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * x.words[2];
    x = {{static_cast<uint32_t>(product1 >> 32) ^ x.words[1] ^ key0,
          static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ x.words[3] ^ key1,
          static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_PHILOX_H_
