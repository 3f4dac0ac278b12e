// The shared memory of the three warps that walk 32 columns of a lattice (walk.cuh).
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_COLUMNS_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_COLUMNS_CUH_

#include <cstddef>
#include <cstdint>

#include "core/scaled.h"
#include "cuda/lattice/gate.cuh"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {

// Steps between two looks at anything but registers and slots.
constexpr int kChunk = 8;
static_assert(kChunk <= kMaxUnnormalizedSteps);
// Chunks of rows that a warp may be ahead of its right neighbour.
constexpr int kEntranceChunks = 8;
// Chunks of rows whose arcs may be under way, or whose values not yet written.
constexpr int kStages = 4;

// A value at an address of shared memory.
template <typename Real>
__device__ __forceinline__ Scaled<Real> LoadPair(uint32_t address) {
  Scaled<Real> value;
  LoadSharedPair(address, &value.mantissa, &value.exponent);
  return value;
}

// The values that enter 32 columns from the left, one for each row, a chunk at a time.
template <typename Real>
struct Entrance {
  Scaled<Real> values[kEntranceChunks * kChunk];
  GateWord arrived[kEntranceChunks];
  GateWord vacated[kEntranceChunks];  // has been read; not used in a cluster
};

// An Entrance by its address: one of the cluster (MapToRank) where is_clustered, else one of this
// block.
template <typename Real>
class EntranceAt {
 public:
  __device__ __forceinline__ EntranceAt(uint32_t address, bool is_clustered)
      : address_(address), is_clustered_(is_clustered) {}

  __device__ __forceinline__ Gate<kWarpArrivals> Arrived(int chunk) const {
    return Gate<kWarpArrivals>(GateAt(offsetof(Entrance<Real>, arrived), chunk));
  }
  __device__ __forceinline__ Gate<kWarpArrivals> Vacated(int chunk) const {
    return Gate<kWarpArrivals>(GateAt(offsetof(Entrance<Real>, vacated), chunk));
  }

  // The values of a chunk.
  __device__ __forceinline__ uint32_t Values(int chunk) const {
    return address_ + static_cast<uint32_t>(offsetof(Entrance<Real>, values)) +
           chunk % kEntranceChunks * kChunk * static_cast<uint32_t>(sizeof(Scaled<Real>));
  }

  // One thread's, before anything is sent.
  __device__ void Init() const {
    for (int i = 0; i < kEntranceChunks; ++i) {
      Vacated(i).Init();
      if (is_clustered_) {
        Gate<1>(GateAt(offsetof(Entrance<Real>, arrived), i)).Init();  // Expect's arrival
        Expect(i);
      } else {
        Arrived(i).Init();
      }
    }
  }
  __device__ void Reset() const {
    for (int i = 0; i < kEntranceChunks; ++i) {
      Arrived(i).Reset();
      Vacated(i).Reset();
    }
  }

  // Readies a chunk's place for the chunk that comes kEntranceChunks after the one which was there.
  __device__ __forceinline__ void Expect(int chunk) const {
#if __CUDA_ARCH__ >= 900
    if (is_clustered_) {
      Arrived(chunk).ArriveExpecting(kChunk * static_cast<int>(sizeof(Scaled<Real>)));
    }
#endif
  }

  // Sends this entrance a chunk, one value from each of a warp's first kChunk lanes. In a cluster
  // data and signal come in one, by st.async: the sender may be in another block. Every lane of the
  // warp must take part.
  __device__ __forceinline__ void Send(int chunk, int lane, Scaled<Real> value) const {
    const uint32_t to = Values(chunk) + lane * static_cast<uint32_t>(sizeof(value));
#if __CUDA_ARCH__ >= 900
    if (is_clustered_) {
      if (lane < kChunk) SendAsync(chunk, to, value);
      return;
    }
#endif
    if (lane < kChunk) StoreSharedPair(to, value.mantissa, value.exponent);
    ArriveAsWarp(Arrived(chunk), lane);
  }

 private:
  __device__ __forceinline__ uint32_t GateAt(size_t offset, int chunk) const {
    return address_ + static_cast<uint32_t>(offset) +
           chunk % kEntranceChunks * static_cast<uint32_t>(sizeof(GateWord));
  }

#if __CUDA_ARCH__ >= 900
  __device__ __forceinline__ void SendAsync(int chunk, uint32_t to, Scaled<Real> value) const {
    const uint32_t gate = GateAt(offsetof(Entrance<Real>, arrived), chunk);
    if constexpr (sizeof(Real) == sizeof(float)) {
      asm volatile(
          "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, "
          "[%3];" ::"r"(to),
          "f"(value.mantissa), "f"(value.exponent), "r"(gate)
          : "memory");
    } else {
      asm volatile(
          "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 [%0], {%1, %2}, "
          "[%3];" ::"r"(to),
          "d"(value.mantissa), "d"(value.exponent), "r"(gate)
          : "memory");
    }
  }
#endif

  uint32_t address_;
  bool is_clustered_;
};

