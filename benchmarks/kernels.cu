// Times the CUDA kernels without Python or XLA around them, and checks samples of what they
// compute.
//
//   nvcc -O2 -std=c++17 -gencode arch=compute_90,code=sm_90 -Icpp benchmarks/kernels.cu
//     cpp/cuda/{rows,lattice}/*.cu -o kernels
//   ./kernels [SECTION...]     sections: rows, lattice; all without an argument
//
// rows: PickForward and PickBackward on about 1 GB of logits labelled by column, as the padded loss
// labels them, for each type and V; once with full lengths and once with ragged ones. GB/s count
// the bytes of logits that must move: those of rows that are read and, backward, those of all rows
// that are written. The share is that of the bandwidth of a device-to-device copy, measured before.
//
// lattice: LatticeCost, LatticeForward and LatticeBackward on full lengths in float; both is the
// last two in turn. The share is that of a copy of the lattice's own bytes, 40 a cell.
//
// Each time is the median over bursts of launches between two events, after half a second of
// warm-up, with buffers that take turns, so that nothing is left in the L2 cache from the launch
// before. Exits with 1 if a sampled row is not what float64 on the host says.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "../tools/device_array.h"
#include "core/lattice_layout.h"
#include "core/row_label.h"
#include "cuda/lattice/lattice.h"
#include "cuda/rows/pick.h"

namespace {

using jax_rnnt::Check;
using jax_rnnt::DeviceArray;
using jax_rnnt::RowLabels;

int failures = 0;

// Numbers in [low, high) that depend on their index alone.
template <typename T>
__global__ void FillKernel(T* values, int64_t count, float low, float high) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    uint64_t bits = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 32) * 0xd6e8feb86659fd93u;
    const float unit = static_cast<float>(bits >> 40) * 0x1p-24f;
    values[i] = static_cast<T>(low + unit * (high - low));
  }
}

template <typename T>
void Fill(const DeviceArray<T>& array, float low, float high) {
  FillKernel<<<2048, 256>>>(array.get(), array.size(), low, high);
  Check(cudaGetLastError(), "fill");
}

// Median seconds of launch(0), launch(1), ...
double MedianSeconds(const std::function<void(int)>& launch) {
  constexpr double kWarmUpSeconds = 0.5;
  constexpr double kBurstSeconds = 0.05;
  constexpr int kBursts = 9;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  int launches = 0;
  do {
    for (int i = 0; i < 8; ++i) launch(launches++);
    Check(cudaDeviceSynchronize(), "warm-up");
  } while (elapsed() < kWarmUpSeconds);
  const int burst = std::max(4, static_cast<int>(kBurstSeconds * launches / elapsed()));

  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<double> seconds;
  for (int k = 0; k < kBursts; ++k) {
    Check(cudaEventRecord(begin), "event");
    for (int i = 0; i < burst; ++i) launch(i);
    Check(cudaEventRecord(end), "event");
    Check(cudaEventSynchronize(end), "burst");
    float milliseconds;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    seconds.push_back(milliseconds * 1e-3 / burst);
  }
  Check(cudaEventDestroy(begin), "event");
  Check(cudaEventDestroy(end), "event");
  std::nth_element(seconds.begin(), seconds.begin() + kBursts / 2, seconds.end());
  return seconds[kBursts / 2];
}

// Bytes read and written per second by a copy of 2 GiB.
double CopyBandwidth() {
  constexpr int64_t kBytes = int64_t{1} << 31;
  DeviceArray<char> source(kBytes), target(kBytes);
  Check(cudaMemset(source.get(), 1, kBytes), "memset");
  return 2.0 * kBytes / MedianSeconds([&](int) {
           Check(cudaMemcpyAsync(target.get(), source.get(), kBytes, cudaMemcpyDeviceToDevice),
                 "copy");
         });
}

// ----------------------------------------------------------------------------------------- Rows

constexpr double kRowsBytes = 1e9;
constexpr int64_t kMostRows = 8'000'000;
constexpr int kBuffers = 2;
constexpr int64_t kBufferAlignment = 256;  // bytes, as of a tensor of XLA's
constexpr int kSampledRows = 400;

