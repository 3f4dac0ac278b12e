// Runs every CUDA kernel once on small inputs whose sizes straddle its blocks, for
// compute-sanitizer to watch, without Python or XLA around it. Every array is an allocation of its
// own, as long as its elements; lengths and labels beyond their range are among the inputs. Exits
// with 1 if an error code comes back or the posteriors of a frame do not sum to one.
//
//   nvcc -std=c++17 -arch=native -lineinfo -Icpp tools/every_kernel.cu
//     cpp/cuda/{rows,lattice}/*.cu -o every_kernel
//   compute-sanitizer --tool memcheck ./every_kernel
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "cuda/lattice/lattice.h"
#include "cuda/rows/pick.h"
#include "device_array.h"
#include "ragged_lengths.h"

namespace {

using jax_rnnt::Check;
using jax_rnnt::DeviceArray;
using jax_rnnt::LatticeLayout;
using jax_rnnt::RowLabels;
using jax_rnnt::Scaled;

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

template <typename T>
void RunPickByRow(int64_t rows, int V, int shift) {
  DeviceArray<int32_t> labels(RandomLabels(rows, V));
  RunPick<T>(rows, V, shift, RowLabels{labels.get()});
}

template <typename T>
void RunPickByColumn(int64_t groups, int64_t lines, int64_t columns, int V, int shift) {
  std::vector<int32_t> counts(groups);
  for (int32_t& count : counts) count = static_cast<int32_t>(generator() % (lines + 3)) - 1;
  DeviceArray<int32_t> labels(RandomLabels(groups * columns, V)), device_counts(counts);
  RunPick<T>(groups * lines * columns, V, shift,
             RowLabels{labels.get(), device_counts.get(), columns, lines});
}

template <typename Real>
void RunLattice(int N, int T, int U, bool compact) {
  auto [frames, labels, offsets, used] = jax_rnnt::DrawLengths(generator, N, T, U);
  const int64_t cells = compact ? used + 5 : static_cast<int64_t>(N) * T * U;
  if (N > 2) frames[N - 1] = compact ? 1 << 30 : -7;
  if (N > 3) labels[N - 2] = U + 1000000;
  DeviceArray<int32_t> device_frames(frames), device_labels(labels), device_offsets(offsets);
  DeviceArray<Real> blank_log_probs(RandomNumbers<Real>(cells, -3, -0.1f));
  DeviceArray<Real> label_log_probs(RandomNumbers<Real>(cells, -3, -0.1f));
  const LatticeLayout layout =
      compact ? jax_rnnt::CompactLayout(N, cells, U + 40, device_frames.get(), device_labels.get(),
                                        device_offsets.get())
              : jax_rnnt::PaddedLayout(N, T, U, device_frames.get(), device_labels.get());
  DeviceArray<Real> costs(N), forward_costs(N), blank_cotangents(cells), label_cotangents(cells);
  DeviceArray<Real> cotangents(std::vector<Real>(N, Real(-1)));
  DeviceArray<Scaled<Real>> values(cells), totals(N);
  DeviceArray<Scaled<Real>> cuts(compact ? cells : static_cast<int64_t>(N) * U * 2);
  DeviceArray<Scaled<Real>> boundaries(compact ? cells : static_cast<int64_t>(N) * T * 2);
  Check(jax_rnnt::cuda::LatticeCost<Real>(0, layout, blank_log_probs.get(), label_log_probs.get(),
                                          costs.get(), cuts.get(), boundaries.get()),
        "LatticeCost");
  Check(jax_rnnt::cuda::LatticeForward<Real>(0, layout, blank_log_probs.get(),
                                             label_log_probs.get(), forward_costs.get(),
                                             values.get(), totals.get(), boundaries.get()),
        "LatticeForward");
  Check(jax_rnnt::cuda::LatticeBackward<Real>(0, layout, cells, blank_log_probs.get(),
                                              label_log_probs.get(), values.get(), totals.get(),
                                              cotangents.get(), blank_cotangents.get(),
                                              label_cotangents.get(), boundaries.get()),
        "LatticeBackward");
  const std::vector<Real> cost = costs.ToHost(), same_cost = forward_costs.ToHost();
  const std::vector<Real> posteriors = blank_cotangents.ToHost();
  for (int n = 0; n < N; ++n) {
    const bool valid = frames[n] >= 1 && frames[n] <= T && labels[n] < U;
    if (valid != !std::isnan(cost[n]) || (valid && cost[n] != same_cost[n])) {
      ++failures;
      std::printf("cost %.9g and %.9g of sequence %d, U = %d, %s\n", double(cost[n]),
                  double(same_cost[n]), n, U, compact ? "compact" : "padded");
    }
    if (!valid) continue;
    const int64_t stride = compact ? labels[n] + 1 : U;
    const Real* row = posteriors.data() + (compact ? offsets[n] : static_cast<int64_t>(n) * T * U);
    for (int t = 0; t < frames[n]; ++t, row += stride) {
      double sum = 0;
      for (int u = 0; u <= labels[n]; ++u) sum += row[u];
      if (!(std::fabs(sum - 1) < 1e-4)) {
        ++failures;
        std::printf("posteriors of frame %d sum to %g, U = %d, %s\n", t, sum, U,
                    compact ? "compact" : "padded");
      }
    }
  }
}

template <typename T>
void RunPicks() {
  for (int V : {1, 3, 8, 28, 33, 50, 64, 129, 500, 513, 1030, 5000, 13001}) {
    for (int shift : {0, 1}) {
      RunPickByRow<T>(V > 400 ? 7 : 301, V, shift);
      RunPickByColumn<T>(V > 400 ? 2 : 9, V > 400 ? 2 : 7, 5, V, shift);
    }
  }
}

template <typename Real>
void RunLattices() {
  for (int U : {1, 5, 31, 32, 33, 65, 321, 460, 700, 930}) {
    for (bool compact : {false, true})
      RunLattice<Real>(U > 100 ? 2 : 5, U > 100 ? 12 : 71, U, compact);
  }
}

}  // namespace

int main() {
  RunPicks<float>();
  RunPicks<__nv_bfloat16>();
  RunPicks<__half>();
  RunPicks<double>();
  RunLattices<float>();
  RunLattices<double>();
  std::printf("every kernel ran, %d failures\n", failures);
  return failures != 0;
}