// What a walk leaves of a row: its value, in the place of two of its arcs; or each arc's term, in
// the arc's place, and the exponent of all of them in a place of its own.
enum class Leaves { kValues, kTerms };

// kPrefetch: chunks from the copy of a row's arcs to their first use.
template <class Topo_, typename Real_, int kPrefetch_, Leaves kLeaves_>
struct alignas(16) Columns {
  using Topo = Topo_;
  using Real = Real_;
  static constexpr int kPrefetch = kPrefetch_;
  static constexpr Leaves kLeaves = kLeaves_;
  // Numbers of a row in a column's slots.
  static constexpr int kWords = Topo::kArcs + (kLeaves == Leaves::kTerms ? 1 : 0);
  // Rows whose slots are taken: those under way and, where lanes are at different rows, those that
  // the last lane has not passed.
  static constexpr int kRing = kChunk * (kPrefetch + 1) + (Topo::Skewed() ? kWarpSize : 0);
  static_assert(kPrefetch < kStages);
  static_assert(Topo::kArcs >= 2);
  // Chunks of alphas on their way to the writer: it meets them two chunks after it has sent for
  // them. Sent for when it begins to wait for their chunk's steps, they are what it waits for then.
  static constexpr int kHeldChunks = kLeaves == Leaves::kTerms ? 3 : 0;

  Entrance<Real> entrance;
  Scaled<Real> shown[kStages * kChunk];  // the last of the 32 columns, as it is computed
  GateWord full[kStages];                // a chunk of rows is here
  GateWord done[kStages];                // the steps of a chunk are done
  GateWord emptied[kStages];             // the values that a chunk has completed have been read
  unsigned vacated;                      // in a cluster: chunks that the right neighbour has read
  unsigned status;                       // bits of a float; of the block's first: all columns'
  Real slots[(kRing * kWords + 2 * kHeldChunks * kChunk) * kWarpSize];  // alphas behind the rows
};

// Columns by their address, as EntranceAt.
template <class AnyColumns>
class ColumnsAt {
  using Real = typename AnyColumns::Real;

 public:
  __device__ __forceinline__ ColumnsAt(uint32_t address, bool is_clustered)
      : address_(address), is_clustered_(is_clustered) {}

  __device__ __forceinline__ EntranceAt<Real> Entry() const {
    return EntranceAt<Real>(address_ + static_cast<uint32_t>(offsetof(AnyColumns, entrance)),
                            is_clustered_);
  }
  __device__ __forceinline__ Gate<kWarpSize + kWarpArrivals> Full(int chunk) const {
    return Gate<kWarpSize + kWarpArrivals>(Stage(offsetof(AnyColumns, full), chunk));
  }
  __device__ __forceinline__ Gate<kWarpSize> Done(int chunk) const {
    return Gate<kWarpSize>(Stage(offsetof(AnyColumns, done), chunk));
  }
  __device__ __forceinline__ Gate<kWarpArrivals> Emptied(int chunk) const {
    return Gate<kWarpArrivals>(Stage(offsetof(AnyColumns, emptied), chunk));
  }
  __device__ __forceinline__ uint32_t Shown(int chunk) const {
    return address_ + static_cast<uint32_t>(offsetof(AnyColumns, shown)) +
           chunk % kStages * kChunk * static_cast<uint32_t>(sizeof(Scaled<Real>));
  }
  __device__ __forceinline__ uint32_t Vacated() const {
    return address_ + static_cast<uint32_t>(offsetof(AnyColumns, vacated));
  }
  __device__ __forceinline__ uint32_t Status() const {
    return address_ + static_cast<uint32_t>(offsetof(AnyColumns, status));
  }
  // The alphas of a chunk of rows, a row of 32 behind the other.
  __device__ __forceinline__ uint32_t Held(int chunk) const {
    constexpr int kRows = AnyColumns::kRing * AnyColumns::kWords;
    return Slots() +
           static_cast<uint32_t>((kRows + 2 * (chunk % AnyColumns::kHeldChunks) * kChunk) *
                                 kWarpSize * sizeof(Real));
  }
  __device__ __forceinline__ uint32_t Slots() const {
    return address_ + static_cast<uint32_t>(offsetof(AnyColumns, slots));
  }

 private:
  __device__ __forceinline__ uint32_t Stage(size_t offset, int chunk) const {
    return address_ + static_cast<uint32_t>(offset) +
           chunk % kStages * static_cast<uint32_t>(sizeof(GateWord));
  }

  uint32_t address_;
  bool is_clustered_;
};

// A chain of steps, a feeder, a writer.
constexpr int kColumnsWarps = 3;

// The most columns, times 32, of a block: what fits into its 1024 threads and into the 227 KB that
// it can have on an H100.
template <class AnyColumns>
constexpr int kMaxBlockColumns =
    227 * 1024 / sizeof(AnyColumns) < 10 ? 227 * 1024 / sizeof(AnyColumns) : 10;

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_COLUMNS_CUH_
