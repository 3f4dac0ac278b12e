// Checks the fused joint network against the same sums in double precision, and times it. Exits
// with 1 unless every output of every problem is within its bound.
//
//   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Icpp tools/joint_check.cu
//     cpp/cuda/joint_forward.cu -o joint_check
//   ./joint_check [check | time]
//
// The reference rounds the same activations to the half type: where the two disagreed in one, its
// rounding would hide every other error. The activations are compared with their definitions apart.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "core/row_label.h"
#include "cuda/activation.cuh"
#include "cuda/granule.cuh"
#include "cuda/joint_forward.h"
#include "device_array.h"

namespace {

using jax_rnnt::Check;
using jax_rnnt::DeviceArray;
using jax_rnnt::kNoLabel;
using jax_rnnt::kPaddingRow;
using jax_rnnt::cuda::Activation;
using jax_rnnt::cuda::JointShape;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr const char* kActivationNames[] = {"none", "tanh", "relu", "silu", "gelu"};

int failures = 0;
std::mt19937 generator(0);

float Random(float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(generator);
}

template <typename T>
std::vector<T> RandomNumbers(int64_t count, float scale) {
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(Random(-scale, scale));
  return values;
}

// ------------------------------------------------------------------------------------- Reference

template <int kCount>
__device__ void ActivateAny(Activation activation, float (&x)[kCount]) {
  switch (activation) {
    case Activation::kNone:
      return jax_rnnt::cuda::Activate<Activation::kNone>(x);
    case Activation::kTanh:
      return jax_rnnt::cuda::Activate<Activation::kTanh>(x);
    case Activation::kRelu:
      return jax_rnnt::cuda::Activate<Activation::kRelu>(x);
    case Activation::kSilu:
      return jax_rnnt::cuda::Activate<Activation::kSilu>(x);
    case Activation::kGelu:
      return jax_rnnt::cuda::Activate<Activation::kGelu>(x);
  }
}

constexpr int kReferenceThreads = 128;

struct Reference {
  double *blank_log_probs, *label_log_probs, *maxima, *log_sums;
};

// A block per cell. Shared memory: H numbers rounded to even.
template <typename T>
__global__ void ReferenceKernel(JointShape shape, Activation activation, int32_t blank,
                                const T* encoder, const T* predictor, const T* kernel,
                                const T* bias, const int32_t* labels, const int32_t* frames,
                                Reference reference) {
  extern __shared__ float x[];
  __shared__ double parts[kReferenceThreads];
  __shared__ double picked[2];
  const int64_t cell = blockIdx.x;
  const int u = cell % shape.U;
  const int64_t line = cell / shape.U;
  const int t = line % shape.T;
  const int64_t n = line / shape.T;
  const int32_t label = labels[n * shape.U + u];
  const bool is_padding = t >= frames[n] || label < kNoLabel || label >= shape.V;
  if (is_padding) {
    if (threadIdx.x == 0) {
      reference.blank_log_probs[cell] = reference.label_log_probs[cell] = -INFINITY;
      reference.maxima[cell] = reference.log_sums[cell] = 0;
    }
    return;
  }
  for (int h = 2 * threadIdx.x; h < shape.H; h += 2 * kReferenceThreads) {
    float pair[2] = {0.f, 0.f};
    for (int i = 0; i < 2 && h + i < shape.H; ++i) {
      pair[i] = static_cast<float>(encoder[line * shape.H + h + i]) +
                static_cast<float>(predictor[(n * shape.U + u) * shape.H + h + i]);
    }
    ActivateAny(activation, pair);
    for (int i = 0; i < 2; ++i) x[h + i] = static_cast<float>(static_cast<T>(pair[i]));
  }
  __syncthreads();
  const auto logit = [&](int v) {
    double sum = bias == nullptr ? 0. : static_cast<double>(static_cast<float>(bias[v]));
    for (int h = 0; h < shape.H; ++h) {
      sum += static_cast<double>(x[h]) *
             static_cast<double>(static_cast<float>(kernel[static_cast<int64_t>(h) * shape.V + v]));
    }
    return sum;
  };
  double maximum = -INFINITY;
  for (int v = threadIdx.x; v < shape.V; v += kReferenceThreads) {
    const double y = logit(v);
    maximum = fmax(maximum, y);
    if (v == blank) picked[0] = y;
    if (v == label) picked[1] = y;
  }
  parts[threadIdx.x] = maximum;
  __syncthreads();
  maximum = -INFINITY;
  for (int i = 0; i < kReferenceThreads; ++i) maximum = fmax(maximum, parts[i]);
  if (maximum == -INFINITY) maximum = 0;
  __syncthreads();
  double sum = 0;
  for (int v = threadIdx.x; v < shape.V; v += kReferenceThreads) sum += exp(logit(v) - maximum);
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (int i = 0; i < kReferenceThreads; ++i) sum += parts[i];
  const double log_sum = sum == 0 ? INFINITY : log(sum);
  reference.blank_log_probs[cell] = picked[0] - maximum - log_sum;
  reference.label_log_probs[cell] = label == kNoLabel ? -INFINITY : picked[1] - maximum - log_sum;
  reference.maxima[cell] = maximum;
  reference.log_sums[cell] = log_sum;
}

// ------------------------------------------------------------------------------------ Activations

__global__ void ActivationKernel(Activation activation, const float* x, float* y, int64_t count) {
  const int64_t i = 2 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (i + 1 >= count) return;
  float pair[2] = {x[i], x[i + 1]};
  ActivateAny(activation, pair);
  y[i] = pair[0];
  y[i + 1] = pair[1];
}

double Define(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      return std::max(x, 0.);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x / (1 + std::exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
  }
  return NAN;
}

void CheckActivations() {
  std::vector<float> x;
  for (int i = 0; i < 2000000; ++i) {
    const int kind = i % 4;
    x.push_back(kind == 0   ? Random(-1, 1)
                : kind == 1 ? Random(-12, 12)
                : kind == 2 ? Random(-200, 200)
                            : std::ldexp(Random(-1, 1), static_cast<int>(generator() % 130) - 60));
  }
  const float inf = std::numeric_limits<float>::infinity();
  for (float special : {0.f, -0.f, inf, 3e38f, -3e38f, 1e-38f}) {
    for (float partner : {0.f, 1.f, inf, 3e38f, -3e38f}) {
      x.push_back(special);
      x.push_back(partner);
    }
  }
  const int64_t count = static_cast<int64_t>(x.size());
  DeviceArray<float> device_x(x), device_y(count);
  for (int a = 0; a < 5; ++a) {
    const Activation activation = static_cast<Activation>(a);
    ActivationKernel<<<(count / 2 + 255) / 256, 256>>>(activation, device_x.get(), device_y.get(),
                                                       count);
    Check(cudaGetLastError(), "ActivationKernel");
    const std::vector<float> y = device_y.ToHost();
    double worst = 0, worst_x = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = Define(activation, x[i]);
      if (wanted == y[i]) continue;
      double error = std::abs(y[i] - wanted) / std::max(1., std::abs(wanted));
      if (!(error <= worst)) {
        worst = std::isnan(error) ? kInfinity : error;
        worst_x = x[i];
      }
    }
    const bool pass = worst < 1e-6;
    failures += !pass;
    std::printf("%s activation %-4s error %.2e at %g\n", pass ? "PASS" : "FAIL",
                kActivationNames[a], worst, worst_x);
  }
}

