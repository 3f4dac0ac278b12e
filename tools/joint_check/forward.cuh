// JointForward against the same sums in double.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_FORWARD_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_FORWARD_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <type_traits>
#include <vector>

#include "../device_array.h"
#include "cells.cuh"
#include "core/row_label.h"
#include "lists.cuh"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

// A block per cell; `reference` holds arrays as ResultsIn has them. Shared memory: H numbers
// rounded to even.
template <typename T>
__global__ void ReferenceKernel(DeviceProblem<T> problem, int64_t cells, double* reference) {
  extern __shared__ float x[];
  __shared__ double parts[kReferenceThreads];
  const JointShape& shape = problem.shape;
  const EntriesOptions& entries = problem.entries;
  const int64_t cell = blockIdx.x;
  const int64_t u = cell % shape.U;
  const int64_t line = cell / shape.U;
  const int64_t t = line % shape.T;
  const int64_t n = line / shape.T;
  double* const maxima = reference;
  double* const log_sums = reference + cells;
  double* const logits = reference + 2 * cells;  // of the blank, the label, the picks
  const int count = 2 + entries.pick_count;
  if (problem.IsPadding(n, t, u)) {
    if (threadIdx.x != 0) return;
    maxima[cell] = log_sums[cell] = 0;
    for (int i = 0; i < count; ++i) logits[i * cells + cell] = -INFINITY;
    return;
  }
  const int32_t label = problem.inputs.labels[n * shape.U + u];
  problem.Activations(n, t, u, x);
  double maximum = -INFINITY;
  for (int v = threadIdx.x; v < entries.tokens; v += kReferenceThreads) {
    if (entries.IsInCore(v, label)) maximum = fmax(maximum, problem.Logit(x, v));
  }
  for (int i = threadIdx.x; i < count; i += kReferenceThreads) {
    const int32_t v = i == 0 ? entries.blank : i == 1 ? label : entries.picks[i - 2];
    logits[i * cells + cell] = v == kNoLabel ? -INFINITY : problem.Logit(x, v);
  }
  parts[threadIdx.x] = maximum;
  __syncthreads();
  maximum = -INFINITY;
  for (int i = 0; i < kReferenceThreads; ++i) maximum = fmax(maximum, parts[i]);
  if (maximum == -INFINITY) maximum = 0;
  __syncthreads();
  double sum = 0;
  for (int v = threadIdx.x; v < entries.tokens; v += kReferenceThreads) {
    if (entries.IsInCore(v, label)) sum += exp(problem.Logit(x, v) - maximum);
  }
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (int i = 0; i < kReferenceThreads; ++i) sum += parts[i];
  maxima[cell] = isnan(sum) ? 0 : maximum;
  log_sums[cell] = log(sum);
}

// The largest difference, 0 where both are the same infinity or NaN, and its bound.
inline bool Compare(const char* name, const std::vector<float>& got,
                    const std::vector<double>& wanted, const std::vector<double>& maxima,
                    double bound) {
  double worst = 0;
  int64_t worst_cell = 0;
  for (size_t i = 0; i < got.size(); ++i) {
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
  if (IsLeftOut(problem)) return;
  const JointShape& shape = problem.shape;
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  Inputs<T> inputs(problem);
  inputs.Pack(shape);
  const int picks = problem.options.picks;
  const int arrays = 4 + picks;
  GuardedArray<float> outputs(arrays * cells);
  Check(cuda::JointForward<T>(0, target, shape, problem.activation, inputs.entries, inputs.inputs,
                              inputs.packed, ResultsIn(outputs.get(), cells, picks)),
        "JointForward");
  Check(cudaDeviceSynchronize(), "JointForwardKernel");

  DeviceArray<double> reference(arrays * cells);
  Check(cudaMemset(reference.get(), 0, arrays * cells * sizeof(double)), "clear");
  ReferenceKernel<T><<<static_cast<unsigned int>(cells), kReferenceThreads,
                       (shape.H + 3) / 4 * 4 * sizeof(float)>>>(OnDevice(problem, inputs), cells,
                                                                reference.get());
  Check(cudaGetLastError(), "ReferenceKernel launch");
  Check(cudaDeviceSynchronize(), "ReferenceKernel");

  // Of float32 sums of H products, relative to the row's maximum where that is above 1.
  constexpr double kBound = 1e-4;
  const std::vector<float> got = outputs.ToHost();
  const std::vector<double> wanted = reference.ToHost();
  const std::vector<double> maxima(wanted.begin(), wanted.begin() + cells);
  std::printf("%s ", TypeName<T>());
  Print(problem);
  std::printf(":");
  const char* names[] = {"maximum", "log_sum", "blank", "label", "pick"};
  bool pass = outputs.IsIntact();
  for (int i = 0; i < arrays; ++i) {
    pass &= Compare(names[std::min(i, 4)], {got.begin() + i * cells, got.begin() + (i + 1) * cells},
                    {wanted.begin() + i * cells, wanted.begin() + (i + 1) * cells}, maxima, kBound);
  }
  std::printf(" %s\n", pass ? "PASS" : "FAIL");
  std::fflush(stdout);
  failures += !pass;
}

template <typename T>
void CheckProblems() {
  for (int a = 0; a < cuda::kActivations; ++a) {
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
  for (const Problem& problem : OptionProblems({6, 21, 11, 72, 300})) Run<T>(problem);
  for (const Problem& problem : OptionProblems({3, 17, 9, 136, 28})) Run<T>(problem);
  // Sizes at which the columns' last chunks change: whole, one narrow, three narrow.
  for (int V : {255, 256, 257, 288, 289, 320, 352, 353, 512, 540}) {
    Problem problem{{3, 17, 9, 328, V}};
    problem.options.behind = 2;
    problem.options.picks = 5;
    Run<T>(problem);
  }
  Problem all = OptionProblems({6, 33, 17, 640, 1029}).back();
  Run<T>(all);
  all.shape.H = 1024;
  all.is_odd = true;
  Run<T>(all);
  all.is_padding = true;
  Run<T>(all);
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
