// How the walks' kernels are launched: their shapes, and their arcs in the order of a topology.
#ifndef JAX_RNNT_CUDA_LATTICE_LAUNCH_CUH_
#define JAX_RNNT_CUDA_LATTICE_LAUNCH_CUH_

#include <algorithm>
#include <cstdint>

#include "cuda/lattice/posteriors.cuh"
#include "cuda/lattice/walk_arguments.cuh"
#include "cuda/lattice/walk_columns.cuh"

namespace jax_rnnt::cuda {

// What of a device decides how a walk is launched.
struct Limits {
  int multiprocessors;
  int shared_memory;  // of a block
};

inline cudaError_t GetLimits(Limits* limits) {
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
inline int64_t ExpectedColumns(const LatticeLayout& layout) {
  if (!layout.compact()) return layout.max_columns;
  const int64_t labels = 2 * (layout.max_columns - 1) / layout.sequences_per_group;
  return std::min(layout.max_columns, labels + 1);
}

// One array for each arc of Topo, null where the topology does not have it.
template <class Topo, typename T>
void Place(const ArcTopology& topology, T* const* arrays, T** placed) {
  std::fill_n(placed, kMaxArcs, nullptr);
  for (int k = 0; k < topology.count; ++k) {
    placed[Topo::Find(topology.dt[k], topology.du[k])] = arrays[k];
  }
}

template <class Topo, class Arguments>
Arguments ArrangeArcs(const Arguments& arguments) {
  Arguments arranged = arguments;
  Place<Topo>(arguments.topology, arguments.arrays.arcs, arranged.arrays.arcs);
  for (int k = 0; k < arguments.topology.count; ++k) {
    const int place = Topo::Find(arguments.topology.dt[k], arguments.topology.du[k]);
    arranged.topology.may_be_last[place] = arguments.topology.may_be_last[k];
  }
  return arranged;
}

// The arguments with arcs in the order of Topo.
template <class Topo, typename Real>
WalkArguments<Real> Arrange(const WalkArguments<Real>& arguments) {
  return ArrangeArcs<Topo>(arguments);
}
template <class Topo, typename Real>
PosteriorArguments<Real> Arrange(const PosteriorArguments<Real>& arguments) {
  PosteriorArguments<Real> arranged = ArrangeArcs<Topo>(arguments);
  Place<Topo>(arguments.topology, arguments.arc_cotangents, arranged.arc_cotangents);
  return arranged;
}

// A kernel on columns C, and what of it decides its launch.
template <class C, class Arguments>
struct Walk {
  using Kernel = void (*)(Arguments);

  // Lets a block ask for the most that it can, whatever this launch does: another thread may be
  // between these calls and its launch on the same device.
  cudaError_t Ready(const Limits& device) {
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    limits = device;
    limits.shared_memory -= static_cast<int>(attributes.sharedSizeBytes);
    // Machine code of an older architecture's PTX has no clusters on any device.
    has_clusters = attributes.ptxVersion >= 90;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                limits.shared_memory);
  }

  bool Fits() const { return static_cast<int>(sizeof(C)) <= limits.shared_memory; }

  Shape Choose(int64_t walks, int64_t columns) const {
    return ChooseShape<C>(walks, columns, has_clusters, limits);
  }

  cudaError_t Launch(cudaStream_t stream, const Arguments& arguments, int64_t walks,
                     const Shape& shape) const {
    if (walks * shape.blocks > INT32_MAX) return cudaErrorInvalidValue;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(shape.blocks), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(walks * shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.block_columns * kColumnsWarps * kWarpSize));
    config.dynamicSmemBytes = shape.block_columns * sizeof(C);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = shape.has_clusters ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, Arrange<typename C::Topo>(arguments));
  }

  Kernel kernel;
  Limits limits = {};
  bool has_clusters = false;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_LAUNCH_CUH_
