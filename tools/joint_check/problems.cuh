// The problems of joint_check: their shapes, their inputs on host and device, the call that all
// checks begin with.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_PROBLEMS_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_PROBLEMS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "../device_array.h"
#include "core/row_label.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"

namespace jax_rnnt::joint_check {

using cuda::Activation;
using cuda::JointShape;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr const char* kActivationNames[] = {"none", "tanh", "relu", "silu", "gelu"};

inline int failures = 0;
inline std::mt19937 generator(0);

inline float Random(float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(generator);
}

template <typename T>
std::vector<T> RandomNumbers(int64_t count, float scale) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(Random(-scale, scale));
  return values;
}

struct Problem {
  JointShape shape;
  Activation activation = Activation::kTanh;
  bool has_bias = true;
  bool is_ragged = true;
  bool is_odd = false;  // infinities and NaN among the inputs
  float input_scale = 1;
  float logit_scale = 4;
  int shift = 0;  // elements by which encoder and predictor are out of alignment
};

template <typename T>
std::vector<T> KernelNumbers(const JointShape& shape, float logit_scale) {
  return RandomNumbers<T>(static_cast<int64_t>(shape.H) * shape.V,
                          logit_scale / std::sqrt(static_cast<float>(shape.H)));
}

template <typename T>
struct HostInputs {
  explicit HostInputs(const Problem& problem) {
    const JointShape& shape = problem.shape;
    blank = shape.V > 1 ? static_cast<int>(1 + generator() % (shape.V - 1)) : 0;
    const auto as_t = [](float x) { return static_cast<T>(x); };
    const float inf = std::numeric_limits<float>::infinity();
    encoder = RandomNumbers<T>(static_cast<int64_t>(shape.N) * shape.T * shape.H + problem.shift,
                               problem.input_scale);
    predictor = RandomNumbers<T>(static_cast<int64_t>(shape.N) * shape.U * shape.H + problem.shift,
                                 problem.input_scale);
    kernel = KernelNumbers<T>(shape, problem.logit_scale);
    bias = RandomNumbers<T>(shape.V, problem.logit_scale);
    labels.resize(static_cast<int64_t>(shape.N) * shape.U);
    frames.resize(shape.N);
    for (int n = 0; n < shape.N; ++n) {
      frames[n] = problem.is_ragged ? static_cast<int>(generator() % (shape.T + 3)) - 1 : shape.T;
      if (problem.is_ragged && n == 0) frames[n] = shape.T;
      if (problem.is_ragged && n == 1) frames[n] = std::numeric_limits<int32_t>::min();
      const int last = problem.is_ragged ? static_cast<int>(generator() % shape.U) : shape.U - 1;
      for (int u = 0; u < shape.U; ++u) {
        const int other[] = {kPaddingRow, shape.V, std::numeric_limits<int32_t>::min(),
                             std::numeric_limits<int32_t>::max()};
        labels[static_cast<int64_t>(n) * shape.U + u] =
            u < last    ? static_cast<int>(generator() % shape.V)
            : u == last ? kNoLabel
                        : other[generator() % 4];
      }
    }
    if (problem.is_odd) {
      for (int i = 0; i < 3; ++i) {
        encoder[generator() % encoder.size()] = as_t(i == 0 ? NAN : i == 1 ? inf : -inf);
        predictor[generator() % predictor.size()] = as_t(i == 0 ? NAN : i == 1 ? inf : -inf);
      }
      for (T& x : bias) {
        if (generator() % 2 == 0) x = as_t(-inf);
      }
      if (generator() % 2 == 0) std::fill(bias.begin(), bias.end(), as_t(-inf));
    }
  }

  bool IsPadding(const JointShape& shape, int64_t n, int64_t t, int64_t u) const {
    if (t >= std::min(frames[n], shape.T) || u >= shape.U) return true;
    const int32_t label = labels[n * shape.U + u];
    return label < kNoLabel || label >= shape.V;
  }

  int blank;
  std::vector<T> encoder, predictor, kernel, bias;
  std::vector<int32_t> labels, frames;
};

template <typename T>
struct Inputs : HostInputs<T> {
  explicit Inputs(const Problem& problem)
      : HostInputs<T>(problem),
        device_encoder(this->encoder),
        device_predictor(this->predictor),
        device_kernel(this->kernel),
        device_bias(this->bias),
        device_labels(this->labels),
        device_frames(this->frames),
        first_encoder(device_encoder.get() + problem.shift),
        first_predictor(device_predictor.get() + problem.shift),
        first_bias(problem.has_bias ? device_bias.get() : nullptr) {}

  DeviceArray<T> device_encoder, device_predictor, device_kernel, device_bias;
  DeviceArray<int32_t> device_labels, device_frames;
  const T* first_encoder;
  const T* first_predictor;
  const T* first_bias;
};

template <typename T>
const char* TypeName() {
  return std::is_same_v<T, __half>  ? "float16 "
         : std::is_same_v<T, float> ? "float32 "
                                    : "bfloat16";
}

// With `small`, problems that take minutes under a sanitizer are left out.
inline bool is_small = false;
inline bool IsLeftOut(const JointShape& shape) {
  return is_small && 1. * shape.N * shape.T * shape.U * shape.H * shape.V > 2e8;
}

template <typename T>
cudaError_t PackAndForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                           int32_t blank, const T* encoder, const T* predictor, const T* kernel,
                           const T* bias, const int32_t* labels, const int32_t* frames,
                           void* packed_kernel, float* packed_bias, float* blank_log_probs,
                           float* label_log_probs, float* maxima, float* log_sums) {
  const cudaError_t error =
      cuda::JointPack<T>(stream, shape.H, shape.V, kernel, bias, packed_kernel, packed_bias);
  if (error != cudaSuccess) return error;
  return cuda::JointForward<T>(stream, shape, activation, blank, encoder, predictor, packed_kernel,
                               packed_bias, labels, frames, blank_log_probs, label_log_probs,
                               maxima, log_sums);
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_PROBLEMS_CUH_
