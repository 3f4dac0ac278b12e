// Checks the fused joint network, forward and backward, against the same sums in double precision,
// and times it. Exits with 1 unless every output of every problem is within its bound.
//
//   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Icpp tools/joint_check.cu
//     cpp/cuda/joint/*.cu -o joint_check
//   ./joint_check [check | time]
//
// The reference rounds the same activations to the half type: where the two disagreed in one, its
// rounding would hide every other error. The activations are compared with their definitions apart.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "core/row_label.h"
#include "cuda/joint/activation.cuh"
#include "cuda/joint/add_blocks.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/hidden.h"
#include "cuda/joint/list.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"
#include "cuda/memory/granule.cuh"
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

template <int kCount>
__device__ void DifferentiateAny(Activation activation, float (&x)[kCount]) {
  switch (activation) {
    case Activation::kNone:
      return jax_rnnt::cuda::Differentiate<Activation::kNone>(x);
    case Activation::kTanh:
      return jax_rnnt::cuda::Differentiate<Activation::kTanh>(x);
    case Activation::kRelu:
      return jax_rnnt::cuda::Differentiate<Activation::kRelu>(x);
    case Activation::kSilu:
      return jax_rnnt::cuda::Differentiate<Activation::kSilu>(x);
    case Activation::kGelu:
      return jax_rnnt::cuda::Differentiate<Activation::kGelu>(x);
  }
}

