// What the kernels of a joint network take in, as pointers into device memory.
#ifndef JAX_RNNT_CUDA_JOINT_INPUTS_H_
#define JAX_RNNT_CUDA_JOINT_INPUTS_H_

#include <cstdint>

namespace jax_rnnt::cuda {

// Dropout of the activations. Unit h of cell (n, t, u) has a 16-bit number: of the four words that
// Philox4x32 (core/philox.h) makes of the counter (h / 8, u, t, sequences[n]) and the key `seed`,
// the low (even h) or high (odd h) half of word h % 8 / 2. The unit is 0 where its number is below
// the threshold, and multiplied by 65536 / (65536 - threshold) elsewhere. A mask is thus a function
// of the seed and of where its unit is, the same in every kernel, shard and tile.
struct JointDropout {
  uint32_t threshold = 0;              // below 65536; 0 drops nothing, and the arrays are not read
  const int32_t* sequences = nullptr;  // (N), the number of each sequence among all
  const uint32_t* seed = nullptr;      // (2)
};

template <typename T>
struct JointInputs {
  const T* encoder;       // (N / K, T, H): sequence n's is n / K
  const T* predictor;     // (N, U, H)
  const int32_t* labels;  // (N, U)
  const int32_t* frames;  // (N)
  JointDropout dropout;
};

// The kernel and bias as JointPack wrote them.
struct JointPacked {
  const void* kernel;
  const float* bias;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_INPUTS_H_
