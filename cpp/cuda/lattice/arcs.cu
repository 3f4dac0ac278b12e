// Chooses and launches the kernels of lattices over arcs.
#include <algorithm>

#include "cuda/lattice/arcs.h"
#include "cuda/lattice/posteriors.cuh"
#include "cuda/lattice/walk.cuh"
#include "cuda/lattice/walk_any.cuh"

namespace jax_rnnt::cuda {
namespace {

// What of a device decides how a walk is launched.
struct Limits {
  int multiprocessors;
  int shared_memory;  // of a block
};

cudaError_t GetLimits(Limits* limits) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&limits->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  return cudaDeviceGetAttribute(&limits->shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                device);
}

// 32 columns of a block, and blocks of a cluster.
struct Shape {
  int block_columns;
  int blocks;
  bool has_clusters;  // an implicit cluster of one block has no cluster instructions
};

constexpr int kMaxClusterBlocks = 8;  // of any device that has clusters
// Shared memory of a block that leaves the rows' first-level cache enough: at (T, U) = (1500, 300),
// N = 64, the walk of five arcs takes 878 us with at most 180 KB and 997 with 220.
constexpr int kComfortableBytes = 180 * 1024;

// A walk of few sequences takes the time of its steps, least where two times 32 columns have a
// multiprocessor of their own; of many, that of memory and instructions, where clusters only serve
// to make room. With two warps for 32 columns, at (1500, 300) on an H100, 2 arcs: N = 1, 127 us in
// 5 blocks and 212 in one; N = 16, 168 in 2 blocks and 174 in 5; N = 64, 465 in one and 574 in 5.
template <class AnyColumns>
Shape ChooseShape(int64_t walks, int64_t columns, bool has_clusters, const Limits& limits) {
  constexpr int kBytes = sizeof(AnyColumns);
  const int bytes = std::min(kComfortableBytes, limits.shared_memory);
  const int most = std::clamp(bytes / kBytes, 1, kMaxBlockColumns<AnyColumns>);
  const int64_t needed = std::max<int64_t>(1, (columns + kWarpSize - 1) / kWarpSize);
  if (!has_clusters) return {static_cast<int>(std::min<int64_t>(needed, most)), 1, false};
  const int64_t free =
      std::max<int64_t>(1, limits.multiprocessors / 2 / std::max<int64_t>(1, walks));
  const int64_t wanted = std::min(free, (needed + 1) / 2);
  const int64_t required = (needed + most - 1) / most;
  int blocks =
      static_cast<int>(std::clamp<int64_t>(std::max(wanted, required), 1, kMaxClusterBlocks));
  // Of the next few, the one that leaves the fewest columns empty.
  const auto empty = [needed](int64_t b) { return (needed + b - 1) / b * b - needed; };
  for (int b = blocks + 1; b <= std::min(blocks + 2, kMaxClusterBlocks) && needed > 1; ++b) {
    if (empty(b) < empty(blocks)) blocks = b;
  }
  const int64_t block_columns = std::min<int64_t>((needed + blocks - 1) / blocks, most);
  return {static_cast<int>(block_columns), blocks, true};
}

// Columns by which a launch is shaped. A compact bound may be the labels of all sequences together:
// twice the mean then; a longer sequence is walked in panels.
int64_t ExpectedColumns(const LatticeLayout& layout) {
  if (!layout.compact()) return layout.max_columns;
  const int64_t labels = 2 * (layout.max_columns - 1) / layout.sequences_per_group;
  return std::min(layout.max_columns, labels + 1);
}

// The arguments with arcs in the order of Topo, null where there is none.
template <class Topo, typename Real>
WalkArguments<Real> Arrange(const WalkArguments<Real>& arguments) {
  WalkArguments<Real> arranged = arguments;
  arranged.arrays = {{}, arguments.arrays.initial, arguments.arrays.final_weights};
  for (int k = 0; k < arguments.topology.count; ++k) {
    const int place = Topo::Find(arguments.topology.dt[k], arguments.topology.du[k]);
    arranged.arrays.arcs[place] = arguments.arrays.arcs[k];
    arranged.topology.may_be_last[place] = arguments.topology.may_be_last[k];
  }
  return arranged;
}
template <class Topo, typename Real>
PosteriorArguments<Real> Arrange(const PosteriorArguments<Real>& arguments) {
  PosteriorArguments<Real> arranged = arguments;
  arranged.arrays = {{}, arguments.arrays.initial, arguments.arrays.final_weights};
  for (Real*& cotangents : arranged.arc_cotangents) cotangents = nullptr;
  for (int k = 0; k < arguments.topology.count; ++k) {
    const int place = Topo::Find(arguments.topology.dt[k], arguments.topology.du[k]);
    arranged.arrays.arcs[place] = arguments.arrays.arcs[k];
    arranged.arc_cotangents[place] = arguments.arc_cotangents[k];
    arranged.topology.may_be_last[place] = arguments.topology.may_be_last[k];
  }
  return arranged;
}

template <class Topo, typename Real, int kPrefetch>
cudaError_t LaunchWalk(cudaStream_t stream, const WalkArguments<Real>& arguments,
                       const Shape& shape) {
  constexpr int kColumnBytes = sizeof(Columns<Topo, Real, kPrefetch>);
  const auto kernel = WalkKernel<Topo, Real, kPrefetch>;
  const int bytes = shape.block_columns * kColumnBytes;
  const int64_t walks = arguments.layout.sequences * arguments.directions();
  if (walks * shape.blocks > INT32_MAX) return cudaErrorInvalidValue;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(shape.blocks), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(walks * shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.block_columns * kColumnsWarps * kWarpSize));
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.has_clusters ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Arrange<Topo>(arguments));
}