template <typename T>
constexpr const char* kTypeName = "";
template <>
constexpr const char* kTypeName<float> = "float32";
template <>
constexpr const char* kTypeName<__nv_bfloat16> = "bfloat16";
template <>
constexpr const char* kTypeName<__half> = "float16";

// Relative error of rounding to T.
template <typename T>
constexpr double kRounding = 0;
template <>
constexpr double kRounding<__nv_bfloat16> = 0x1p-8;
template <>
constexpr double kRounding<__half> = 0x1p-11;

struct RowsShape {
  int64_t groups, lines, columns;
  int32_t V;

  int64_t rows() const { return groups * lines * columns; }
};

// The labels of a padded batch on host and device.
struct PaddedLabels {
  PaddedLabels(const RowsShape& shape, bool is_ragged)
      : host_labels(shape.groups * shape.columns), host_counts(shape.groups, shape.lines) {
    std::mt19937 generator(0);
    const int64_t last = shape.columns - 1;
    for (int64_t group = 0; group < shape.groups; ++group) {
      const int64_t length = is_ragged ? last - generator() % (last / 2 + 1) : last;
      if (is_ragged) host_counts[group] -= generator() % (shape.lines / 2 + 1);
      read_rows += host_counts[group] * (length + 1);
      for (int64_t column = 0; column < shape.columns; ++column) {
        host_labels[group * shape.columns + column] =
            column < length    ? static_cast<int32_t>(generator() % shape.V)
            : column == length ? jax_rnnt::kNoLabel
                               : jax_rnnt::kPaddingRow;
      }
    }
  }

  int32_t Label(const RowsShape& shape, int64_t row) const {
    const int64_t line = row / shape.columns;
    const int64_t group = line / shape.lines;
    return line % shape.lines < host_counts[group]
               ? host_labels[group * shape.columns + row % shape.columns]
               : jax_rnnt::kPaddingRow;
  }

  std::vector<int32_t> host_labels, host_counts;
  int64_t read_rows = 0;
};

// What a row's results should be, in float64.
struct ExpectedRow {
  double blank_log_prob, label_log_prob;
  std::vector<double> cotangents;
};

template <typename T>
ExpectedRow ComputeRow(const std::vector<T>& logits, int32_t blank, int32_t label,
                       double blank_cotangent, double label_cotangent) {
  constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
  ExpectedRow row{kMinusInfinity, kMinusInfinity, std::vector<double>(logits.size())};
  if (label < jax_rnnt::kNoLabel) return row;
  if (label == jax_rnnt::kNoLabel) label_cotangent = 0;
  double sum = 0;
  for (T x : logits) sum += std::exp(static_cast<double>(static_cast<float>(x)));
  const auto log_prob = [&](int64_t v) { return static_cast<float>(logits[v]) - std::log(sum); };
  row.blank_log_prob = log_prob(blank);
  if (label != jax_rnnt::kNoLabel) row.label_log_prob = log_prob(label);
  for (size_t v = 0; v < logits.size(); ++v) {
    row.cotangents[v] = -(blank_cotangent + label_cotangent) * std::exp(log_prob(v));
  }
  row.cotangents[blank] += blank_cotangent;
  if (label != jax_rnnt::kNoLabel) row.cotangents[label] += label_cotangent;
  return row;
}

void Expect(const char* what, int64_t row, double actual, double expected, double tolerance) {
  if (actual == expected || std::fabs(actual - expected) <= tolerance) return;
  ++failures;
  if (failures <= 20) {
    std::printf("%s of row %lld: %.9g, not %.9g\n", what, static_cast<long long>(row), actual,
                expected);
  }
}

