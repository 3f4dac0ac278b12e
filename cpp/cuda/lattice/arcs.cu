// Chooses and launches the kernels of lattices over arcs.
#include <algorithm>

#include "cuda/lattice/arcs.h"
#include "cuda/lattice/launch.cuh"
#include "cuda/lattice/posteriors.cuh"
#include "cuda/lattice/walk.cuh"
#include "cuda/lattice/walk_any.cuh"
#include "cuda/lattice/walk_cotangents.cuh"

namespace jax_rnnt::cuda {
namespace {

// Walks with arcs copied kFar chunks ahead where that much shared memory is to be had without more
// blocks, else one chunk ahead: a chunk takes 0.5 us of a few sequences and 2 of many.
template <class Topo, typename Real>
cudaError_t LaunchBestWalk(cudaStream_t stream, const WalkArguments<Real>& arguments,
                           const Limits& limits) {
  constexpr int kFarAhead = Topo::kArcs > 6 ? 2 : 3;
  using NearColumns = Columns<Topo, Real, 1, Leaves::kValues>;
  using FarColumns = Columns<Topo, Real, kFarAhead, Leaves::kValues>;
  Walk<NearColumns, WalkArguments<Real>> near = {WalkKernel<NearColumns>};
  Walk<FarColumns, WalkArguments<Real>> far = {WalkKernel<FarColumns>};
  cudaError_t error = near.Ready(limits);
  if (error != cudaSuccess) return error;
  error = far.Ready(limits);
  if (error != cudaSuccess) return error;
  const int64_t walks = arguments.layout.sequences * arguments.directions();
  const int64_t columns = ExpectedColumns(arguments.layout);
  const Shape near_shape = near.Choose(walks, columns), far_shape = far.Choose(walks, columns);
  const bool is_far = far_shape.blocks <= near_shape.blocks &&
                      far_shape.block_columns >= near_shape.block_columns && far.Fits();
  return is_far ? far.Launch(stream, arguments, walks, far_shape)
                : near.Launch(stream, arguments, walks, near_shape);
}

template <typename Real>
bool HasEnds(const ArcArrays<Real>& arrays) {
  return arrays.initial != nullptr || arrays.final_weights != nullptr;
}

// From so many columns a multiprocessor on, alpha alone is walked forward, and beta backward with
// the cotangents (walk_cotangents.cuh): the bytes of beta then take longer than the steps of
// another walk. Of more arcs than two the writer would be what takes longest. Padded arcs alone: of
// compact ones nobody knows the columns in advance.
constexpr int64_t kManyColumns = 96;

// Calls call(walk, shape) with the walk of cotangents, where that is how this lattice is walked.
template <class Topo, typename Real, typename Call>
cudaError_t IfCotangentsAreWalked(const LatticeLayout& layout, const Limits& limits,
                                  const Call& call) {
  using C = Columns<Topo, Real, 1, Leaves::kTerms>;
  Walk<C, PosteriorArguments<Real>> walk = {CotangentWalkKernel<C>};
  const cudaError_t error = walk.Ready(limits);
  if (error != cudaSuccess || !walk.Fits()) return error;
  const Shape shape = walk.Choose(layout.sequences, layout.max_columns);
  const int64_t room = int64_t{shape.blocks} * shape.block_columns * kWarpSize;
  const int64_t far_bytes = kKeptRows * layout.max_columns * sizeof(Scaled<Real>);
  if (layout.max_columns > room ||
      far_bytes > static_cast<int64_t>(shape.block_columns * sizeof(C))) {
    return cudaSuccess;
  }
  return call(walk, shape);
}
template <typename Real, typename Call>
cudaError_t IfCotangentsAreWalked(const LatticeLayout& layout, const ArcTopology& topology,
                                  const ArcArrays<Real>& arrays, const Limits& limits,
                                  const Call& call) {
  if constexpr (sizeof(Real) == sizeof(float)) {
    const bool has_many =
        layout.sequences * layout.max_columns >= kManyColumns * limits.multiprocessors;
    if (layout.compact() || HasEnds(arrays) || !has_many) return cudaSuccess;
    if (Standard::Holds(topology)) {
      return IfCotangentsAreWalked<Standard, Real>(layout, limits, call);
    }
    if (OneSymbol::Holds(topology)) {
      return IfCotangentsAreWalked<OneSymbol, Real>(layout, limits, call);
    }
  }
  return cudaSuccess;
}

// is_checked: whether the walk's numbers have bounds that must be looked at.
template <typename Real>
cudaError_t LaunchWalks(cudaStream_t stream, const WalkArguments<Real>& arguments,
                        const Limits& limits, bool* is_checked) {
  const auto fits = [&](auto topology) {
    using Topo = decltype(topology);
    return Topo::Holds(arguments.topology) &&
           static_cast<int>(sizeof(Columns<Topo, Real, 1, Leaves::kValues>)) <=
               limits.shared_memory;
  };
  *is_checked = true;
  if (!HasEnds(arguments.arrays)) {
    if (fits(Standard())) return LaunchBestWalk<Standard>(stream, arguments, limits);
    if (fits(OneSymbol())) return LaunchBestWalk<OneSymbol>(stream, arguments, limits);
    if (fits(MultiBlank())) return LaunchBestWalk<MultiBlank>(stream, arguments, limits);
    if (fits(Tdt())) return LaunchBestWalk<Tdt>(stream, arguments, limits);
  }
  *is_checked = false;
  const int64_t blocks = arguments.layout.sequences * arguments.directions();
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  WalkAnyKernel<Real><<<static_cast<unsigned>(blocks), kAnyThreads, 0, stream>>>(arguments);
  return cudaGetLastError();
}

template <typename Real>
cudaError_t LaunchForward(cudaStream_t stream, const WalkArguments<Real>& arguments,
                          const Limits& limits, Real* costs) {
  bool is_checked;
  const cudaError_t error = LaunchWalks(stream, arguments, limits, &is_checked);
  if (error != cudaSuccess) return error;
  FinishKernel<Real><<<static_cast<unsigned>(arguments.layout.sequences), kAnyThreads, 0, stream>>>(
      arguments, is_checked, costs);
  return cudaGetLastError();
}

template <class Topo, typename Real>
cudaError_t LaunchPosteriors(cudaStream_t stream, const PosteriorArguments<Real>& arguments) {
  const int64_t blocks = arguments.layout.sequences * arguments.blocks;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  PosteriorKernel<Topo, Real>
      <<<static_cast<unsigned>(blocks), kPosteriorThreads, 0, stream>>>(arguments);
  return cudaGetLastError();
}

// Runs of 8 cells a thread, fewer where the device would not be full of blocks.
void ChooseRuns(const LatticeLayout& layout, int multiprocessors, int* blocks, int* block_cells) {
  const int64_t cells = layout.compact() ? 2 * layout.rows_per_group / layout.sequences_per_group
                                         : layout.max_frames * layout.max_columns;
  const auto count = [&](int64_t run) { return std::max<int64_t>(1, (cells + run - 1) / run); };
  int64_t run = 8 * kPosteriorThreads;
  while (run > kPosteriorThreads && layout.sequences * count(run) < 4 * multiprocessors) run /= 2;
  constexpr int64_t kMostBlocks = 1 << 16;
  *blocks = static_cast<int>(
      std::min({count(run), kMostBlocks, std::max<int64_t>(1, INT32_MAX / layout.sequences)}));
  *block_cells = static_cast<int>(run);
}

}  // namespace

template <typename Real>
cudaError_t ArcsCost(cudaStream_t stream, const LatticeLayout& layout, const ArcTopology& topology,
                     const ArcArrays<Real>& arrays, Real* costs, Scaled<Real>* alphas,
                     Scaled<Real>* totals, Real* status) {
  if (layout.sequences == 0) return cudaSuccess;
  Limits limits;
  const cudaError_t error = GetLimits(&limits);
  if (error != cudaSuccess) return error;
  return LaunchForward<Real>(
      stream, {layout, topology, arrays, /*keeps_values=*/false, alphas, nullptr, totals, status},
      limits, costs);
}

template <typename Real>
cudaError_t ArcsForward(cudaStream_t stream, const LatticeLayout& layout,
                        const ArcTopology& topology, const ArcArrays<Real>& arrays, Real* costs,
                        Scaled<Real>* alphas, Scaled<Real>* betas, Scaled<Real>* totals,
                        Real* status) {
  if (layout.sequences == 0) return cudaSuccess;
  Limits limits;
  cudaError_t error = GetLimits(&limits);
  if (error != cudaSuccess) return error;
  Scaled<Real>* marks = nullptr;
  error = IfCotangentsAreWalked(layout, topology, arrays, limits, [&](const auto&, const Shape&) {
    marks = betas;
    return cudaSuccess;
  });
  if (error != cudaSuccess) return error;
  Scaled<Real>* const walked = marks == nullptr ? betas : nullptr;
  return LaunchForward<Real>(
      stream,
      {layout, topology, arrays, /*keeps_values=*/true, alphas, walked, totals, status, marks},
      limits, costs);
}

template <typename Real>
cudaError_t ArcsBackward(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                         const ArcTopology& topology, const ArcArrays<Real>& arrays,
                         const Scaled<Real>* alphas, const Scaled<Real>* betas,
                         const Scaled<Real>* totals, const Real* cotangents,
                         Real* const* arc_cotangents, Real* initial_cotangents,
                         Real* final_cotangents) {
  PosteriorArguments<Real> arguments = {layout, topology, arrays,    alphas,
                                        betas,  totals,   cotangents};
  for (int k = 0; k < topology.count; ++k) {
    arguments.arc_cotangents[k] = arc_cotangents[k];
    if (!layout.compact()) continue;
    // Rows between and behind the sequences belong to none of them.
    const cudaError_t error = cudaMemsetAsync(arc_cotangents[k], 0, cells * sizeof(Real), stream);
    if (error != cudaSuccess) return error;
  }
  if (layout.sequences == 0) return cudaSuccess;
  Limits limits;
  cudaError_t error = GetLimits(&limits);
  if (error != cudaSuccess) return error;
  ChooseRuns(layout, limits.multiprocessors, &arguments.blocks, &arguments.block_cells);
  if (arrays.initial != nullptr) arguments.initial_cotangents = initial_cotangents;
  if (arrays.final_weights != nullptr) arguments.final_cotangents = final_cotangents;
  if (HasEnds(arrays)) {
    EndsKernel<Real>
        <<<static_cast<unsigned>(layout.sequences), kAnyThreads, 0, stream>>>(arguments);
    error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  error = IfCotangentsAreWalked(layout, topology, arrays, limits,
                                [&](const auto& walk, const Shape& shape) {
                                  arguments.is_walked = true;
                                  return walk.Launch(stream, arguments, layout.sequences, shape);
                                });
  if (error != cudaSuccess) return error;
  if (Standard::Holds(topology)) {
    return LaunchPosteriors<Standard>(stream, Arrange<Standard>(arguments));
  }
  if (OneSymbol::Holds(topology)) {
    return LaunchPosteriors<OneSymbol>(stream, Arrange<OneSymbol>(arguments));
  }
  if (MultiBlank::Holds(topology)) {
    return LaunchPosteriors<MultiBlank>(stream, Arrange<MultiBlank>(arguments));
  }
  if (Tdt::Holds(topology)) return LaunchPosteriors<Tdt>(stream, Arrange<Tdt>(arguments));
  return LaunchPosteriors<AnyTopology>(stream, arguments);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                                 \
  template cudaError_t ArcsCost(cudaStream_t, const LatticeLayout&, const ArcTopology&,            \
                                const ArcArrays<Real>&, Real*, Scaled<Real>*, Scaled<Real>*,       \
                                Real*);                                                            \
  template cudaError_t ArcsForward(cudaStream_t, const LatticeLayout&, const ArcTopology&,         \
                                   const ArcArrays<Real>&, Real*, Scaled<Real>*, Scaled<Real>*,    \
                                   Scaled<Real>*, Real*);                                          \
  template cudaError_t ArcsBackward(cudaStream_t, const LatticeLayout&, int64_t,                   \
                                    const ArcTopology&, const ArcArrays<Real>&,                    \
                                    const Scaled<Real>*, const Scaled<Real>*, const Scaled<Real>*, \
                                    const Real*, Real* const*, Real*, Real*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
