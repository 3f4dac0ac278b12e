// JointForward against the same sums in double.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_FORWARD_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_FORWARD_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../device_array.h"
#include "activations.cuh"
#include "core/row_label.h"
#include "cuda/joint/pack.h"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

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

// The largest difference, 0 where both are the same infinity or NaN, and its bound.
inline bool Compare(const char* name, const std::vector<float>& got,
                    const std::vector<double>& wanted, const std::vector<double>& log_sums,
                    const std::vector<double>& maxima, double bound) {
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
  if (IsLeftOut(problem.shape)) return;
  const JointShape& shape = problem.shape;
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const Inputs<T> inputs(problem);
  const auto packed = cuda::PackedJointBytes(shape.H, shape.V);
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

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_FORWARD_CUH_
