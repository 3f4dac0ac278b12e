// JointGradients against the same sums in double.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_GRADIENTS_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_GRADIENTS_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "../device_array.h"
#include "activations.cuh"
#include "core/row_label.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/pack.h"
#include "lists.cuh"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

// A block per cell of the list: how far its gradients and activations are off, as parts of what
// they may be. Shared memory: H numbers rounded to even.
template <typename T>
__global__ void GradientReferenceKernel(JointShape shape, Activation activation, int32_t blank,
                                        cuda::TileGrid grid, const T* encoder, const T* predictor,
                                        const T* kernel, const T* bias, const int32_t* labels,
                                        const int32_t* frames, const float* maxima,
                                        const float* log_sums, const float* blank_cotangents,
                                        const float* label_cotangents, const int32_t* tiles,
                                        const T* gradients, const T* activations,
                                        float* gradient_errors, float* activation_errors) {
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
  const auto packed = cuda::PackedJointBytes(shape.H, shape.V);
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
  Check(cuda::JointPack<T>(0, shape.H, shape.V, inputs.device_kernel.get(), inputs.first_bias,
                           packed_kernel.get(), packed_bias.get()),
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
  Check(cuda::JointGradients<T>(0, shape, problem.activation, inputs.blank, R, inputs.first_encoder,
                                inputs.first_predictor, packed_kernel.get(), packed_bias.get(),
                                inputs.device_labels.get(), inputs.device_frames.get(),
                                rows.get() + 2 * cells, rows.get() + 3 * cells,
                                device_cotangents.get(), device_cotangents.get() + cells,
                                device_tiles.get(), gradients.get(), activations.get(),
                                has_bias_parts ? bias_parts.get() : nullptr),
        "JointGradients");
  Check(cudaDeviceSynchronize(), "JointGradientsKernel");

  DeviceArray<float> errors(2 * R * 128);
  GradientReferenceKernel<T><<<static_cast<unsigned int>(R * 128), kReferenceThreads,
                               (shape.H + 3) / 4 * 4 * sizeof(float)>>>(
      shape, problem.activation, inputs.blank, cuda::MakeTileGrid(shape), inputs.first_encoder,
      inputs.first_predictor, inputs.device_kernel.get(), inputs.first_bias,
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

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_GRADIENTS_CUH_
