// A cell of the joint network by its definition: its dropout, its activations, its logits.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_CELLS_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_CELLS_CUH_

#include <cstdint>
#include <cstdio>

#include "activations.cuh"
#include "core/philox.h"
#include "core/row_label.h"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

constexpr int kReferenceThreads = 128;

// The published answers of Philox4x32 with seven rounds.
inline void CheckPhilox() {
  struct Answer {
    PhiloxWords counter;
    uint32_t key[2];
    PhiloxWords words;
  };
  const Answer answers[] = {
      {{{0, 0, 0, 0}}, {0, 0}, {{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}}},
      {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       {0xffffffff, 0xffffffff},
       {{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       {0xa4093822, 0x299f31d0},
       {{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}}}};
  for (const Answer& answer : answers) {
    const PhiloxWords got = Philox4x32(answer.counter, answer.key[0], answer.key[1]);
    bool pass = true;
    for (int i = 0; i < 4; ++i) pass &= got.words[i] == answer.words.words[i];
    std::printf("philox %s\n", pass ? "PASS" : "FAIL");
    failures += !pass;
  }
}

__host__ __device__ inline bool IsDropped(uint32_t threshold, uint32_t seed0, uint32_t seed1,
                                          int32_t sequence, int64_t t, int64_t u, int h) {
  const PhiloxWords random =
      Philox4x32({{static_cast<uint32_t>(h / 8), static_cast<uint32_t>(u), static_cast<uint32_t>(t),
                   static_cast<uint32_t>(sequence)}},
                 seed0, seed1);
  const uint32_t word = random.words[h % 8 / 2];
  return (h % 2 == 0 ? word & 0xffff : word >> 16) < threshold;
}

template <typename T>
struct DeviceProblem {
  JointShape shape;
  Activation activation;
  EntriesOptions entries;
  cuda::JointInputs<T> inputs;
  const T* kernel;
  const T* bias;

  __device__ bool IsPadding(int64_t n, int64_t t, int64_t u) const {
    const int32_t label = inputs.labels[n * shape.U + u];
    return t >= inputs.frames[n] || label < kNoLabel || label >= shape.V;
  }

  // The activations of a cell that is not padding, by all threads of the block: H numbers, rounded
  // to even, in x.
  __device__ void Activations(int64_t n, int64_t t, int64_t u, float* x) const {
    const cuda::JointDropout& dropout = inputs.dropout;
    for (int h = 2 * threadIdx.x; h < shape.H; h += 2 * kReferenceThreads) {
      float pair[2] = {0.f, 0.f};
      for (int i = 0; i < 2 && h + i < shape.H; ++i) {
        pair[i] =
            static_cast<float>(inputs.encoder[(n / shape.K * shape.T + t) * shape.H + h + i]) +
            static_cast<float>(inputs.predictor[(n * shape.U + u) * shape.H + h + i]);
      }
      ActivateAny(activation, pair);
      for (int i = 0; i < 2; ++i) {
        if (dropout.threshold != 0) {
          pair[i] = IsDropped(dropout.threshold, dropout.seed[0], dropout.seed[1],
                              dropout.sequences[n], t, u, h + i)
                        ? 0.f
                        : pair[i] * (65536.f / static_cast<float>(65536 - dropout.threshold));
        }
        x[h + i] = static_cast<float>(static_cast<T>(pair[i]));
      }
    }
    __syncthreads();
  }

  __device__ double Logit(const float* x, int64_t v) const {
    double sum = bias == nullptr ? 0. : static_cast<double>(static_cast<float>(bias[v]));
    for (int h = 0; h < shape.H; ++h) {
      sum += static_cast<double>(x[h]) *
             static_cast<double>(static_cast<float>(kernel[int64_t{h} * entries.width + v]));
    }
    return sum;
  }
};

template <typename T>
DeviceProblem<T> OnDevice(const Problem& problem, const Inputs<T>& inputs) {
  return {problem.shape, problem.activation,         inputs.entries,
          inputs.inputs, inputs.device_kernel.get(), inputs.first_bias};
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_CELLS_CUH_
