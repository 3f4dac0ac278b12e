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
#include "cells.cuh"
#include "core/row_label.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "lists.cuh"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

// A block per cell of the list: how far its gradients and activations are off, as parts of what
// they may be. Shared memory: H numbers rounded to even.
template <typename T>
__global__ void GradientReferenceKernel(DeviceProblem<T> problem, cuda::TileGrid grid,
                                        const int32_t* tiles, const float* bounds,
                                        const float* maxima, const float* log_sums,
                                        EntriesCotangents<float> cotangents, const T* gradients,
                                        const T* activations, float* gradient_errors,
                                        float* activation_errors) {
  extern __shared__ float x[];
  __shared__ float parts[2][kReferenceThreads];
  constexpr double kHalfUlp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
  const JointShape& shape = problem.shape;
  const EntriesOptions& entries = problem.entries;
  const CellOfList cell = FindCell(grid, tiles[blockIdx.x / 128], blockIdx.x % 128);
  const bool is_padding = !cell.is_tile || cell.t >= shape.T || cell.u >= shape.U ||
                          problem.IsPadding(cell.n, cell.t, cell.u);
  if (is_padding) {
    for (int h = threadIdx.x; h < shape.H; h += kReferenceThreads) x[h] = 0;
    __syncthreads();
  } else {
    problem.Activations(cell.n, cell.t, cell.u, x);
  }
  float worst = 0;
  for (int h = threadIdx.x; h < shape.H; h += kReferenceThreads) {
    const float got = static_cast<float>(activations[blockIdx.x * int64_t{shape.H} + h]);
    if (got == x[h] || (isnan(got) && isnan(x[h]))) continue;
    // A dropped unit is 0 itself.
    float error = is_padding || got == 0 || x[h] == 0
                      ? INFINITY
                      : fabsf(got - x[h]) / (1e-6f + 2 * kHalfUlp * fabsf(x[h]));
    worst = isnan(error) ? INFINITY : fmaxf(worst, error);
  }
  parts[1][threadIdx.x] = worst;
  worst = 0;
  float maximum = 0, log_sum = INFINITY, c_sum = 0, bound_of_sequence = INFINITY;
  float added[kMaxEntries] = {};
  int32_t columns[kMaxEntries] = {};
  int32_t label = kNoLabel;
  if (!is_padding) {
    const int64_t place = (cell.n * shape.T + cell.t) * shape.U + cell.u;
    label = problem.inputs.labels[cell.n * shape.U + cell.u];
    maximum = maxima[place];
    log_sum = log_sums[place];
    c_sum = cotangents.sums[place];
    bound_of_sequence = bounds[cell.n];
    added[0] = cotangents.blanks[place];
    columns[0] = entries.blank;
    added[1] = label == kNoLabel ? 0 : cotangents.labels[place];
    columns[1] = label;
    for (int i = 0; i < entries.pick_count; ++i) {
      added[2 + i] = cotangents.picks[i][place];
      columns[2 + i] = entries.picks[i];
    }
  }
  const bool has_sum = c_sum != 0 && isfinite(log_sum);
  for (int64_t v = threadIdx.x; v < entries.width; v += kReferenceThreads) {
    const double got = static_cast<float>(gradients[blockIdx.x * int64_t{entries.width} + v]);
    double wanted = 0, size = 0, spread = 0;
    for (int i = 0; i < 2 + entries.pick_count; ++i) {
      if (columns[i] != v || is_padding) continue;
      wanted += added[i];
      size += fabs(added[i]);
    }
    if (has_sum && entries.IsInCore(static_cast<int32_t>(v), label)) {
      const double term = c_sum * exp(problem.Logit(x, v) - maximum - log_sum);
      wanted += term;
      size += fabs(term);
      spread = fabs(term) * expm1(1e-4 * fmax(1., fabs(static_cast<double>(maximum))));
    }
    const double bound =
        1.01 * kHalfUlp * fabs(wanted) + 1e-6 * size + spread + (wanted == 0 ? 0 : 1e-7);
    if (!isnan(wanted)) {
      wanted = fmin(fmax(wanted, -double{bound_of_sequence}), double{bound_of_sequence});
    }
    if (got == wanted || (isnan(got) && isnan(wanted))) continue;
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
  if (IsLeftOut(problem)) return;
  const JointShape& shape = problem.shape;
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const int32_t W = Width(problem);
  const int picks = problem.options.picks;
  Inputs<T> inputs(problem);
  inputs.Pack(shape);
  DeviceArray<float> rows((4 + picks) * cells);
  Check(cuda::JointForward<T>(0, target, shape, problem.activation, inputs.entries, inputs.inputs,
                              inputs.packed, ResultsIn(rows.get(), cells, picks)),
        "JointForward");
  std::vector<float> cotangents = RandomNumbers<float>((3 + picks) * cells, 1);
  for (float& cotangent : cotangents) {
    if (generator() % 3 == 0) cotangent = 0;
    if (problem.is_odd && generator() % 100 == 0) cotangent = NAN;
  }
  DeviceArray<float> device_cotangents(cotangents);
  const EntriesCotangents<float> cotangent_arrays =
      CotangentsIn(device_cotangents.get(), cells, picks);
  const std::vector<int32_t> tiles = RandomTiles(shape);
  DeviceArray<int32_t> device_tiles(tiles);
  const int64_t R = static_cast<int64_t>(tiles.size());
  GuardedArray<T> gradients(R * 128 * W, output_shift);
  GuardedArray<T> activations(R * 128 * shape.H, output_shift);
  const int64_t parts = cuda::BiasParts(target.products);
  GuardedArray<float> bias_parts(R * parts * W, output_shift);
  const bool has_bias_parts = generator() % 4 != 0;
  const float* maxima = rows.get();
  const float* log_sums = rows.get() + cells;
  Check(cuda::JointGradients<T>(
            0, target, shape, problem.activation, inputs.entries, R, inputs.inputs, inputs.packed,
            device_tiles.get(), inputs.device_bounds.get(), maxima, log_sums, cotangent_arrays,
            gradients.get(), activations.get(), has_bias_parts ? bias_parts.get() : nullptr),
        "JointGradients");
  Check(cudaDeviceSynchronize(), "JointGradientsKernel");

  DeviceArray<float> errors(2 * R * 128);
  GradientReferenceKernel<T><<<static_cast<unsigned int>(R * 128), kReferenceThreads,
                               (shape.H + 3) / 4 * 4 * sizeof(float)>>>(
      OnDevice(problem, inputs), cuda::MakeTileGrid(shape), device_tiles.get(),
      inputs.device_bounds.get(), maxima, log_sums, cotangent_arrays, gradients.get(),
      activations.get(), errors.get(), errors.get() + R * 128);
  Check(cudaGetLastError(), "GradientReferenceKernel launch");
  Check(cudaDeviceSynchronize(), "GradientReferenceKernel");
  const std::vector<float> host_errors = errors.ToHost();
  const auto worst_gradient = std::max_element(host_errors.begin(), host_errors.begin() + R * 128);
  const auto worst_activation = std::max_element(host_errors.begin() + R * 128, host_errors.end());
  double worst_sum = 0;
  if (has_bias_parts) {
    const std::vector<T> got = gradients.ToHost();
    const std::vector<float> sums = bias_parts.ToHost();
    const int64_t part_rows = 128 / parts;
    for (int64_t part = 0; part < R * parts; ++part) {
      for (int64_t v = 0; v < W; ++v) {
        double sum = 0, size = 0;
        for (int64_t row = part * part_rows; row < (part + 1) * part_rows; ++row) {
          const double gradient = static_cast<float>(got[row * W + v]);
          sum += gradient;
          size += std::abs(gradient);
        }
        const double got_sum = sums[part * W + v];
        if (std::isnan(sum) && std::isnan(got_sum)) continue;
        const double error = std::abs(got_sum - sum) / (1e-5 + size / 256);
        worst_sum = std::isnan(error) ? kInfinity : std::max(worst_sum, error);
      }
    }
  }
  const bool is_intact = gradients.IsIntact() && activations.IsIntact() && bias_parts.IsIntact();
  const bool pass = *worst_gradient <= 1 && *worst_activation <= 1 && worst_sum <= 1 && is_intact;
  std::printf("%s gradients ", TypeName<T>());
  Print(problem);
  std::printf(
      "%s: of the bounds, gradients %.2f (cell %lld), activations %.2f (cell %lld), bias %.2f%s "
      "%s\n",
      output_shift != 0 ? " shifted outputs" : "", *worst_gradient,
      static_cast<long long>(worst_gradient - host_errors.begin()), *worst_activation,
      static_cast<long long>(worst_activation - host_errors.begin() - R * 128), worst_sum,
      is_intact ? "" : ", written beyond the end", pass ? "PASS" : "FAIL");
  std::fflush(stdout);
  failures += !pass;
}

template <typename T>
void CheckGradientProblems() {
  for (int a = 0; a < cuda::kActivations; ++a) {
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
  for (const Problem& problem : OptionProblems({6, 21, 11, 72, 300})) RunGradients<T>(problem);
  for (const Problem& problem : OptionProblems({3, 17, 9, 136, 27})) RunGradients<T>(problem);
  for (int V : {254, 255, 256, 257, 286, 287, 318, 350, 351, 512, 540}) {
    Problem problem{{3, 17, 9, 328, V}};
    problem.options.behind = 2;
    problem.options.picks = 5;
    RunGradients<T>(problem);
  }
  Problem all = OptionProblems({6, 33, 17, 640, 1027}).back();
  RunGradients<T>(all);
  all.shape.H = 1024;
  all.is_odd = true;
  RunGradients<T>(all);
  all.is_padding = true;
  RunGradients<T>(all);
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
