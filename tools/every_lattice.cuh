// Runs the lattice kernels on ragged batches and compares all that they return with the definition.
#ifndef JAX_RNNT_TOOLS_EVERY_LATTICE_CUH_
#define JAX_RNNT_TOOLS_EVERY_LATTICE_CUH_

#include <cmath>
#include <cstdio>
#include <vector>

#include "cuda/lattice/arcs.h"
#include "device_array.h"
#include "plain_arcs.h"
#include "ragged_lengths.h"

namespace jax_rnnt {

template <typename Real>
struct LatticeCase {
  ArcTopology topology;
  int N;
  int T;
  int U;
  bool compact;
  bool has_ends;  // initial and final; padded only
};

// What the kernels left on the device, on the host.
template <typename Real>
struct LatticeResults {
  std::vector<Real> costs;
  std::vector<Real> same_costs;  // of the call that keeps nothing
  Arrays<Real> arcs;
  std::vector<Real> initial;
  std::vector<Real> final_weights;
};

// `arrays`, and the lengths and offsets of `layout`, are on the device.
template <typename Real>
LatticeResults<Real> RunArcsKernels(const LatticeLayout& layout, int64_t cells,
                                    const ArcTopology& topology, const ArcArrays<Real>& arrays,
                                    const std::vector<Real>& cotangents) {
  const int64_t N = layout.sequences, ends = N * (layout.max_frames + 1);
  DeviceArray<Real> costs(N), same_costs(N), status(2 * N), given(cotangents);
  DeviceArray<Real> initial(arrays.initial != nullptr ? ends : 0);
  DeviceArray<Real> final_weights(arrays.final_weights != nullptr ? ends : 0);
  DeviceArray<Scaled<Real>> alphas(cells), kept(2 * cells), totals(N);
  LatticeLayout two_planes = layout;
  two_planes.planes = 2;
  Scaled<Real>* const kept_betas = kept.get() + layout.plane();
  std::vector<DeviceArray<Real>> results;
  std::vector<Real*> outputs;
  for (int k = 0; k < topology.count; ++k) results.emplace_back(cells);
  for (const DeviceArray<Real>& array : results) outputs.push_back(array.get());
  Check(cuda::ArcsCost<Real>(0, layout, topology, arrays, same_costs.get(), alphas.get(),
                             totals.get(), status.get()),
        "ArcsCost");
  Check(cuda::ArcsForward<Real>(0, two_planes, topology, arrays, costs.get(), kept.get(),
                                kept_betas, totals.get(), status.get()),
        "ArcsForward");
  Check(cuda::ArcsBackward<Real>(0, two_planes, cells, topology, arrays, kept.get(), kept_betas,
                                 totals.get(), given.get(), outputs.data(), initial.get(),
                                 final_weights.get()),
        "ArcsBackward");
  LatticeResults<Real> host = {
      costs.ToHost(), same_costs.ToHost(), {}, initial.ToHost(), final_weights.ToHost()};
  for (const DeviceArray<Real>& array : results) host.arcs.push_back(array.ToHost());
  return host;
}

// Whether a number is what the definition says; NaN and infinities included.
template <typename Real>
bool IsNear(Real actual, double wanted, double scale) {
  if (!std::isfinite(wanted)) return std::isnan(wanted) ? std::isnan(actual) : actual == wanted;
  constexpr double kRounding = sizeof(Real) == sizeof(float) ? 3e-5 : 1e-11;
  return std::fabs(actual - wanted) <= kRounding * std::max(scale, std::fabs(wanted));
}

template <typename Real, typename Random>
void RunLattice(Random& random, const LatticeCase<Real>& shape, int* failures) {
  const ArcTopology& topology = shape.topology;
  const int N = shape.N, T = shape.T, U = shape.U;
  const bool compact = shape.compact, has_ends = shape.has_ends;
  auto [frames, labels, offsets, used] = DrawLengths(random, N, T, U);
  const int64_t cells = compact ? used + 5 : static_cast<int64_t>(N) * T * U;
  if (N > 2) frames[N - 1] = compact ? 1 << 30 : -7;
  if (N > 3) labels[N - 2] = U + 1000000;
  const Arrays<Real> weights = DrawWeights<Real>(random, topology.count, cells, T + U);
  const Arrays<Real> ends =
      DrawWeights<Real>(random, 2, has_ends ? int64_t{N} * (T + 1) : 0, T + U);
  DeviceArray<int32_t> device_frames(frames), device_labels(labels), device_offsets(offsets);
  DeviceArray<Real> initial(ends[0]), final_weights(ends[1]);
  std::vector<DeviceArray<Real>> arcs;
  for (const std::vector<Real>& array : weights) arcs.emplace_back(array);
  ArcArrays<Real> on_host = {}, on_device = {};
  for (int k = 0; k < topology.count; ++k) {
    on_host.arcs[k] = weights[k].data();
    on_device.arcs[k] = arcs[k].get();
  }
  if (has_ends) {
    on_host.initial = ends[0].data(), on_host.final_weights = ends[1].data();
    on_device.initial = initial.get(), on_device.final_weights = final_weights.get();
  }
  const auto make_layout = [&](const int32_t* t, const int32_t* u, const int32_t* o) {
    return compact ? CompactLayout(N, cells, U + 40, t, u, o) : PaddedLayout(N, T, U, t, u);
  };
  std::vector<Real> cotangents(N);
  for (Real& c : cotangents) c = static_cast<Real>(static_cast<int>(random() % 5) - 2);
  const LatticeResults<Real> results =
      RunArcsKernels(make_layout(device_frames.get(), device_labels.get(), device_offsets.get()),
                     cells, topology, on_device, cotangents);
  const LatticeLayout layout = make_layout(frames.data(), labels.data(), offsets.data());

  Arrays<double> wanted(topology.count, std::vector<double>(cells));
  Arrays<double> wanted_ends(2, std::vector<double>(has_ends ? int64_t{N} * (T + 1) : 0));
  const auto expect = [&](const char* what, Real actual, double want, double scale, int64_t at) {
    if (IsNear(actual, want, scale) || ++*failures > 20) return;
    std::printf("%s %lld: %.9g, not %.9g; %d arcs, T = %d, U = %d, %s%s\n", what,
                static_cast<long long>(at), double(actual), want, topology.count, T, U,
                compact ? "compact" : "padded", has_ends ? ", initial and final" : "");
  };
  for (int n = 0; n < N; ++n) {
    const LatticeSequence s = layout.Sequence(n);
    PlainArcs plain;
    plain.cost = NAN;
    if (s.valid) {
      ArcArrays<Real> own = on_host;
      if (has_ends) own.initial += n * (T + 1), own.final_weights += n * (T + 1);
      plain = ArcsByDefinition(s, topology, own);
      for (int k = 0; k < topology.count; ++k) {
        for (int64_t i = 0; i < int64_t{s.frames} * s.columns; ++i) {
          wanted[k][s.first + i / s.columns * s.stride + i % s.columns] =
              -cotangents[n] * plain.arcs[k][i];
        }
      }
      for (int t = 0; has_ends && t <= s.frames; ++t) {
        wanted_ends[0][n * (T + 1) + t] = -cotangents[n] * plain.initial[t];
        wanted_ends[1][n * (T + 1) + t] = -cotangents[n] * plain.final_weights[t];
      }
    }
    expect("cost", results.costs[n], plain.cost, 1, n);
    expect("cost alone", results.same_costs[n], plain.cost, 1, n);
  }
  for (int k = 0; k < topology.count; ++k) {
    for (int64_t i = 0; i < cells; ++i) expect("arc", results.arcs[k][i], wanted[k][i], 1, i);
  }
  for (size_t i = 0; i < wanted_ends[0].size(); ++i) {
    expect("initial", results.initial[i], wanted_ends[0][i], 1, i);
    expect("final", results.final_weights[i], wanted_ends[1][i], 1, i);
  }
}

// Sizes that straddle chunks, 32 columns, blocks and panels.
template <typename Real, typename Random>
void RunLattices(Random& random, int* failures) {
  for (const ArcTopology& topology : EveryTopology()) {
    for (int U : {1, 5, 31, 32, 33, 65, 321, 700}) {
      for (int T : {1, 7, 71}) {
        const int N = U > 100 ? 2 : 5, frames = U > 100 ? T / 6 + 1 : T;
        for (bool compact : {false, true}) {
          RunLattice<Real>(random, {topology, N, frames, U, compact, false}, failures);
        }
        if (U < 100) RunLattice<Real>(random, {topology, N, frames, U, false, true}, failures);
      }
    }
  }
  // So many columns that beta is walked with the cotangents, with weights of every kind.
  for (const ArcTopology& topology : EveryTopology()) {
    for (int i = 0; i < 12; ++i) {
      RunLattice<Real>(random, {topology, 450, 7 + i, 29 + i, false, false}, failures);
    }
    for (int i = 0; i < 6; ++i) {
      RunLattice<Real>(random, {topology, 100, 41, 140 + i, false, false}, failures);
    }
  }
  // More columns than the blocks of a cluster have room for.
  RunLattice<Real>(random, {MakeTopology({{1, 0}, {0, 1}}), 1, 9, 2700, false, false}, failures);
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_EVERY_LATTICE_CUH_
