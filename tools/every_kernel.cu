// Runs every CUDA kernel once on small inputs whose sizes straddle its blocks, for
// compute-sanitizer to watch, without Python or XLA around it. Every array is an allocation of its
// own, as long as its elements; lengths and labels beyond their range are among the inputs. Exits
// with 1 if an error code comes back or a lattice's numbers are not what its definition says.
//
//   nvcc -std=c++17 -arch=native -lineinfo -Icpp tools/every_kernel.cu
//     cpp/cuda/{rows,lattice}/*.cu -o every_kernel
//   compute-sanitizer --tool memcheck ./every_kernel
// For racecheck it is compiled with -DJAX_RNNT_EVERY_LANE_ARRIVES (cuda/lattice/gate.cuh).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/rows/entries.h"
#include "cuda/rows/pick.h"
#include "device_array.h"
#include "every_align.cuh"
#include "every_lattice.cuh"

namespace {

using jax_rnnt::Check;
using jax_rnnt::DeviceArray;
using jax_rnnt::EntriesCotangents;
using jax_rnnt::EntriesOptions;
using jax_rnnt::EntriesResults;
using jax_rnnt::RowLabels;

int failures = 0;

std::mt19937 generator(0);

template <typename T>
std::vector<T> RandomNumbers(size_t count, float low, float high) {
  std::uniform_real_distribution<float> distribution(low, high);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

// Labels of every kind, padding among them.
std::vector<int32_t> RandomLabels(size_t count, int V) {
  std::vector<int32_t> labels(count);
  for (int32_t& label : labels) label = static_cast<int32_t>(generator() % (V + 3)) - 2;
  return labels;
}

// Rows with labels of either form. Labels must be as many as they need.
template <typename T>
void RunPick(int64_t rows, int V, int shift, const RowLabels& labels) {
  using Real = typename jax_rnnt::cuda::Accumulator<T>::Type;
  const int blank = static_cast<int>(generator() % V);
  DeviceArray<T> logits(RandomNumbers<T>(rows * V + shift, -4, 4));
  DeviceArray<Real> blank_log_probs(rows), label_log_probs(rows), maxima(rows), log_sums(rows);
  Check(jax_rnnt::cuda::PickForward<T>(0, rows, V, blank, logits.get() + shift, labels,
                                       blank_log_probs.get(), label_log_probs.get(), maxima.get(),
                                       log_sums.get()),
        "PickForward");
  DeviceArray<Real> blank_cotangents(RandomNumbers<Real>(rows, -1, 1));
  DeviceArray<Real> label_cotangents(RandomNumbers<Real>(rows, -1, 1));
  DeviceArray<T> logits_cotangents(rows * V + shift);
  for (T* target : {logits_cotangents.get() + shift, logits.get() + shift}) {
    Check(jax_rnnt::cuda::PickBackward<T>(0, rows, V, blank, logits.get() + shift, labels,
                                          maxima.get(), log_sums.get(), blank_cotangents.get(),
                                          label_cotangents.get(), target),
          "PickBackward");
  }
  Check(cudaDeviceSynchronize(), "pick");
}

// The same of V tokens with more logits behind them, some of which are picks, as is the blank.
template <typename T>
void RunEntries(int64_t rows, int V, int behind, int shift, const RowLabels& labels) {
  using Real = typename jax_rnnt::cuda::Accumulator<T>::Type;
  EntriesOptions options;
  options.width = V + behind;
  options.tokens = V;
  options.blank = static_cast<int32_t>(generator() % V);
  options.without_blank = generator() % 2 == 0;
  options.without_label = generator() % 2 == 0;
  options.picks[options.pick_count++] = options.blank;
  for (int i = 0; i < behind; ++i) options.picks[options.pick_count++] = V + i;
  const int64_t count = rows * options.width + shift;
  DeviceArray<T> logits(RandomNumbers<T>(count, -4, 4));
  DeviceArray<Real> maxima(rows), log_sums(rows), blank_logits(rows), label_logits(rows);
  DeviceArray<Real> pick_logits(options.pick_count * rows);
  EntriesResults<Real> results{
      maxima.get(), log_sums.get(), blank_logits.get(), label_logits.get(), {}};
  DeviceArray<Real> sum_cotangents(RandomNumbers<Real>(rows, -1, 1));
  DeviceArray<Real> blank_cotangents(RandomNumbers<Real>(rows, -1, 1));
  DeviceArray<Real> label_cotangents(RandomNumbers<Real>(rows, -1, 1));
  DeviceArray<Real> pick_cotangents(RandomNumbers<Real>(options.pick_count * rows, -1, 1));
  EntriesCotangents<Real> cotangents{
      sum_cotangents.get(), blank_cotangents.get(), label_cotangents.get(), {}};
  for (int i = 0; i < options.pick_count; ++i) {
    results.pick_logits[i] = pick_logits.get() + i * rows;
    cotangents.picks[i] = pick_cotangents.get() + i * rows;
  }
  Check(jax_rnnt::cuda::EntriesForward<T>(0, rows, options, logits.get() + shift, labels, results),
        "EntriesForward");
  DeviceArray<T> logits_cotangents(count);
  for (T* target : {logits_cotangents.get() + shift, logits.get() + shift}) {
    Check(jax_rnnt::cuda::EntriesBackward<T>(0, rows, options, logits.get() + shift, labels,
                                             maxima.get(), log_sums.get(), cotangents, target),
          "EntriesBackward");
  }
  Check(cudaDeviceSynchronize(), "entries");
}

// Rows with as many biases as there are of `rows_of_bias` rows.
template <typename T>
void RunBiased(int64_t rows, int64_t rows_of_bias, int V, int behind, int shift,
               const RowLabels& labels) {
  using Real = typename jax_rnnt::cuda::Accumulator<T>::Type;
  EntriesOptions options;
  options.width = V + behind;
  options.tokens = V;
  options.blank = static_cast<int32_t>(generator() % V);
  options.without_blank = generator() % 2 == 0;
  options.without_label = generator() % 2 == 0;
  options.picks[options.pick_count++] = options.width - 1;
  const int64_t W = options.width;
  DeviceArray<Real> logits(RandomNumbers<Real>(rows * W + shift, -4, 4));
  DeviceArray<Real> bias(RandomNumbers<Real>(rows / rows_of_bias * W + shift, -1, 1));
  DeviceArray<Real> results(5 * rows), cotangents(RandomNumbers<Real>(4 * rows, -1, 1));
  DeviceArray<Real> bounds(RandomNumbers<Real>(rows, 0, 1));
  DeviceArray<Real> bias_parts(rows / rows_of_bias * jax_rnnt::PartsOfBias(rows_of_bias) * W);
  const jax_rnnt::RowBiases<Real> biases{bias.get() + shift, rows_of_bias};
  Real* const numbers = results.get();
  Check(
      jax_rnnt::cuda::EntriesForwardBiased<Real>(
          0, rows, options, logits.get() + shift, biases, labels,
          {numbers, numbers + rows, numbers + 2 * rows, numbers + 3 * rows, {numbers + 4 * rows}}),
      "EntriesForwardBiased");
  DeviceArray<T> logits_cotangents(rows * W + shift);
  const Real* const from = cotangents.get();
  Check(jax_rnnt::cuda::EntriesBackwardBiased<T>(
            0, rows, options, logits.get() + shift, biases, labels, bounds.get(), numbers,
            numbers + rows, {from, from + rows, from + 2 * rows, {from + 3 * rows}},
            logits_cotangents.get() + shift, bias_parts.get()),
        "EntriesBackwardBiased");
  Check(cudaDeviceSynchronize(), "entries with a bias");
}

template <typename T>
void RunRows(int64_t rows, int V, int shift, const RowLabels& labels) {
  RunPick<T>(rows, V, shift, labels);
  RunEntries<T>(rows, V, static_cast<int>(generator() % 10), shift, labels);
  const int64_t rows_of_bias = rows % 2 == 0 && generator() % 2 == 0 ? rows / 2 : rows;
  RunBiased<T>(rows, rows_of_bias, V, static_cast<int>(generator() % 10), shift, labels);
}

template <typename T>
void RunByRow(int64_t rows, int V, int shift) {
  DeviceArray<int32_t> labels(RandomLabels(rows, V));
  RunRows<T>(rows, V, shift, RowLabels{labels.get()});
}

template <typename T>
void RunByColumn(int64_t groups, int64_t lines, int64_t columns, int V, int shift) {
  std::vector<int32_t> counts(groups);
  for (int32_t& count : counts) count = static_cast<int32_t>(generator() % (lines + 3)) - 1;
  DeviceArray<int32_t> labels(RandomLabels(groups * columns, V)), device_counts(counts);
  RunRows<T>(groups * lines * columns, V, shift,
             RowLabels{labels.get(), device_counts.get(), columns, lines});
}

template <typename T>
void RunAllRows() {
  for (int V : {1, 3, 8, 28, 33, 50, 64, 129, 500, 513, 1030, 5000, 13001}) {
    for (int shift : {0, 1}) {
      RunByRow<T>(V > 400 ? 7 : 301, V, shift);
      RunByColumn<T>(V > 400 ? 2 : 9, V > 400 ? 2 : 7, 5, V, shift);
    }
  }
}

}  // namespace

int main() {
  RunAllRows<float>();
  RunAllRows<__nv_bfloat16>();
  RunAllRows<__half>();
  RunAllRows<double>();
  jax_rnnt::RunLattices<float>(generator, &failures);
  jax_rnnt::RunLattices<double>(generator, &failures);
  jax_rnnt::RunAlign<float>(generator, &failures);
  jax_rnnt::RunAlign<double>(generator, &failures);
  std::printf("every kernel ran, %d failures\n", failures);
  return failures != 0;
}
