// Times the CUDA kernels without Python or XLA around them, and checks samples of what they
// compute.
//
//   nvcc -O2 -std=c++17 -gencode arch=compute_90,code=sm_90 -Icpp benchmarks/kernels.cu
//     cpp/cuda/{rows,lattice}/*.cu -o kernels
//   ./kernels [SECTION...]     sections: rows, lattice, align; all without an argument
//
// rows: PickForward and PickBackward on about 1 GB of logits labelled by column, as the padded loss
// labels them, for each type and V; once with full lengths and once with ragged ones. GB/s count
// the bytes of logits that must move: those of rows that are read and, backward, those of all rows
// that are written. The share is that of the bandwidth of a device-to-device copy, measured before.
//
// lattice: ArcsCost, ArcsForward and ArcsBackward of four topologies on full lengths in float; both
// is the last two in turn. The share is that of a copy of the least bytes that they move: with K
// arcs 12 K + 16 a cell, each arc read twice and its cotangent written, alpha written and read.
// Where beta is stored they move 16 K + 32.
//
// align: LatticeAlign and LatticeTrace on full lengths in float, and both in turn. The share is
// that of a copy of as many bytes as the arcs are.
//
// Each time is the median over bursts of launches between two events, after half a second of
// warm-up. Rows have buffers that take turns, so that nothing is left in the L2 cache from the
// launch before; lattices have the same arcs again. Exits with 1 if a sampled row is not what
// float64 on the host says.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "../tools/device_array.h"
#include "../tools/device_timing.cuh"
#include "core/row_label.h"
#include "cuda/rows/pick.h"
#include "kernels_lattice.cuh"

namespace {

using jax_rnnt::Check;
using jax_rnnt::DeviceArray;
using jax_rnnt::Fill;
using jax_rnnt::MedianSeconds;
using jax_rnnt::RowLabels;

int failures = 0;

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

struct Section {
  const char* name;
  void (*run)(double copy_bandwidth);
};

constexpr Section kSections[] = {{"rows", RunRowsSection},
                                 {"lattice", jax_rnnt::RunLatticeSection},
                                 {"align", jax_rnnt::RunAlignSection}};

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
  const double copy_bandwidth = jax_rnnt::CopyBandwidth();
  std::printf("%s, copy %.0f GB/s (read and written)\n", device.name, copy_bandwidth * 1e-9);
  for (const Section& section : kSections) {
    const auto is_this = [&](const char* name) { return std::strcmp(name, section.name) == 0; };
    if (argc == 1 || std::any_of(argv + 1, argv + argc, is_this)) section.run(copy_bandwidth);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
