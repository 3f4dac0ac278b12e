// The problems of joint_check: their shapes, their inputs on host and device, the call that all
// checks begin with.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_PROBLEMS_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_PROBLEMS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "../device_array.h"
#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/inputs.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"
#include "cuda/joint/target.h"

namespace jax_rnnt::joint_check {

using cuda::Activation;
using cuda::JointShape;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr const char* kActivationNames[] = {"none", "tanh", "relu", "silu", "gelu", "sigmoid"};

// With `small`, problems that take minutes under a sanitizer are left out.
inline bool is_small = false;
inline int failures = 0;
// Whose kernels are checked and timed.
inline int capability = 90;
inline cuda::JointTarget target = cuda::TargetOf(capability);
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

// What a problem asks for beside the standard loss.
struct Options {
  int behind = 0;  // columns behind the tokens
  bool without_blank = false;
  bool without_label = false;
  int picks = 0;  // the first is the blank, the second repeats the third
  uint32_t threshold = 0;
  bool is_clamped = false;
};

struct Problem {
  JointShape shape;
  Activation activation = Activation::kTanh;
  bool has_bias = true;
  bool is_ragged = true;
  bool is_odd = false;  // infinities and NaN among the inputs
  float input_scale = 1;
  float logit_scale = 4;
  int shift = 0;  // elements by which encoder and predictor are out of alignment
  Options options = {};
  bool is_padding = false;  // nothing else
};

inline int32_t Width(const Problem& problem) { return problem.shape.V + problem.options.behind; }

inline void Print(const Problem& problem) {
  const JointShape& shape = problem.shape;
  const Options& options = problem.options;
  std::printf("%d.%d %s N %d K %d T %d U %d H %d V %d", capability / 10, capability % 10,
              kActivationNames[static_cast<int>(problem.activation)], shape.N, shape.K, shape.T,
              shape.U, shape.H, shape.V);
  if (options.behind > 0) std::printf(" + %d", options.behind);
  if (options.picks > 0) std::printf(" picks %d", options.picks);
  if (options.threshold > 0) std::printf(" dropout %u", options.threshold);
  std::printf("%s%s%s%s%s%s%s", options.without_blank ? " no blank" : "",
              options.without_label ? " no label" : "", options.is_clamped ? " clamped" : "",
              problem.has_bias ? "" : " no bias", problem.is_odd ? " odd" : "",
              problem.shift != 0 ? " shifted" : "", problem.is_padding ? " padding" : "");
}

template <typename T>
std::vector<T> KernelNumbers(const JointShape& shape, int32_t W, float logit_scale) {
  return RandomNumbers<T>(static_cast<int64_t>(shape.H) * W,
                          logit_scale / std::sqrt(static_cast<float>(shape.H)));
}

template <typename T>
struct HostInputs {
  explicit HostInputs(const Problem& problem) {
    const JointShape& shape = problem.shape;
    const int32_t W = Width(problem);
    entries.width = W;
    entries.tokens = shape.V;
    entries.blank = shape.V > 1 ? static_cast<int>(1 + generator() % (shape.V - 1)) : 0;
    entries.without_blank = problem.options.without_blank;
    entries.without_label = problem.options.without_label;
    entries.pick_count = problem.options.picks;
    for (int i = 0; i < entries.pick_count; ++i) {
      // From the end on, as durations are, and others.
      entries.picks[i] = i % 2 == 0 ? std::max(0, W - 1 - i) : static_cast<int>(generator() % W);
    }
    if (entries.pick_count > 0) entries.picks[0] = entries.blank;
    if (entries.pick_count > 2) entries.picks[1] = entries.picks[2];
    const auto as_t = [](float x) { return static_cast<T>(x); };
    const float inf = std::numeric_limits<float>::infinity();
    encoder = RandomNumbers<T>(
        static_cast<int64_t>(shape.N / shape.K) * shape.T * shape.H + problem.shift,
        problem.input_scale);
    predictor = RandomNumbers<T>(static_cast<int64_t>(shape.N) * shape.U * shape.H + problem.shift,
                                 problem.input_scale);
    kernel = KernelNumbers<T>(shape, W, problem.logit_scale);
    bias = RandomNumbers<T>(W, problem.logit_scale);
    labels.resize(static_cast<int64_t>(shape.N) * shape.U);
    frames.resize(shape.N);
    for (int n = 0; n < shape.N; ++n) {
      frames[n] = problem.is_ragged ? static_cast<int>(generator() % (shape.T + 3)) - 1 : shape.T;
      if (problem.is_ragged && n == 0) frames[n] = shape.T;
      if (problem.is_padding) frames[n] = 0;
      sequences.push_back(static_cast<int32_t>(generator()));
      bounds.push_back(problem.options.is_clamped && n % 3 != 1 ? Random(0, 0.3f) : inf);
      if (problem.is_ragged && n == 1) frames[n] = std::numeric_limits<int32_t>::min();
      const int last = problem.is_ragged ? static_cast<int>(generator() % shape.U) : shape.U - 1;
      for (int u = 0; u < shape.U; ++u) {
        const int other[] = {kPaddingRow, shape.V, std::numeric_limits<int32_t>::min(),
                             std::numeric_limits<int32_t>::max()};
        labels[static_cast<int64_t>(n) * shape.U + u] =
            u < last    ? u % 5 == 4   ? entries.blank
                          : u % 5 == 3 ? std::min(entries.picks[2], shape.V - 1)
                                       : static_cast<int>(generator() % shape.V)
            : u == last ? kNoLabel
                        : other[generator() % 4];
      }
    }
    seed = {static_cast<uint32_t>(generator()), static_cast<uint32_t>(generator())};
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

  EntriesOptions entries;
  std::vector<T> encoder, predictor, kernel, bias;
  std::vector<int32_t> labels, frames, sequences;
  std::vector<uint32_t> seed;
  std::vector<float> bounds;
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
        device_sequences(this->sequences),
        device_seed(this->seed),
        device_bounds(this->bounds),
        packed_bytes(cuda::PackedJointBytes(target, problem.shape.H, Width(problem))),
        packed_kernel(packed_bytes.kernel),
        packed_bias(packed_bytes.bias / 4),
        inputs{device_encoder.get() + problem.shift,
               device_predictor.get() + problem.shift,
               device_labels.get(),
               device_frames.get(),
               {problem.options.threshold, device_sequences.get(), device_seed.get()}},
        packed{packed_kernel.get(), packed_bias.get()},
        first_bias(problem.has_bias ? device_bias.get() : nullptr) {}

  void Pack(const JointShape& shape) {
    Check(cudaMemset(packed_kernel.get(), 0xff, packed_bytes.kernel), "poison");
    Check(cudaMemset(packed_bias.get(), 0x7b, packed_bytes.bias), "poison");
    Check(cuda::JointPack<T>(0, target, shape.H, this->entries.width, device_kernel.get(),
                             first_bias, packed_kernel.get(), packed_bias.get()),
          "JointPack");
  }

  DeviceArray<T> device_encoder, device_predictor, device_kernel, device_bias;
  DeviceArray<int32_t> device_labels, device_frames, device_sequences;
  DeviceArray<uint32_t> device_seed;
  DeviceArray<float> device_bounds;
  cuda::JointPackedBytes packed_bytes;
  DeviceArray<unsigned char> packed_kernel;
  DeviceArray<float> packed_bias;
  cuda::JointInputs<T> inputs;
  cuda::JointPacked packed;
  const T* first_bias;
};

template <typename T>
const char* TypeName() {
  return std::is_same_v<T, __half>  ? "float16 "
         : std::is_same_v<T, float> ? "float32 "
                                    : "bfloat16";
}

// Whether a problem is left out: by `small`, or because its activations do not fit.
inline bool IsLeftOut(const Problem& problem) {
  const JointShape& shape = problem.shape;
  if (cuda::PackedJointBytes(target, shape.H, Width(problem)).kernel == 0) return true;
  return is_small && 1. * shape.N * shape.T * shape.U * shape.H * shape.V > 2e8;
}

// Arrays of `cells` numbers in a row as results: maxima, log_sums, blank_logits, label_logits, then
// those of the picks.
inline EntriesResults<float> ResultsIn(float* outputs, int64_t cells, int picks) {
  EntriesResults<float> results{
      outputs, outputs + cells, outputs + 2 * cells, outputs + 3 * cells, {}};
  for (int i = 0; i < picks; ++i) results.pick_logits[i] = outputs + (4 + i) * cells;
  return results;
}
// Likewise cotangents: of the sums, the blanks, the labels, then the picks.
inline EntriesCotangents<float> CotangentsIn(const float* inputs, int64_t cells, int picks) {
  EntriesCotangents<float> cotangents{inputs, inputs + cells, inputs + 2 * cells, {}};
  for (int i = 0; i < picks; ++i) cotangents.picks[i] = inputs + (3 + i) * cells;
  return cotangents;
}

// A problem for each option, for each pair of them, and for all together; with `small`, every fifth
// and the last.
inline std::vector<Problem> OptionProblems(const JointShape& first_shape) {
  constexpr int kOptions = 7;
  std::vector<Problem> problems;
  for (int i = 0; i <= kOptions; ++i) {
    for (int j = i; j <= kOptions; ++j) {
      Problem problem{first_shape};
      const auto has = [&](int option) { return i == kOptions || option == i || option == j; };
      if (i < kOptions && j == kOptions) continue;
      if (is_small && i < kOptions && (7 * i + j) % 5 != 0) continue;
      problem.options.behind = has(0) ? 5 : 0;
      problem.options.without_blank = has(1);
      problem.options.without_label = has(2);
      problem.options.picks = has(3) ? 3 + static_cast<int>(generator() % (kMaxPicks - 2)) : 0;
      problem.options.threshold = has(4) ? 13107 : 0;
      problem.options.is_clamped = has(5);
      if (has(6)) problem.shape.K = 3;
      problems.push_back(problem);
    }
  }
  return problems;
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_PROBLEMS_CUH_