// --------------------------------------------------------------------------------------- Problems

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

// The largest difference, 0 where both are the same infinity or NaN, and its bound.
bool Compare(const char* name, const std::vector<float>& got, const std::vector<double>& wanted,
             const std::vector<double>& log_sums, const std::vector<double>& maxima, double bound) {
  double worst = 0;
  int64_t worst_cell = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    // A row with NaN has no maximum to speak of.
    if (std::strcmp(name, "maximum") == 0 && std::isnan(log_sums[i])) continue;
    if (std::isnan(got[i]) && std::isnan(wanted[i])) continue;
    if (got[i] == wanted[i]) continue;
    double error = std::abs(got[i] - wanted[i]);
    if (std::isfinite(maxima[i])) error /= std::max(1., std::abs(maxima[i]));
    if (std::isfinite(wanted[i])) error /= std::max(1., std::abs(wanted[i]) / 16);
    if (std::isnan(error)) error = kInfinity;
    if (error > worst) {
      worst = error;
      worst_cell = static_cast<int64_t>(i);
    }
  }
  std::printf(" %s %.1e", name, worst);
  if (!(worst <= bound)) {
    std::printf(" (cell %lld: %g, not %g)", static_cast<long long>(worst_cell), got[worst_cell],
                wanted[worst_cell]);
  }
  return worst <= bound;
}