__global__ void ActivationKernel(Activation activation, bool is_slope, const float* x, float* y,
                                 int64_t count) {
  const int64_t i = 2 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (i + 1 >= count) return;
  float pair[2] = {x[i], x[i + 1]};
  is_slope ? DifferentiateAny(activation, pair) : ActivateAny(activation, pair);
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

// The derivatives; silu and gelu are x sigmoid(y).
double DefineSlope(Activation activation, double x) {
  const auto sigmoid_slope = [](double x, double y, double y_slope) {
    const double sigmoid = 1 / (1 + std::exp(-y));
    return sigmoid + x * sigmoid / (1 + std::exp(y)) * y_slope;
  };
  switch (activation) {
    case Activation::kNone:
      return 1;
    case Activation::kTanh:
      return 1 / (std::cosh(x) * std::cosh(x));
    case Activation::kRelu:
      return x > 0;
    case Activation::kSilu:
      return std::abs(x) > 300 ? x > 0 : sigmoid_slope(x, x, 1);
    case Activation::kGelu: {
      constexpr double kScale = 2 * 0.79788456080286535588;
      return std::abs(x) > 15 ? x > 0
                              : sigmoid_slope(x, kScale * (x + 0.044715 * x * x * x),
                                              kScale * (1 + 3 * 0.044715 * x * x));
    }
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
  for (int a = 0; a < 10; ++a) {
    const bool is_slope = a >= 5;
    const Activation activation = static_cast<Activation>(a % 5);
    ActivationKernel<<<(count / 2 + 255) / 256, 256>>>(activation, is_slope, device_x.get(),
                                                       device_y.get(), count);
    Check(cudaGetLastError(), "ActivationKernel");
    const std::vector<float> y = device_y.ToHost();
    double worst = 0, worst_x = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = is_slope ? DefineSlope(activation, x[i]) : Define(activation, x[i]);
      if (wanted == y[i]) continue;
      double error = std::abs(y[i] - wanted) / std::max(1., std::abs(wanted));
      if (!(error <= worst)) {
        worst = std::isnan(error) ? kInfinity : error;
        worst_x = x[i];
      }
    }
    const bool pass = worst < 1e-6;
    failures += !pass;
    std::printf("%s %s %-4s error %.2e at %g\n", pass ? "PASS" : "FAIL",
                is_slope ? "slope" : "activation", kActivationNames[a % 5], worst, worst_x);
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
bool is_small = false;
bool IsLeftOut(const JointShape& shape) {
  return is_small && 1. * shape.N * shape.T * shape.U * shape.H * shape.V > 2e8;
}

template <typename T>
cudaError_t PackAndForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                           int32_t blank, const T* encoder, const T* predictor, const T* kernel,
                           const T* bias, const int32_t* labels, const int32_t* frames,
                           void* packed_kernel, float* packed_bias, float* blank_log_probs,
                           float* label_log_probs, float* maxima, float* log_sums) {
  const cudaError_t error = jax_rnnt::cuda::JointPack<T>(stream, shape.H, shape.V, kernel, bias,
                                                         packed_kernel, packed_bias);
  if (error != cudaSuccess) return error;
  return jax_rnnt::cuda::JointForward<T>(stream, shape, activation, blank, encoder, predictor,
                                         packed_kernel, packed_bias, labels, frames,
                                         blank_log_probs, label_log_probs, maxima, log_sums);
}

template <typename T>
void Run(const Problem& problem) {
  if (IsLeftOut(problem.shape)) return;
  const JointShape& shape = problem.shape;
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const Inputs<T> inputs(problem);
  const auto packed = jax_rnnt::cuda::PackedJointBytes(shape.H, shape.V);
  DeviceArray<unsigned char> packed_kernel(packed.kernel);
  DeviceArray<float> packed_bias(packed.bias / 4);
  DeviceArray<float> outputs(4 * cells);
  Check(cudaMemset(packed_kernel.get(), 0xff, packed.kernel), "poison");
  Check(cudaMemset(packed_bias.get(), 0x7b, packed.bias), "poison");
  Check(cudaMemset(outputs.get(), 0x7b, 4 * cells * sizeof(float)), "poison");
  Check(
      PackAndForward<T>(0, shape, problem.activation, inputs.blank, inputs.first_encoder,
                        inputs.first_predictor, inputs.device_kernel.get(), inputs.first_bias,
                        inputs.device_labels.get(), inputs.device_frames.get(), packed_kernel.get(),
                        packed_bias.get(), outputs.get(), outputs.get() + cells,
                        outputs.get() + 2 * cells, outputs.get() + 3 * cells),
      "JointForward");
  Check(cudaDeviceSynchronize(), "JointForwardKernel");

  DeviceArray<double> reference(4 * cells);
  Check(cudaMemset(reference.get(), 0, 4 * cells * sizeof(double)), "clear");
  ReferenceKernel<T><<<static_cast<unsigned int>(cells), kReferenceThreads,
                       (shape.H + 3) / 4 * 4 * sizeof(float)>>>(
      shape, problem.activation, inputs.blank, inputs.first_encoder, inputs.first_predictor,
      inputs.device_kernel.get(), inputs.first_bias, inputs.device_labels.get(),
      inputs.device_frames.get(),
      Reference{reference.get(), reference.get() + cells, reference.get() + 2 * cells,
                reference.get() + 3 * cells});
  Check(cudaGetLastError(), "ReferenceKernel launch");
  Check(cudaDeviceSynchronize(), "ReferenceKernel");

  // Of float32 sums of H products, relative to the row's maximum where that is above 1.
  constexpr double kBound = 1e-4;
  const std::vector<double> maxima = reference.ToHost(2 * cells, cells);
  const std::vector<double> log_sums = reference.ToHost(3 * cells, cells);
  std::printf("%s %-4s N %d T %d U %d H %d V %d%s%s%s:", TypeName<T>(),
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

// --------------------------------------------------------------------------------------- Backward

// An array between two runs of poison, which must be there afterwards.
template <typename T>
class GuardedArray {
 public:
  explicit GuardedArray(int64_t count, int shift = 0)
      : first_(kGuard + shift), count_(count), all_(count + 2 * kGuard) {
    Check(cudaMemset(all_.get(), kPoison, all_.size() * sizeof(T)), "poison");
  }
  T* get() const { return all_.get() + first_; }
  std::vector<T> ToHost() const { return all_.ToHost(first_, count_); }
  bool IsIntact() const {
    return IsPoison(all_.ToHost(0, first_)) &&
           IsPoison(all_.ToHost(first_ + count_, all_.size() - first_ - count_));
  }

 private:
  static constexpr int kGuard = 256;
  static constexpr int kPoison = 0x7b;
  static bool IsPoison(const std::vector<T>& values) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values.data());
    return std::all_of(bytes, bytes + values.size() * sizeof(T),
                       [](unsigned char byte) { return byte == kPoison; });
  }

  int64_t first_;
  int64_t count_;
  DeviceArray<T> all_;
};

// Tiles of the shape in any order, some of them missing.
std::vector<int32_t> RandomTiles(const JointShape& shape) {
  const int32_t numbers = static_cast<int32_t>(jax_rnnt::cuda::MakeTileGrid(shape).numbers);
  std::vector<int32_t> tiles(numbers);
  for (int32_t i = 0; i < numbers; ++i) tiles[i] = i;
  std::shuffle(tiles.begin(), tiles.end(), generator);
  for (int32_t none : {numbers, numbers + 3, std::numeric_limits<int32_t>::max(), -1,
                       std::numeric_limits<int32_t>::min()}) {
    tiles.insert(tiles.begin() + generator() % (tiles.size() + 1), none);
  }
  return tiles;
}

struct CellOfList {
  bool is_tile;
  int64_t n, t, u;
};

// Cell `row` of a tile.
__host__ __device__ CellOfList FindCell(const jax_rnnt::cuda::TileGrid& grid, int32_t number,
                                        int row) {
  if (number < 0 || number >= static_cast<int64_t>(grid.numbers)) return {false, 0, 0, 0};
  const int64_t block = number / grid.column_blocks;
  return {true, block / grid.frame_blocks, block % grid.frame_blocks * 16 + row / 8,
          static_cast<int64_t>(number % grid.column_blocks) * 8 + row % 8};
}

// A block per cell of the list: how far its gradients and activations are off, as parts of what
// they may be. Shared memory: H numbers rounded to even.
template <typename T>
__global__ void GradientReferenceKernel(
    JointShape shape, Activation activation, int32_t blank, jax_rnnt::cuda::TileGrid grid,
    const T* encoder, const T* predictor, const T* kernel, const T* bias, const int32_t* labels,
    const int32_t* frames, const float* maxima, const float* log_sums,
    const float* blank_cotangents, const float* label_cotangents, const int32_t* tiles,
    const T* gradients, const T* activations, float* gradient_errors, float* activation_errors) {
  extern __shared__ float x[];
  __shared__ float parts[2][kReferenceThreads];
  constexpr double kHalfUlp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
  const CellOfList cell = FindCell(grid, tiles[blockIdx.x / 128], blockIdx.x % 128);
  bool is_padding = true;
  int32_t label = kPaddingRow;
  if (cell.is_tile && cell.t < shape.T && cell.u < shape.U) {
    label = labels[cell.n * shape.U + cell.u];
    is_padding = cell.t >= frames[cell.n] || label < kNoLabel || label >= shape.V;
  }
  const int64_t line = cell.n * shape.T + cell.t;
  for (int h = 2 * threadIdx.x; h < shape.H; h += 2 * kReferenceThreads) {
    float pair[2] = {0.f, 0.f};
    for (int i = 0; i < 2 && h + i < shape.H && !is_padding; ++i) {
      pair[i] = static_cast<float>(encoder[line * shape.H + h + i]) +
                static_cast<float>(predictor[(cell.n * shape.U + cell.u) * shape.H + h + i]);
    }
    ActivateAny(activation, pair);
    for (int i = 0; i < 2; ++i) {
      x[h + i] = is_padding ? 0.f : static_cast<float>(static_cast<T>(pair[i]));
    }
  }
  __syncthreads();
  float worst = 0;
  for (int h = threadIdx.x; h < shape.H; h += kReferenceThreads) {
    const float got = static_cast<float>(activations[blockIdx.x * int64_t{shape.H} + h]);
    if (got == x[h] || (isnan(got) && isnan(x[h]))) continue;
    float error = is_padding ? INFINITY : fabsf(got - x[h]) / (1e-6f + 2 * kHalfUlp * fabsf(x[h]));
    worst = isnan(error) ? INFINITY : fmaxf(worst, error);
  }
  parts[1][threadIdx.x] = worst;
  worst = 0;
  float maximum = 0, log_sum = INFINITY, c_blank = 0, c_label = 0;
  if (!is_padding) {
    const int64_t place = line * shape.U + cell.u;
    maximum = maxima[place];
    log_sum = log_sums[place];
    c_blank = blank_cotangents[place];
    c_label = label == kNoLabel ? 0 : label_cotangents[place];
  }
  const bool is_active = log_sum < INFINITY && (c_blank != 0 || c_label != 0);
  for (int64_t v = threadIdx.x; v < shape.V; v += kReferenceThreads) {
    const double got = static_cast<float>(gradients[blockIdx.x * int64_t{shape.V} + v]);
    if (!is_active) {
      if (got != 0) worst = INFINITY;
      continue;
    }
    double logit = bias == nullptr ? 0. : static_cast<double>(static_cast<float>(bias[v]));
    for (int h = 0; h < shape.H; ++h) {
      logit +=
          static_cast<double>(x[h]) *
          static_cast<double>(static_cast<float>(kernel[static_cast<int64_t>(h) * shape.V + v]));
    }
    const double total = static_cast<double>(c_blank) + c_label;
    const double softmax = exp(logit - maximum - log_sum);
    const double wanted =
        (v == blank ? c_blank : 0.) + (v == label ? c_label : 0.) - total * softmax;
    const double bound =
        1e-7 + 1.01 * kHalfUlp * fabs(wanted) + 1e-6 * (fabs(c_blank) + fabs(c_label)) +
        fabs(total) * softmax * expm1(1e-4 * fmax(1., fabs(static_cast<double>(maximum))));
    const float error = static_cast<float>(fabs(got - wanted) / bound);
    worst = isnan(error) ? INFINITY : fmaxf(worst, error);
  }
  parts[0][threadIdx.x] = worst;
  __syncthreads();
  if (threadIdx.x != 0) return;
  gradient_errors[blockIdx.x] = activation_errors[blockIdx.x] = 0;
  for (int i = 0; i < kReferenceThreads; ++i) {
    gradient_errors[blockIdx.x] = fmaxf(gradient_errors[blockIdx.x], parts[0][i]);
    activation_errors[blockIdx.x] = fmaxf(activation_errors[blockIdx.x], parts[1][i]);
  }
}

template <typename T>
void RunGradients(const Problem& problem, int output_shift = 0) {
  if (IsLeftOut(problem.shape)) return;
  const JointShape& shape = problem.shape;
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const Inputs<T> inputs(problem);
  const auto packed = jax_rnnt::cuda::PackedJointBytes(shape.H, shape.V);
  DeviceArray<unsigned char> packed_kernel(packed.kernel);
  DeviceArray<float> packed_bias(packed.bias / 4), rows(4 * cells);
  Check(PackAndForward<T>(0, shape, problem.activation, inputs.blank, inputs.first_encoder,
                          inputs.first_predictor, inputs.device_kernel.get(), inputs.first_bias,
                          inputs.device_labels.get(), inputs.device_frames.get(),
                          packed_kernel.get(), packed_bias.get(), rows.get(), rows.get() + cells,
                          rows.get() + 2 * cells, rows.get() + 3 * cells),
        "JointForward");
  Check(cudaMemset(packed_kernel.get(), 0xff, packed.kernel), "poison");
  Check(cudaMemset(packed_bias.get(), 0xff, packed.bias), "poison");
  Check(jax_rnnt::cuda::JointPack<T>(0, shape.H, shape.V, inputs.device_kernel.get(),
                                     inputs.first_bias, packed_kernel.get(), packed_bias.get()),
        "JointPack");
  std::vector<float> cotangents = RandomNumbers<float>(2 * cells, 1);
  for (float& cotangent : cotangents) {
    if (generator() % 3 == 0) cotangent = 0;
  }
  DeviceArray<float> device_cotangents(cotangents);
  const std::vector<int32_t> tiles = RandomTiles(shape);
  DeviceArray<int32_t> device_tiles(tiles);
  const int64_t R = static_cast<int64_t>(tiles.size());
  GuardedArray<T> gradients(R * 128 * shape.V, output_shift);
  GuardedArray<T> activations(R * 128 * shape.H, output_shift);
  GuardedArray<float> bias_parts(R * 8 * shape.V, output_shift);
  const bool has_bias_parts = generator() % 4 != 0;
  Check(jax_rnnt::cuda::JointGradients<T>(
            0, shape, problem.activation, inputs.blank, R, inputs.first_encoder,
            inputs.first_predictor, packed_kernel.get(), packed_bias.get(),
            inputs.device_labels.get(), inputs.device_frames.get(), rows.get() + 2 * cells,
            rows.get() + 3 * cells, device_cotangents.get(), device_cotangents.get() + cells,
            device_tiles.get(), gradients.get(), activations.get(),
            has_bias_parts ? bias_parts.get() : nullptr),
        "JointGradients");
  Check(cudaDeviceSynchronize(), "JointGradientsKernel");

  DeviceArray<float> errors(2 * R * 128);
  GradientReferenceKernel<T><<<static_cast<unsigned int>(R * 128), kReferenceThreads,
                               (shape.H + 3) / 4 * 4 * sizeof(float)>>>(
      shape, problem.activation, inputs.blank, jax_rnnt::cuda::MakeTileGrid(shape),
      inputs.first_encoder, inputs.first_predictor, inputs.device_kernel.get(), inputs.first_bias,
      inputs.device_labels.get(), inputs.device_frames.get(), rows.get() + 2 * cells,
      rows.get() + 3 * cells, device_cotangents.get(), device_cotangents.get() + cells,
      device_tiles.get(), gradients.get(), activations.get(), errors.get(), errors.get() + R * 128);
  Check(cudaGetLastError(), "GradientReferenceKernel launch");
  Check(cudaDeviceSynchronize(), "GradientReferenceKernel");
  const std::vector<float> host_errors = errors.ToHost();
  const auto worst_gradient = std::max_element(host_errors.begin(), host_errors.begin() + R * 128);
  const auto worst_activation = std::max_element(host_errors.begin() + R * 128, host_errors.end());
  double worst_sum = 0;
  if (has_bias_parts) {
    const std::vector<T> got = gradients.ToHost();
    const std::vector<float> sums = bias_parts.ToHost();
    for (int64_t part = 0; part < R * 8; ++part) {
      for (int64_t v = 0; v < shape.V; ++v) {
        double sum = 0, size = 0;
        for (int64_t row = part * 16; row < part * 16 + 16; ++row) {
          const double gradient = static_cast<float>(got[row * shape.V + v]);
          sum += gradient;
          size += std::abs(gradient);
        }
        const double error = std::abs(sums[part * shape.V + v] - sum) / (1e-5 + size / 256);
        worst_sum = std::isnan(error) ? kInfinity : std::max(worst_sum, error);
      }
    }
  }
  const bool is_intact = gradients.IsIntact() && activations.IsIntact() && bias_parts.IsIntact();
  const bool pass = *worst_gradient <= 1 && *worst_activation <= 1 && worst_sum <= 1 && is_intact;
  std::printf(
      "%s gradients %-4s N %d T %d U %d H %d V %d%s%s%s%s: of the bounds, gradients %.2f (cell "
      "%lld), activations %.2f (cell %lld), bias %.2f%s %s\n",
      TypeName<T>(), kActivationNames[static_cast<int>(problem.activation)], shape.N, shape.T,
      shape.U, shape.H, shape.V, problem.has_bias ? "" : " no bias", problem.is_odd ? " odd" : "",
      problem.shift != 0 ? " shifted" : "", output_shift != 0 ? " shifted outputs" : "",
      *worst_gradient, static_cast<long long>(worst_gradient - host_errors.begin()),
      *worst_activation, static_cast<long long>(worst_activation - host_errors.begin() - R * 128),
      worst_sum, is_intact ? "" : ", written beyond the end", pass ? "PASS" : "FAIL");
  std::fflush(stdout);
  failures += !pass;
}

template <typename T>
void CheckGradientProblems() {
  for (int a = 0; a < 5; ++a) {
    RunGradients<T>({{4, 37, 19, 640, 1024}, static_cast<Activation>(a)});
  }
  for (int repeat = 0; repeat < 3; ++repeat) RunGradients<T>({{9, 50, 21, 64, 28}});
  RunGradients<T>({{3, 33, 17, 100, 300}});
  RunGradients<T>({{3, 33, 17, 101, 301}, Activation::kGelu});
  RunGradients<T>({{3, 33, 17, 96, 304}, Activation::kTanh, true, true, false, 1, 4, 1});
  RunGradients<T>({{3, 33, 17, 96, 304}}, 1);
  RunGradients<T>({{2, 20, 12, 1024, 5000}});
  RunGradients<T>({{2, 20, 12, 1408, 257}, Activation::kSilu});
  RunGradients<T>({{2, 20, 12, 704, 256}});
  RunGradients<T>({{1, 1, 1, 1, 1}});
  RunGradients<T>({{1, 17, 9, 8, 2}, Activation::kNone, false});
  RunGradients<T>({{3, 40, 20, 512, 512}, Activation::kTanh, false, false});
  RunGradients<T>({{2, 20, 12, 128, 700}, Activation::kNone, false, true, false, 30, 100});
  for (int repeat = 0; repeat < 4; ++repeat) {
    RunGradients<T>({{4, 40, 20, 72, 600}, Activation::kTanh, true, true, true});
    RunGradients<T>({{4, 40, 20, 72, 300}, Activation::kNone, true, true, true});
  }
}

template <typename T>
void RunHidden(const Problem& problem) {
  const JointShape& shape = problem.shape;
  const int64_t H = shape.H;
  const Inputs<T> inputs(problem);
  const jax_rnnt::cuda::TileGrid grid = jax_rnnt::cuda::MakeTileGrid(shape);
  const std::vector<int32_t> tiles = RandomTiles(shape);
  const int64_t R = static_cast<int64_t>(tiles.size());
  std::vector<T> gradients = RandomNumbers<T>(R * 128 * H, 1);
  std::vector<double> wanted(R * 24 * H), sizes(R * 24 * H);
  for (int64_t cell = 0; cell < R * 128; ++cell) {
    const int64_t r = cell / 128;
    const int64_t row = cell % 128;
    const CellOfList place = FindCell(grid, tiles[r], static_cast<int>(row));
    const bool is_padding = !place.is_tile || inputs.IsPadding(shape, place.n, place.t, place.u);
    for (int64_t h = 0; h < H; ++h) {
      T& gradient = gradients[cell * H + h];
      if (is_padding) {
        gradient = static_cast<T>(static_cast<float>(NAN));
        continue;
      }
      const int64_t encoder_at = (place.n * shape.T + place.t) * H + h + problem.shift;
      const int64_t predictor_at = (place.n * shape.U + place.u) * H + h + problem.shift;
      const float z = static_cast<float>(inputs.encoder[encoder_at]) +
                      static_cast<float>(inputs.predictor[predictor_at]);
      const double d = static_cast<double>(static_cast<float>(gradient));
      const double product = DefineSlope(problem.activation, z) * d;
      // Encoder's parts first, then the predictor's.
      for (int64_t at : {(r * 16 + row / 8) * H + h, R * 16 * H + (r * 8 + row % 8) * H + h}) {
        wanted[at] += product;
        sizes[at] += std::abs(d);
      }
    }
  }
  // Whole granules are at aligned addresses without a shift only.
  gradients.insert(gradients.begin(), problem.shift, static_cast<T>(0.f));
  DeviceArray<T> device_gradients(gradients);
  DeviceArray<int32_t> device_tiles(tiles);
  GuardedArray<float> encoder_parts(R * 16 * H, problem.shift);
  GuardedArray<float> predictor_parts(R * 8 * H, problem.shift);
  Check(jax_rnnt::cuda::JointHidden<T>(
            0, shape, problem.activation, R, inputs.first_encoder, inputs.first_predictor,
            inputs.device_labels.get(), inputs.device_frames.get(), device_tiles.get(),
            device_gradients.get() + problem.shift, encoder_parts.get(), predictor_parts.get()),
        "JointHidden");
  Check(cudaDeviceSynchronize(), "JointHiddenKernel");
  std::vector<float> got = encoder_parts.ToHost();
  const std::vector<float> predictor = predictor_parts.ToHost();
  got.insert(got.end(), predictor.begin(), predictor.end());
  double worst = 0;
  int64_t worst_at = 0;
  for (int64_t i = 0; i < R * 24 * H; ++i) {
    const double bound = 2e-6 * sizes[i];
    double error = got[i] == wanted[i] ? 0 : std::abs(got[i] - wanted[i]) / bound;
    if (std::isnan(error)) error = kInfinity;
    if (error > worst) {
      worst = error;
      worst_at = i;
    }
  }
  const bool is_intact = encoder_parts.IsIntact() && predictor_parts.IsIntact();
  const bool pass = worst <= 1 && is_intact;
  std::printf(
      "%s hidden %-4s N %d T %d U %d H %d%s: %.2f of the bound (at %lld: %g, not %g)%s %s\n",
      TypeName<T>(), kActivationNames[static_cast<int>(problem.activation)], shape.N, shape.T,
      shape.U, shape.H, problem.shift != 0 ? " shifted" : "", worst,
      static_cast<long long>(worst_at), got[worst_at], wanted[worst_at],
      is_intact ? "" : ", written beyond the end", pass ? "PASS" : "FAIL");
  std::fflush(stdout);
  failures += !pass;
}

template <typename T>
void CheckHiddenProblems() {
  for (int a = 0; a < 5; ++a) {
    RunHidden<T>({{4, 37, 19, 640, 30}, static_cast<Activation>(a), true, true, false, 4});
  }
  for (int repeat = 0; repeat < 3; ++repeat) RunHidden<T>({{9, 50, 21, 64, 28}});
  RunHidden<T>({{3, 33, 17, 100, 30}});
  RunHidden<T>({{3, 33, 17, 101, 30}, Activation::kGelu});
  RunHidden<T>({{3, 33, 17, 200, 30}, Activation::kSilu});
  RunHidden<T>({{3, 33, 17, 96, 30}, Activation::kTanh, true, true, false, 1, 4, 1});
  RunHidden<T>({{1, 1, 1, 1, 1}});
  RunHidden<T>({{3, 40, 20, 1500, 5}, Activation::kRelu, false, false});
}

void CheckAddBlocks() {
  constexpr int64_t kBlocks = 7;
  for (int64_t L : {1, 10, 1023, 1028, 10240}) {
    for (int64_t R : {1, 5, 325, 700}) {
      std::vector<float> sums = RandomNumbers<float>(kBlocks * L, 1);
      const std::vector<float> parts = RandomNumbers<float>(R * L, 1);
      std::vector<int32_t> blocks(R);
      for (int32_t& block : blocks) block = static_cast<int32_t>(generator() % (kBlocks + 4)) - 2;
      blocks[generator() % R] = std::numeric_limits<int32_t>::max();
      DeviceArray<float> device_parts(parts);
      DeviceArray<int32_t> device_blocks(blocks);
      GuardedArray<float> device_sums(kBlocks * L);
      Check(cudaMemcpy(device_sums.get(), sums.data(), sums.size() * sizeof(float),
                       cudaMemcpyHostToDevice),
            "copy");
      Check(jax_rnnt::cuda::AddBlocks(0, kBlocks, L, R, device_sums.get(), device_blocks.get(),
                                      device_parts.get(), device_sums.get()),
            "AddBlocks");
      Check(cudaDeviceSynchronize(), "AddBlocksKernel");
      for (int64_t r = 0; r < R; ++r) {
        if (blocks[r] < 0 || blocks[r] >= kBlocks) continue;
        for (int64_t l = 0; l < L; ++l) sums[blocks[r] * L + l] += parts[r * L + l];
      }
      const bool pass = device_sums.ToHost() == sums && device_sums.IsIntact();
      std::printf("add blocks L %lld R %lld %s\n", static_cast<long long>(L),
                  static_cast<long long>(R), pass ? "PASS" : "FAIL");
      failures += !pass;
    }
  }
}

// ----------------------------------------------------------------------------------------- Timing

// Sorted milliseconds of one of `launches` launches in a row.
template <typename Launch>
std::vector<float> Measure(int launches, const Launch& launch) {
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "cudaEventCreate");
  Check(cudaEventCreate(&stop), "cudaEventCreate");
  const auto measure = [&] {
    float milliseconds = 0;
    Check(cudaEventRecord(start), "cudaEventRecord");
    for (int i = 0; i < launches; ++i) launch();
    Check(cudaEventRecord(stop), "cudaEventRecord");
    Check(cudaEventSynchronize(stop), "kernel");
    Check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
    return milliseconds / launches;
  };
  for (float warm_up = 0; warm_up < 500;) warm_up += launches * measure();
  std::vector<float> times(20);
  for (float& time : times) time = measure();
  std::sort(times.begin(), times.end());
  Check(cudaEventDestroy(start), "cudaEventDestroy");
  Check(cudaEventDestroy(stop), "cudaEventDestroy");
  return times;
}

// Few distinct numbers, as random ones for the whole of it would take the host a while.
template <typename T>
std::vector<T> Fill(int64_t count, float scale) {
  const std::vector<T> some = RandomNumbers<T>(65521, scale);
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = some[i % some.size()];
  return values;
}

template <typename T>
void Time(const JointShape& shape, Activation activation) {
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  DeviceArray<T> encoder(Fill<T>(static_cast<int64_t>(shape.N) * shape.T * shape.H, 1));
  DeviceArray<T> predictor(Fill<T>(static_cast<int64_t>(shape.N) * shape.U * shape.H, 1));
  DeviceArray<T> kernel(Fill<T>(static_cast<int64_t>(shape.H) * shape.V, 0.1f));
  DeviceArray<T> bias(Fill<T>(shape.V, 1));
  std::vector<int32_t> host_labels(static_cast<int64_t>(shape.N) * shape.U);
  for (int32_t& label : host_labels) label = static_cast<int32_t>(generator() % shape.V);
  DeviceArray<int32_t> labels(host_labels), frames(std::vector<int32_t>(shape.N, shape.T));
  const auto packed = jax_rnnt::cuda::PackedJointBytes(shape.H, shape.V);
  DeviceArray<unsigned char> packed_kernel(packed.kernel);
  DeviceArray<float> packed_bias(packed.bias / 4), outputs(4 * cells);
  const auto launch = [&] {
    Check(PackAndForward<T>(0, shape, activation, 0, encoder.get(), predictor.get(), kernel.get(),
                            bias.get(), labels.get(), frames.get(), packed_kernel.get(),
                            packed_bias.get(), outputs.get(), outputs.get() + cells,
                            outputs.get() + 2 * cells, outputs.get() + 3 * cells),
          "JointForward");
  };
  const std::vector<float> times = Measure(1, launch);
  const double median = (times[9] + times[10]) / 2;
  std::printf("%s %-4s N %d T %d U %d H %d V %d: %.3f ms (%.3f to %.3f), %.0f TFLOP/s\n",
              TypeName<T>(), kActivationNames[static_cast<int>(activation)], shape.N, shape.T,
              shape.U, shape.H, shape.V, median, times.front(), times.back(),
              2e-9 * cells * shape.H * shape.V / median);
  std::fflush(stdout);
}

// A step of the backward without its products: the first R tiles.
template <typename T>
void TimeBackward(const JointShape& shape, int64_t R) {
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const jax_rnnt::cuda::TileGrid grid = jax_rnnt::cuda::MakeTileGrid(shape);
  DeviceArray<T> encoder(Fill<T>(static_cast<int64_t>(shape.N) * shape.T * shape.H, 1));
  DeviceArray<T> predictor(Fill<T>(static_cast<int64_t>(shape.N) * shape.U * shape.H, 1));
  DeviceArray<T> kernel(Fill<T>(static_cast<int64_t>(shape.H) * shape.V, 0.1f));
  DeviceArray<T> bias(Fill<T>(shape.V, 1));
  DeviceArray<T> hidden_gradients(Fill<T>(R * 128 * shape.H, 1));
  std::vector<int32_t> host_labels(static_cast<int64_t>(shape.N) * shape.U);
  for (int32_t& label : host_labels) label = static_cast<int32_t>(generator() % shape.V);
  DeviceArray<int32_t> labels(host_labels), frames(std::vector<int32_t>(shape.N, shape.T));
  const auto packed = jax_rnnt::cuda::PackedJointBytes(shape.H, shape.V);
  DeviceArray<unsigned char> packed_kernel(packed.kernel);
  DeviceArray<float> packed_bias(packed.bias / 4), rows(4 * cells);
  DeviceArray<float> cotangents(Fill<float>(2 * cells, 1));
  Check(PackAndForward<T>(0, shape, Activation::kTanh, 0, encoder.get(), predictor.get(),
                          kernel.get(), bias.get(), labels.get(), frames.get(), packed_kernel.get(),
                          packed_bias.get(), rows.get(), rows.get() + cells, rows.get() + 2 * cells,
                          rows.get() + 3 * cells),
        "JointForward");
  std::vector<int32_t> host_tiles(R), host_encoder_blocks(R), host_predictor_blocks(R);
  for (int64_t r = 0; r < R; ++r) {
    const uint32_t block = static_cast<uint32_t>(r) / grid.column_blocks;
    host_tiles[r] = static_cast<int32_t>(r);
    host_encoder_blocks[r] = static_cast<int32_t>(block);
    host_predictor_blocks[r] = static_cast<int32_t>(block / grid.frame_blocks * grid.column_blocks +
                                                    r % grid.column_blocks);
  }
  DeviceArray<int32_t> tiles(host_tiles), encoder_blocks(host_encoder_blocks),
      predictor_blocks(host_predictor_blocks);
  DeviceArray<T> logits_gradients(R * 128 * shape.V), activations(R * 128 * shape.H);
  DeviceArray<float> bias_parts(R * 8 * shape.V), encoder_parts(R * 16 * shape.H),
      predictor_parts(R * 8 * shape.H);
  const int64_t encoder_count = static_cast<int64_t>(shape.N) * grid.frame_blocks;
  const int64_t predictor_count = static_cast<int64_t>(shape.N) * grid.column_blocks;
  DeviceArray<float> encoder_sums(encoder_count * 16 * shape.H),
      predictor_sums(predictor_count * 8 * shape.H);
  Check(cudaMemset(encoder_sums.get(), 0, encoder_sums.size() * sizeof(float)), "clear");
  Check(cudaMemset(predictor_sums.get(), 0, predictor_sums.size() * sizeof(float)), "clear");
  const auto gradients = [&](float* parts) {
    Check(jax_rnnt::cuda::JointGradients<T>(0, shape, Activation::kTanh, 0, R, encoder.get(),
                                            predictor.get(), packed_kernel.get(), packed_bias.get(),
                                            labels.get(), frames.get(), rows.get() + 2 * cells,
                                            rows.get() + 3 * cells, cotangents.get(),
                                            cotangents.get() + cells, tiles.get(),
                                            logits_gradients.get(), activations.get(), parts),
          "JointGradients");
  };
  const auto print = [&](const char* name, const std::vector<float>& times) {
    std::printf("%s backward N %d T %d U %d H %d V %d R %lld %s: %.1f us (%.1f to %.1f)",
                TypeName<T>(), shape.N, shape.T, shape.U, shape.H, shape.V,
                static_cast<long long>(R), name, 500 * (times[9] + times[10]), 1000 * times.front(),
                1000 * times.back());
    if (std::strncmp(name, "JointGradients", 14) == 0) {
      std::printf(", %.0f TFLOP/s",
                  2e-9 * R * 128 * shape.H * shape.V / ((times[9] + times[10]) / 2));
    }
    std::printf("\n");
    std::fflush(stdout);
  };
  constexpr int kLaunches = 20;
  print("JointGradients", Measure(kLaunches, [&] { gradients(bias_parts.get()); }));
  print("JointGradients without the bias", Measure(kLaunches, [&] { gradients(nullptr); }));
  print("JointHidden", Measure(kLaunches, [&] {
          Check(jax_rnnt::cuda::JointHidden<T>(0, shape, Activation::kTanh, R, encoder.get(),
                                               predictor.get(), labels.get(), frames.get(),
                                               tiles.get(), hidden_gradients.get(),
                                               encoder_parts.get(), predictor_parts.get()),
                "JointHidden");
        }));
  print("AddBlocks encoder", Measure(kLaunches, [&] {
          Check(jax_rnnt::cuda::AddBlocks(0, encoder_count, 16 * shape.H, R, encoder_sums.get(),
                                          encoder_blocks.get(), encoder_parts.get(),
                                          encoder_sums.get()),
                "AddBlocks");
        }));
  print("AddBlocks predictor", Measure(kLaunches, [&] {
          Check(jax_rnnt::cuda::AddBlocks(0, predictor_count, 8 * shape.H, R, predictor_sums.get(),
                                          predictor_blocks.get(), predictor_parts.get(),
                                          predictor_sums.get()),
                "AddBlocks");
        }));
}

}  // namespace