// Walks with arcs copied kFar chunks ahead where that much shared memory is to be had without more
// blocks, else one chunk ahead: a chunk takes 0.5 us of a few sequences and 2 of many.
template <class Topo, typename Real>
cudaError_t LaunchBestWalk(cudaStream_t stream, const WalkArguments<Real>& arguments,
                           const Limits& limits) {
  constexpr int kFarAhead = Topo::kArcs > 6 ? 2 : 3;
  using NearColumns = Columns<Topo, Real, 1>;
  using FarColumns = Columns<Topo, Real, kFarAhead>;
  cudaFuncAttributes near, far;
  cudaError_t error = cudaFuncGetAttributes(&near, WalkKernel<Topo, Real, 1>);
  if (error != cudaSuccess) return error;
  error = cudaFuncGetAttributes(&far, WalkKernel<Topo, Real, kFarAhead>);
  if (error != cudaSuccess) return error;
  // The most that a block can ask for, whatever this launch does: another thread may be between
  // these calls and its launch on the same device.
  const int dynamic =
      limits.shared_memory - static_cast<int>(std::max(near.sharedSizeBytes, far.sharedSizeBytes));
  Limits own = limits;
  own.shared_memory = dynamic;
  error = cudaFuncSetAttribute(WalkKernel<Topo, Real, 1>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(WalkKernel<Topo, Real, kFarAhead>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic);
  if (error != cudaSuccess) return error;
  // Machine code of an older architecture's PTX has no clusters on any device.
  const bool has_clusters = near.ptxVersion >= 90;
  const int64_t walks = arguments.layout.sequences * arguments.directions();
  const int64_t columns = ExpectedColumns(arguments.layout);
  const Shape near_shape = ChooseShape<NearColumns>(walks, columns, has_clusters, own);
  const Shape far_shape = ChooseShape<FarColumns>(walks, columns, has_clusters, own);
  const bool is_far = far_shape.blocks <= near_shape.blocks &&
                      far_shape.block_columns >= near_shape.block_columns &&
                      static_cast<int>(sizeof(FarColumns)) <= dynamic;
  return is_far ? LaunchWalk<Topo, Real, kFarAhead>(stream, arguments, far_shape)
                : LaunchWalk<Topo, Real, 1>(stream, arguments, near_shape);
}

// is_checked: whether the walk's numbers have bounds that must be looked at.
template <typename Real>
cudaError_t LaunchWalks(cudaStream_t stream, const WalkArguments<Real>& arguments,
                        bool* is_checked) {
  Limits limits;
  const cudaError_t error = GetLimits(&limits);
  if (error != cudaSuccess) return error;
  const auto fits = [&](auto topology) {
    using Topo = decltype(topology);
    return Topo::Holds(arguments.topology) &&
           static_cast<int>(sizeof(Columns<Topo, Real, 1>)) <= limits.shared_memory;
  };
  *is_checked = true;
  if (arguments.arrays.initial == nullptr && arguments.arrays.final_weights == nullptr) {
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
cudaError_t LaunchForward(cudaStream_t stream, const WalkArguments<Real>& arguments, Real* costs) {
  if (arguments.layout.sequences == 0) return cudaSuccess;
  bool is_checked;
  const cudaError_t error = LaunchWalks(stream, arguments, &is_checked);
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
  return LaunchForward<Real>(stream, {layout, topology, arrays, alphas, nullptr, totals, status},
                             costs);
}

template <typename Real>
cudaError_t ArcsForward(cudaStream_t stream, const LatticeLayout& layout,
                        const ArcTopology& topology, const ArcArrays<Real>& arrays, Real* costs,
                        Scaled<Real>* alphas, Scaled<Real>* betas, Scaled<Real>* totals,
                        Real* status) {
  return LaunchForward<Real>(stream, {layout, topology, arrays, alphas, betas, totals, status},
                             costs);
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
  if (arrays.initial != nullptr || arrays.final_weights != nullptr) {
    EndsKernel<Real>
        <<<static_cast<unsigned>(layout.sequences), kAnyThreads, 0, stream>>>(arguments);
    error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
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