template <typename T>
void RunRows(int32_t V, bool is_ragged, double copy_bandwidth) {
  const double row_bytes = static_cast<double>(V) * sizeof(T);
  RowsShape shape{0, 150, 41, V};
  const int64_t group_rows = shape.lines * shape.columns;
  const double wanted_rows = std::min<double>(kMostRows, kRowsBytes / row_bytes);
  shape.groups = std::max<int64_t>(1, std::llround(wanted_rows / group_rows));
  const int64_t rows = shape.rows();
  const int32_t blank = V / 3;

  const PaddedLabels padded(shape, is_ragged);
  const DeviceArray<int32_t> device_labels(padded.host_labels), counts(padded.host_counts);
  const RowLabels labels{device_labels.get(), counts.get(), shape.columns, shape.lines};
  constexpr int64_t kAlignment = kBufferAlignment / sizeof(T);
  const int64_t stride = (rows * V + kAlignment - 1) / kAlignment * kAlignment;
  const DeviceArray<T> logits(kBuffers * stride), logits_cotangents(kBuffers * stride);
  Fill(logits, -4, 4);
  const DeviceArray<float> blank_cotangents(rows), label_cotangents(rows);
  Fill(blank_cotangents, -1, -0.1f);
  Fill(label_cotangents, -0.5f, -0.01f);
  const DeviceArray<float> blank_log_probs(rows), label_log_probs(rows), maxima(rows),
      log_sums(rows);

  const auto forward = [&](int i) {
    Check(jax_rnnt::cuda::PickForward<T>(0, rows, V, blank, logits.get() + i % kBuffers * stride,
                                         labels, blank_log_probs.get(), label_log_probs.get(),
                                         maxima.get(), log_sums.get()),
          "PickForward");
  };
  const auto backward = [&](int i) {
    const int64_t offset = i % kBuffers * stride;
    Check(jax_rnnt::cuda::PickBackward<T>(0, rows, V, blank, logits.get() + offset, labels,
                                          maxima.get(), log_sums.get(), blank_cotangents.get(),
                                          label_cotangents.get(), logits_cotangents.get() + offset),
          "PickBackward");
  };
  forward(0);
  backward(0);
  std::mt19937_64 generator(1);
  for (int sample = 0; sample < kSampledRows; ++sample) {
    const int64_t row = sample == 0   ? 0
                        : sample == 1 ? rows - 1
                                      : static_cast<int64_t>(generator() % rows);
    const ExpectedRow expected =
        ComputeRow(logits.ToHost(row * V, V), blank, padded.Label(shape, row),
                   blank_cotangents.ToHost(row, 1)[0], label_cotangents.ToHost(row, 1)[0]);
    const std::vector<T> actual = logits_cotangents.ToHost(row * V, V);
    Expect("blank_log_prob", row, blank_log_probs.ToHost(row, 1)[0], expected.blank_log_prob, 5e-6);
    Expect("label_log_prob", row, label_log_probs.ToHost(row, 1)[0], expected.label_log_prob, 5e-6);
    for (int32_t v = 0; v < V; ++v) {
      Expect("logits_cotangent", row, static_cast<float>(actual[v]), expected.cotangents[v],
             1e-6 + kRounding<T> * std::fabs(expected.cotangents[v]));
    }
  }

  const double read_bytes = padded.read_rows * row_bytes;
  const double written_bytes = rows * row_bytes;
  const auto print = [&](double bytes, double seconds) {
    std::printf("  %9.1f %6.0f %5.1f %%", seconds * 1e6, bytes / seconds * 1e-9,
                100 * bytes / seconds / copy_bandwidth);
  };
  std::printf("%-8s %6d %9lld  %-6s", kTypeName<T>, V, static_cast<long long>(rows),
              is_ragged ? "ragged" : "full");
  print(read_bytes, MedianSeconds(forward));
  forward(0);
  print(read_bytes + written_bytes, MedianSeconds(backward));
  std::printf("\n");
  std::fflush(stdout);
}

template <typename T>
void RunRowsOfType(double copy_bandwidth) {
  for (bool is_ragged : {false, true}) {
    for (int32_t V : {28, 50, 128, 500, 1024, 5000}) RunRows<T>(V, is_ragged, copy_bandwidth);
  }
}

void RunRowsSection(double copy_bandwidth) {
  std::printf("%-8s %6s %9s  %-6s  %24s  %24s\n", "rows", "V", "rows", "length",
              "forward us  GB/s   share", "backward us  GB/s  share");
  RunRowsOfType<float>(copy_bandwidth);
  RunRowsOfType<__nv_bfloat16>(copy_bandwidth);
  RunRowsOfType<__half>(copy_bandwidth);
}

struct LatticeSize {
  int T;
  int U;
  int N;
};

