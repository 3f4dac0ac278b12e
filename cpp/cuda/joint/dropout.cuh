// Dropout of a few neighbouring units of one cell (cuda/joint/inputs.h says what it is).
#ifndef JAX_RNNT_CUDA_JOINT_DROPOUT_CUH_
#define JAX_RNNT_CUDA_JOINT_DROPOUT_CUH_

#include <cstdint>

#include "core/philox.h"
#include "cuda/joint/inputs.h"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {

constexpr uint32_t kDropoutNumbers = 65536;

// JointDropout as kernels take it.
struct DropoutArguments {
  uint32_t threshold;  // in the high half
  float scale;
  const int32_t* sequences;
  const uint32_t* seed;
};

inline bool IsValid(const JointDropout& dropout) { return dropout.threshold < kDropoutNumbers; }

inline DropoutArguments MakeDropoutArguments(const JointDropout& dropout) {
  return {dropout.threshold << 16,
          static_cast<float>(kDropoutNumbers) /
              static_cast<float>(kDropoutNumbers - dropout.threshold),
          dropout.sequences, dropout.seed};
}

// The dropout of one sequence's cells.
class Dropout {
 public:
  __device__ __forceinline__ Dropout(const DropoutArguments& arguments, int32_t n)
      : arguments_(arguments) {
    if (!IsOn()) return;
    // From one lane, so that the compiler knows the numbers to be the same for the whole warp.
    sequence_ = __shfl_sync(kAllLanes, __ldg(arguments.sequences + n), 0);
    key0_ = __shfl_sync(kAllLanes, __ldg(arguments.seed), 0);
    key1_ = __shfl_sync(kAllLanes, __ldg(arguments.seed + 1), 0);
  }

  // Of arguments whose threshold is 0, without looking at them.
  static __device__ __forceinline__ Dropout Off(const DropoutArguments& arguments) {
    return Dropout(arguments);
  }

  __device__ __forceinline__ bool IsOn() const { return arguments_.threshold != 0; }

  // Drops units h to h + kCount - 1 of cell (t, u), h being a multiple of kCount: 4 or 8.
  template <int kCount>
  __device__ __forceinline__ void Drop(int32_t h, int32_t t, int32_t u,
                                       float (&values)[kCount]) const {
    static_assert(kCount == 4 || kCount == 8);
    const PhiloxWords random =
        Philox4x32({{static_cast<uint32_t>(h) / 8, static_cast<uint32_t>(u),
                     static_cast<uint32_t>(t), static_cast<uint32_t>(sequence_)}},
                   key0_, key1_);
#pragma unroll
    for (int j = 0; j < kCount; j += 2) {
      const uint32_t word =
          kCount == 4 && (h & 4) != 0 ? random.words[2 + j / 2] : random.words[j / 2];
      values[j] = word << 16 < arguments_.threshold ? 0.f : __fmul_rn(values[j], arguments_.scale);
      values[j + 1] =
          word < arguments_.threshold ? 0.f : __fmul_rn(values[j + 1], arguments_.scale);
    }
  }

 private:
  __device__ __forceinline__ explicit Dropout(const DropoutArguments& arguments)
      : arguments_(arguments) {}

  const DropoutArguments& arguments_;
  int32_t sequence_ = 0;
  uint32_t key0_ = 0;
  uint32_t key1_ = 0;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_DROPOUT_CUH_
