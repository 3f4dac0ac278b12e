// The sections `lattice` and `align` of kernels.cu: the lattice's kernels with the arcs of four
// losses, and those of best paths.
#ifndef JAX_RNNT_BENCHMARKS_KERNELS_LATTICE_CUH_
#define JAX_RNNT_BENCHMARKS_KERNELS_LATTICE_CUH_

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../tools/device_array.h"
#include "../tools/device_timing.cuh"
#include "../tools/plain_arcs.h"
#include "../tools/ragged_lengths.h"
#include "core/arcs.h"
#include "core/best_path.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cuda/lattice/align.h"
#include "cuda/lattice/arcs.h"

namespace jax_rnnt {

struct LatticeSize {
  int T;
  int U;
  int N;
};

struct NamedTopology {
  const char* name;
  ArcTopology topology;
};

inline std::vector<NamedTopology> TimedTopologies() {
  return {{"RNN-T", MakeTopology({{1, 0}, {0, 1}}, {{0, 1}})},
          {"one symbol a frame", MakeTopology({{1, 0}, {1, 1}})},
          {"multi-blank 1 2 4 8", MakeTopology({{1, 0}, {2, 0}, {4, 0}, {8, 0}, {0, 1}}, {{0, 1}})},
          {"TDT 0..4",
           MakeTopology({{1, 0}, {2, 0}, {3, 0}, {4, 0}, {0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}},
                        {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}})}};
}

inline void RunLattice(const LatticeSize& size, const NamedTopology& named, double copy_bandwidth) {
  const auto [T, U, N] = size;
  const ArcTopology& topology = named.topology;
  const int64_t cells = static_cast<int64_t>(N) * T * U;
  const DeviceArray<int32_t> frames(std::vector<int32_t>(N, T));
  const DeviceArray<int32_t> labels(std::vector<int32_t>(N, U - 1));
  const DeviceArray<float> cotangents(std::vector<float>(N, 1.0f));
  const DeviceArray<float> costs(N), status(int64_t{2} * N);
  const DeviceArray<Scaled<float>> alphas(cells), betas(cells), totals(N);
  std::vector<DeviceArray<float>> arcs, arc_cotangents;
  ArcArrays<float> arrays = {};
  std::vector<float*> results;
  for (int k = 0; k < topology.count; ++k) {
    arcs.emplace_back(cells);
    arc_cotangents.emplace_back(cells);
    Fill(arcs[k], -6.0f, -0.05f);
    arrays.arcs[k] = arcs[k].get();
    results.push_back(arc_cotangents[k].get());
  }
  const LatticeLayout layout = PaddedLayout(N, T, U, frames.get(), labels.get());
  const auto forward = [&](int) {
    Check(cuda::ArcsForward<float>(0, layout, topology, arrays, costs.get(), alphas.get(),
                                   betas.get(), totals.get(), status.get()),
          "ArcsForward");
  };
  const auto backward = [&](int) {
    Check(
        cuda::ArcsBackward<float>(0, layout, cells, topology, arrays, alphas.get(), betas.get(),
                                  totals.get(), cotangents.get(), results.data(), nullptr, nullptr),
        "ArcsBackward");
  };
  const double cost_seconds = MedianSeconds([&](int) {
    Check(cuda::ArcsCost<float>(0, layout, topology, arrays, costs.get(), alphas.get(),
                                totals.get(), status.get()),
          "ArcsCost");
  });
  const double forward_seconds = MedianSeconds(forward);
  const double backward_seconds = MedianSeconds(backward);
  const double both_seconds = MedianSeconds([&](int i) {
    forward(i);
    backward(i);
  });
  const double least_bytes = (12.0 * topology.count + 16) * cells;
  std::printf("%-20s %5d %4d %4d %10.1f %12.1f %12.1f %10.1f %6.1f %%\n", named.name, T, U, N,
              cost_seconds * 1e6, forward_seconds * 1e6, backward_seconds * 1e6, both_seconds * 1e6,
              least_bytes / both_seconds / copy_bandwidth * 100);
  std::fflush(stdout);
}