template <typename T>
void Run(const Problem& problem) {
  const JointShape& shape = problem.shape;
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const int blank = shape.V > 1 ? static_cast<int>(1 + generator() % (shape.V - 1)) : 0;
  const auto as_t = [](float x) { return static_cast<T>(x); };
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<T> encoder = RandomNumbers<T>(
      static_cast<int64_t>(shape.N) * shape.T * shape.H + problem.shift, problem.input_scale);
  std::vector<T> predictor = RandomNumbers<T>(
      static_cast<int64_t>(shape.N) * shape.U * shape.H + problem.shift, problem.input_scale);
  std::vector<T> kernel = KernelNumbers<T>(shape, problem.logit_scale);
  std::vector<T> bias = RandomNumbers<T>(shape.V, problem.logit_scale);
  std::vector<int32_t> labels(static_cast<int64_t>(shape.N) * shape.U), frames(shape.N);
  for (int n = 0; n < shape.N; ++n) {
    frames[n] = problem.is_ragged ? static_cast<int>(generator() % (shape.T + 3)) - 1 : shape.T;
    if (problem.is_ragged && n == 0) frames[n] = shape.T;
    if (problem.is_ragged && n == 1) frames[n] = std::numeric_limits<int32_t>::min();
    const int last = problem.is_ragged ? static_cast<int>(generator() % shape.U) : shape.U - 1;
    for (int u = 0; u < shape.U; ++u) {
      const int other[] = {kPaddingRow, shape.V, std::numeric_limits<int32_t>::min(),
                           std::numeric_limits<int32_t>::max()};
      labels[static_cast<int64_t>(n) * shape.U + u] = u < last
                                                          ? static_cast<int>(generator() % shape.V)
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
  DeviceArray<T> device_encoder(encoder), device_predictor(predictor), device_kernel(kernel),
      device_bias(bias);
  DeviceArray<int32_t> device_labels(labels), device_frames(frames);
  const T* first_encoder = device_encoder.get() + problem.shift;
  const T* first_predictor = device_predictor.get() + problem.shift;
  const T* first_bias = problem.has_bias ? device_bias.get() : nullptr;

  const auto scratch = jax_rnnt::cuda::JointForwardScratchBytes(shape);
  DeviceArray<unsigned char> packed_kernel(scratch.packed_kernel);
  DeviceArray<float> packed_bias(scratch.packed_bias / 4);
  DeviceArray<float> outputs(4 * cells);
  Check(cudaMemset(packed_kernel.get(), 0xff, scratch.packed_kernel), "poison");
  Check(cudaMemset(packed_bias.get(), 0x7b, scratch.packed_bias), "poison");
  Check(cudaMemset(outputs.get(), 0x7b, 4 * cells * sizeof(float)), "poison");
  Check(jax_rnnt::cuda::LaunchJointForward<T>(
            0, shape, problem.activation, blank, first_encoder, first_predictor,
            device_kernel.get(), first_bias, device_labels.get(), device_frames.get(),
            packed_kernel.get(), packed_bias.get(), outputs.get(), outputs.get() + cells,
            outputs.get() + 2 * cells, outputs.get() + 3 * cells),
        "LaunchJointForward");
  Check(cudaDeviceSynchronize(), "JointForwardKernel");

  DeviceArray<double> reference(4 * cells);
  Check(cudaMemset(reference.get(), 0, 4 * cells * sizeof(double)), "clear");
  ReferenceKernel<T><<<static_cast<unsigned int>(cells), kReferenceThreads,
                       (shape.H + 1) / 2 * 2 * sizeof(float)>>>(
      shape, problem.activation, blank, first_encoder, first_predictor, device_kernel.get(),
      first_bias, device_labels.get(), device_frames.get(),
      Reference{reference.get(), reference.get() + cells, reference.get() + 2 * cells,
                reference.get() + 3 * cells});
  Check(cudaGetLastError(), "ReferenceKernel launch");
  Check(cudaDeviceSynchronize(), "ReferenceKernel");

  // Of float32 sums of H products, relative to the row's maximum where that is above 1.
  constexpr double kBound = 1e-4;
  const std::vector<double> maxima = reference.ToHost(2 * cells, cells);
  const std::vector<double> log_sums = reference.ToHost(3 * cells, cells);
  std::printf("%s %-4s N %d T %d U %d H %d V %d%s%s%s:",
              std::is_same_v<T, __half> ? "float16 " : "bfloat16",
              kActivationNames[static_cast<int>(problem.activation)], shape.N, shape.T, shape.U,
              shape.H, shape.V, problem.has_bias ? "" : " no bias", problem.is_odd ? " odd" : "",
              problem.shift != 0 ? " shifted" : "");
  const char* names[] = {"blank", "label", "maximum", "log_sum"};
  bool pass = true;
  for (int i = 0; i < 4; ++i) {
    pass &= Compare(names[i], outputs.ToHost(i * cells, cells), reference.ToHost(i * cells, cells),
                    log_sums, maxima, kBound);
  }
  std::printf(" %s\n", pass ? "PASS" : "FAIL");
  std::fflush(stdout);
  failures += !pass;
}

template <typename T>
void CheckProblems() {
  for (int a = 0; a < 5; ++a) {
    Run<T>({{4, 37, 19, 640, 1024}, static_cast<Activation>(a)});
  }
  for (int repeat = 0; repeat < 3; ++repeat) Run<T>({{9, 50, 21, 64, 28}});
  Run<T>({{3, 33, 17, 100, 300}});
  Run<T>({{3, 33, 17, 101, 300}, Activation::kGelu});
  Run<T>({{3, 33, 17, 96, 300}, Activation::kTanh, true, true, false, 1, 4, 1});
  Run<T>({{2, 20, 12, 1024, 5000}});
  Run<T>({{2, 20, 12, 1408, 257}, Activation::kSilu});
  Run<T>({{2, 20, 12, 704, 256}});
  Run<T>({{1, 1, 1, 1, 1}});
  Run<T>({{1, 17, 9, 8, 2}, Activation::kNone, false});
  Run<T>({{3, 40, 20, 512, 512}, Activation::kTanh, false, false});
  // Logits in the thousands, and beyond what one fused multiply-add keeps exact.
  Run<T>({{2, 20, 12, 128, 700}, Activation::kNone, false, true, false, 30, 100});
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    Run<T>({{2, 20, 12, 128, 700}, Activation::kNone, false, true, false, 3000, 10000});
  }
  for (int repeat = 0; repeat < 4; ++repeat) {
    Run<T>({{4, 40, 20, 72, 600}, Activation::kTanh, true, true, true});
    Run<T>({{4, 40, 20, 72, 300}, Activation::kNone, true, true, true});
  }
}

// ----------------------------------------------------------------------------------------- Timing

template <typename T>
void Time(const JointShape& shape, Activation activation) {
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  // Few distinct numbers, as random ones for the whole of it would take the host a while.
  const auto fill = [](int64_t count, float scale) {
    const std::vector<T> some = RandomNumbers<T>(65521, scale);
    std::vector<T> values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = some[i % some.size()];
    return values;
  };
  DeviceArray<T> encoder(fill(static_cast<int64_t>(shape.N) * shape.T * shape.H, 1));
  DeviceArray<T> predictor(fill(static_cast<int64_t>(shape.N) * shape.U * shape.H, 1));
  DeviceArray<T> kernel(fill(static_cast<int64_t>(shape.H) * shape.V, 0.1f));
  DeviceArray<T> bias(fill(shape.V, 1));
  std::vector<int32_t> host_labels(static_cast<int64_t>(shape.N) * shape.U);
  for (int32_t& label : host_labels) label = static_cast<int32_t>(generator() % shape.V);
  DeviceArray<int32_t> labels(host_labels), frames(std::vector<int32_t>(shape.N, shape.T));
  const auto scratch = jax_rnnt::cuda::JointForwardScratchBytes(shape);
  DeviceArray<unsigned char> packed_kernel(scratch.packed_kernel);
  DeviceArray<float> packed_bias(scratch.packed_bias / 4), outputs(4 * cells);
  const auto launch = [&] {
    Check(jax_rnnt::cuda::LaunchJointForward<T>(
              0, shape, activation, 0, encoder.get(), predictor.get(), kernel.get(), bias.get(),
              labels.get(), frames.get(), packed_kernel.get(), packed_bias.get(), outputs.get(),
              outputs.get() + cells, outputs.get() + 2 * cells, outputs.get() + 3 * cells),
          "LaunchJointForward");
  };
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "cudaEventCreate");
  Check(cudaEventCreate(&stop), "cudaEventCreate");
  const auto measure = [&] {
    float milliseconds = 0;
    Check(cudaEventRecord(start), "cudaEventRecord");
    launch();
    Check(cudaEventRecord(stop), "cudaEventRecord");
    Check(cudaEventSynchronize(stop), "JointForwardKernel");
    Check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
    return milliseconds;
  };
  for (float warm_up = 0; warm_up < 500;) warm_up += measure();
  std::vector<float> times(20);
  for (float& time : times) time = measure();
  std::sort(times.begin(), times.end());
  const double median = (times[9] + times[10]) / 2;
  std::printf("%s %-4s N %d T %d U %d H %d V %d: %.3f ms (%.3f to %.3f), %.0f TFLOP/s\n",
              std::is_same_v<T, __half> ? "float16 " : "bfloat16",
              kActivationNames[static_cast<int>(activation)], shape.N, shape.T, shape.U, shape.H,
              shape.V, median, times.front(), times.back(),
              2e-9 * cells * shape.H * shape.V / median);
  std::fflush(stdout);
  Check(cudaEventDestroy(start), "cudaEventDestroy");
  Check(cudaEventDestroy(stop), "cudaEventDestroy");
}

}  // namespace

int main(int argc, char** argv) {
  const bool wants_check = argc < 2 || std::strcmp(argv[1], "check") == 0;
  const bool wants_time = argc < 2 || std::strcmp(argv[1], "time") == 0;
  if (wants_check) {
    CheckActivations();
    CheckProblems<__nv_bfloat16>();
    CheckProblems<__half>();
    std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  }
  if (wants_time) {
    Time<__nv_bfloat16>({32, 400, 100, 640, 1024}, Activation::kTanh);
    Time<__nv_bfloat16>({32, 400, 100, 640, 1024}, Activation::kRelu);
    Time<__nv_bfloat16>({16, 400, 100, 640, 4096}, Activation::kTanh);
    Time<__nv_bfloat16>({16, 400, 100, 1024, 4096}, Activation::kTanh);
  }
  return failures == 0 ? 0 : 1;
}