int main(int argc, char** argv) {
  is_small = argc > 1 && std::strcmp(argv[1], "small") == 0;
  const bool wants_check = argc < 2 || is_small || std::strcmp(argv[1], "check") == 0;
  const bool wants_time = argc < 2 || std::strcmp(argv[1], "time") == 0;
  if (wants_check) {
    CheckActivations();
    CheckProblems<__nv_bfloat16>();
    CheckProblems<__half>();
    CheckGradientProblems<__nv_bfloat16>();
    CheckGradientProblems<__half>();
    CheckHiddenProblems<__nv_bfloat16>();
    CheckHiddenProblems<__half>();
    CheckHiddenProblems<float>();
    CheckAddBlocks();
    std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  }
  if (wants_time) {
    Time<__nv_bfloat16>({32, 400, 100, 640, 1024}, Activation::kTanh);
    Time<__nv_bfloat16>({32, 400, 100, 640, 1024}, Activation::kRelu);
    Time<__nv_bfloat16>({16, 400, 100, 640, 4096}, Activation::kTanh);
    Time<__nv_bfloat16>({16, 400, 100, 1024, 4096}, Activation::kTanh);
    for (int R : {264, 325, 396}) TimeBackward<__nv_bfloat16>({32, 400, 100, 640, 1024}, R);
    for (int R : {132, 162, 264}) TimeBackward<__nv_bfloat16>({16, 400, 100, 640, 4096}, R);
  }
  return failures == 0 ? 0 : 1;
}
