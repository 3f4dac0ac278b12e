// Which of a few neighbouring units of one cell dropout keeps (cuda/joint/inputs.h says what it
// is).
#ifndef JAX_RNNT_CUDA_JOINT_DROPOUT_CUH_
#define JAX_RNNT_CUDA_JOINT_DROPOUT_CUH_

#include <cstdint>

#include "core/philox.h"
#include "cuda/joint/inputs.h"

namespace jax_rnnt::cuda {

constexpr uint32_t kDropoutNumbers = 65536;

// JointDropout as kernels take it.
struct DropoutArguments {
  uint32_t threshold;
  float scale;
  const int32_t* sequences;
  const uint32_t* seed;
};

inline bool IsValid(const JointDropout& dropout) { return dropout.threshold < kDropoutNumbers; }

inline DropoutArguments MakeDropoutArguments(const JointDropout& dropout) {
  return {
      dropout.threshold,
      static_cast<float>(kDropoutNumbers) / static_cast<float>(kDropoutNumbers - dropout.threshold),
      dropout.sequences, dropout.seed};
}

// The dropout of one sequence's cells. If it is not on, nothing is read, and KeptUnits means
// nothing.
template <bool kIsOn>
class Dropout {
 public:
  __device__ __forceinline__ Dropout(const DropoutArguments& arguments, int32_t n) {
    if constexpr (kIsOn) {
      scale_ = arguments.scale;
      threshold_ = arguments.threshold << 16;
      sequence_ = __ldg(arguments.sequences + n);
      key0_ = __ldg(arguments.seed);
      key1_ = __ldg(arguments.seed + 1);
    }
  }

  // What kept units are multiplied by.
  __device__ __forceinline__ float Scale() const { return scale_; }

  // Which of the units h to h + kCount - 1 of cell (t, u) are kept, h being a multiple of kCount: 4
  // or 8.
  template <int kCount>
  __device__ __forceinline__ void KeptUnits(int32_t h, int32_t t, int32_t u,
                                            bool (&is_kept)[kCount]) const {
    static_assert(kCount == 4 || kCount == 8);
    const PhiloxWords random =
        Philox4x32({{static_cast<uint32_t>(h) / 8, static_cast<uint32_t>(u),
                     static_cast<uint32_t>(t), static_cast<uint32_t>(sequence_)}},
                   key0_, key1_);
#pragma unroll
    for (int j = 0; j < kCount; j += 2) {
      const bool is_upper = kCount == 4 && (h & 4) != 0;
      const uint32_t word = is_upper ? random.words[2 + j / 2] : random.words[j / 2];
      is_kept[j] = word << 16 >= threshold_;
      is_kept[j + 1] = word >= threshold_;
    }
  }

 private:
  float scale_ = 1.f;
  uint32_t threshold_ = 0;  // in the high half
  int32_t sequence_ = 0;
  uint32_t key0_ = 0;
  uint32_t key1_ = 0;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_DROPOUT_CUH_