void RunLattice(const LatticeSize& size, double copy_bandwidth) {
  using jax_rnnt::Scaled;
  const auto [T, U, N] = size;
  const int64_t cells = static_cast<int64_t>(N) * T * U;
  const DeviceArray<int32_t> frames(std::vector<int32_t>(N, T));
  const DeviceArray<int32_t> labels(std::vector<int32_t>(N, U - 1));
  const DeviceArray<float> cotangents(std::vector<float>(N, 1.0f));
  const DeviceArray<float> blank_log_probs(cells), label_log_probs(cells), costs(N);
  const DeviceArray<float> blank_cotangents(cells), label_cotangents(cells);
  const DeviceArray<Scaled<float>> values(cells), totals(N), cuts(int64_t{2} * N * U);
  const DeviceArray<Scaled<float>> boundaries(int64_t{2} * N * T);
  Fill(blank_log_probs, -6.0f, -0.05f);
  Fill(label_log_probs, -5.0f, -0.5f);
  jax_rnnt::LatticeLayout layout;
  layout.sequences = N;
  layout.max_frames = T;
  layout.max_columns = U;
  layout.frames_lengths = frames.get();
  layout.labels_lengths = labels.get();
  const auto forward = [&](int) {
    Check(jax_rnnt::cuda::LatticeForward<float>(0, layout, blank_log_probs.get(),
                                                label_log_probs.get(), costs.get(), values.get(),
                                                totals.get(), boundaries.get()),
          "LatticeForward");
  };
  const auto backward = [&](int) {
    Check(jax_rnnt::cuda::LatticeBackward<float>(0, layout, cells, blank_log_probs.get(),
                                                 label_log_probs.get(), values.get(), totals.get(),
                                                 cotangents.get(), blank_cotangents.get(),
                                                 label_cotangents.get(), boundaries.get()),
          "LatticeBackward");
  };
  const double cost_seconds = MedianSeconds([&](int) {
    Check(
        jax_rnnt::cuda::LatticeCost<float>(0, layout, blank_log_probs.get(), label_log_probs.get(),
                                           costs.get(), cuts.get(), boundaries.get()),
        "LatticeCost");
  });
  const double forward_seconds = MedianSeconds(forward);
  const double backward_seconds = MedianSeconds(backward);
  const double both_seconds = MedianSeconds([&](int i) {
    forward(i);
    backward(i);
  });
  std::printf("%6d %5d %5d %10.1f %12.1f %12.1f %10.1f %6.1f %%\n", T, U, N, cost_seconds * 1e6,
              forward_seconds * 1e6, backward_seconds * 1e6, both_seconds * 1e6,
              40.0 * cells / both_seconds / copy_bandwidth * 100);
}

void RunLatticeSection(double copy_bandwidth) {
  std::printf("lattice T   U     N    cost us   forward us  backward us    both us  share\n");
  for (const LatticeSize& size :
       {LatticeSize{150, 40, 1}, LatticeSize{150, 40, 128}, LatticeSize{400, 100, 32},
        LatticeSize{1500, 300, 1}, LatticeSize{1500, 300, 16}, LatticeSize{1500, 300, 64},
        LatticeSize{1500, 300, 128}}) {
    RunLattice(size, copy_bandwidth);
  }
}

struct Section {
  const char* name;
  void (*run)(double copy_bandwidth);
};

constexpr Section kSections[] = {{"rows", RunRowsSection}, {"lattice", RunLatticeSection}};

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const auto is_named = [&](const Section& s) { return std::strcmp(s.name, argv[i]) == 0; };
    if (std::none_of(std::begin(kSections), std::end(kSections), is_named)) {
      std::printf("no section %s\n", argv[i]);
      return 1;
    }
  }
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0), "device");
  const double copy_bandwidth = CopyBandwidth();
  std::printf("%s, copy %.0f GB/s (read and written)\n", device.name, copy_bandwidth * 1e-9);
  for (const Section& section : kSections) {
    const auto is_this = [&](const char* name) { return std::strcmp(name, section.name) == 0; };
    if (argc == 1 || std::any_of(argv + 1, argv + argc, is_this)) section.run(copy_bandwidth);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
