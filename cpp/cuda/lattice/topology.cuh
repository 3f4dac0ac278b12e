// Sets of arcs (dt, du) that are known when a walk is compiled.
#ifndef JAX_RNNT_CUDA_LATTICE_TOPOLOGY_CUH_
#define JAX_RNNT_CUDA_LATTICE_TOPOLOGY_CUH_

#include <cstdint>

#include "core/arcs.h"

namespace jax_rnnt::cuda {

// kDts, kDus: four bits an arc, the first arc lowest.
template <int kCount, uint64_t kDts, uint64_t kDus>
struct Topology {
  static constexpr int kArcs = kCount;

  __host__ __device__ static constexpr int Dt(int k) {
    return static_cast<int>(kDts >> (4 * k) & 15);
  }
  __host__ __device__ static constexpr int Du(int k) {
    return static_cast<int>(kDus >> (4 * k) & 15);
  }
  __host__ __device__ static constexpr int MaxDt(int du) {
    int most = 0;
    for (int k = 0; k < kArcs; ++k) most = Du(k) == du && Dt(k) > most ? Dt(k) : most;
    return most;
  }
  // Whether an arc stays in its frame: lane c of a warp is then at row s - c in step s, else at s.
  __host__ __device__ static constexpr bool Skewed() {
    for (int k = 0; k < kArcs; ++k) {
      if (Dt(k) == 0) return true;
    }
    return false;
  }
  // Steps from the value of an arc's tail to that of its head.
  __host__ __device__ static constexpr int Distance(int k) {
    return Dt(k) + (Skewed() ? Du(k) : 0);
  }
  __host__ __device__ static constexpr int Reach() {
    int most = 0;
    for (int k = 0; k < kArcs; ++k) most = Distance(k) > most ? Distance(k) : most;
    return most;
  }

  // Whether arc k of a topology arranged as this one may be taken from node (t, u); as
  // ArcTopology::Legal says.
  static __device__ __forceinline__ bool Legal(const ArcTopology& arcs, int k, int t, int u,
                                               int frames, int columns) {
    const int on = Dt(k), up = Du(k);
    const bool is_before_end = on == 0 ? t < frames : t < frames - on;
    const bool is_end = on > 0 && t == frames - on && arcs.may_be_last[k] && u + up == columns - 1;
    return u + up < columns && (is_before_end || is_end);
  }

  // The arc's place here, or -1.
  static constexpr int Find(int dt, int du) {
    for (int k = 0; k < kArcs; ++k) {
      if (Dt(k) == dt && Du(k) == du) return k;
    }
    return -1;
  }
  static bool Holds(const ArcTopology& arcs) {
    for (int k = 0; k < arcs.count; ++k) {
      if (Find(arcs.dt[k], arcs.du[k]) < 0) return false;
    }
    return true;
  }
};

// Arcs that are known when a kernel runs.
struct AnyTopology {
  static constexpr int kArcs = kMaxArcs;
};

// The walks that are compiled; any subset of one takes its time. A set that fits into none, such as
// durations above 4, is walked by walk_any.cuh.
using Standard = Topology<2, 0x01, 0x10>;           // (1, 0), (0, 1): RNN-T
using OneSymbol = Topology<2, 0x11, 0x10>;          // (1, 0), (1, 1)
using MultiBlank = Topology<5, 0x08421, 0x10000>;   // (1, 0), (2, 0), (4, 0), (8, 0), (0, 1)
using Tdt = Topology<9, 0x432104321, 0x111110000>;  // (1..4, 0), (0..4, 1)

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_TOPOLOGY_CUH_