inline void RunLatticeSection(double copy_bandwidth) {
  std::printf("%-20s %5s %4s %4s %10s %12s %12s %10s %8s\n", "lattice", "T", "U", "N", "cost us",
              "forward us", "backward us", "both us", "share");
  for (const NamedTopology& named : TimedTopologies()) {
    for (const LatticeSize& size :
         {LatticeSize{150, 40, 1}, LatticeSize{150, 40, 128}, LatticeSize{400, 100, 1},
          LatticeSize{400, 100, 16}, LatticeSize{400, 100, 32}, LatticeSize{400, 100, 64},
          LatticeSize{1500, 300, 1}, LatticeSize{1500, 300, 16}, LatticeSize{1500, 300, 64},
          LatticeSize{1500, 300, 128}}) {
      RunLattice(size, named, copy_bandwidth);
    }
  }
}

inline void RunAlign(const LatticeSize& size, double copy_bandwidth) {
  const auto [T, U, N] = size;
  const int64_t cells = static_cast<int64_t>(N) * T * U, columns = static_cast<int64_t>(N) * U;
  const DeviceArray<int32_t> frames(std::vector<int32_t>(N, T));
  const DeviceArray<int32_t> labels(std::vector<int32_t>(N, U - 1));
  const DeviceArray<float> blank(cells), label(cells), log_probs(N);
  Fill(blank, -6.0f, -0.05f);
  Fill(label, -6.0f, -0.05f);
  std::vector<PathScore<float>> start(columns, {-HUGE_VALF, 0});
  for (int n = 0; n < N; ++n) start[int64_t{n} * U] = {0, 0};
  const DeviceArray<PathScore<float>> before(start), after(columns);
  const LatticeLayout layout = PaddedLayout(N, T, U, frames.get(), labels.get());
  const DeviceArray<int32_t> words(N * CountPathWords(layout)), label_frames(columns);
  const DeviceArray<double> scratch(N * cuda::CountAlignScratch(layout));
  const auto walk = [&](int) {
    Check(cuda::LatticeAlign<float>(0, layout, blank.get(), label.get(), before.get(), after.get(),
                                    words.get(), scratch.get()),
          "LatticeAlign");
  };
  const auto trace = [&](int) {
    Check(cuda::LatticeTrace<float>(0, WordsOfPath(layout), after.get(), words.get(),
                                    log_probs.get(), label_frames.get()),
          "LatticeTrace");
  };
  const double walk_seconds = MedianSeconds(walk), trace_seconds = MedianSeconds(trace);
  const double both_seconds = MedianSeconds([&](int i) {
    walk(i);
    trace(i);
  });
  std::printf("%-20s %5d %4d %4d %10.1f %12.1f %12.1f %6.1f %%\n", "RNN-T", T, U, N,
              walk_seconds * 1e6, trace_seconds * 1e6, both_seconds * 1e6,
              8.0 * cells / both_seconds / copy_bandwidth * 100);
  std::fflush(stdout);
}

inline void RunAlignSection(double copy_bandwidth) {
  std::printf("%-20s %5s %4s %4s %10s %12s %12s %8s\n", "align", "T", "U", "N", "walk us",
              "trace us", "both us", "share");
  for (const LatticeSize& size :
       {LatticeSize{150, 40, 1}, LatticeSize{150, 40, 128}, LatticeSize{400, 100, 1},
        LatticeSize{400, 100, 32}, LatticeSize{1500, 300, 1}, LatticeSize{1500, 300, 32},
        LatticeSize{1500, 300, 128}, LatticeSize{1024, 11000, 1}}) {
    RunAlign(size, copy_bandwidth);
  }
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_BENCHMARKS_KERNELS_LATTICE_CUH_
