// The warp that copies arcs into the slots of 32 columns, ahead of their chain of steps (walk.cuh).
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_FEEDER_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_FEEDER_CUH_

#include "cuda/lattice/walk_place.cuh"
#include "cuda/memory/async_copy.cuh"

namespace jax_rnnt::cuda {

template <class Place>
class Feeder {
  using C = typename Place::C;
  using Topo = typename C::Topo;
  using Real = typename C::Real;
  static constexpr int kArcs = Topo::kArcs;
  static constexpr Real kRound = FloatBits<Real>::kRoundingConstant;
  static constexpr Scaled<Real> kZero = {0, Real(kFloor) - kRound};
  // All arcs are legal from this row on but for a walk's last row.
  static constexpr int kFirstPlainRow = kMaxArcFrames + 1;

 public:
  __device__ explicit Feeder(const Place& place) : place_(place) {}

  // Readies gates, entrance and slots; ClusterSync on both sides.
  __device__ void Begin(C* mine, int first_column) {
    if (place_.lane == 0) {
      if (first_column > 0) {
        place_.mine.Entry().Reset();
        for (int i = 0; i < kStages; ++i) {
          place_.mine.Full(i).Reset();
          place_.mine.Done(i).Reset();
          place_.mine.Emptied(i).Reset();
        }
      }
      mine->vacated = 0;
      place_.mine.Entry().Init();
      for (int i = 0; i < kStages; ++i) {
        place_.mine.Full(i).Init();
        place_.mine.Done(i).Init();
        place_.mine.Emptied(i).Init();
      }
    }
    for (int i = place_.lane; i < kEntranceChunks * kChunk; i += kWarpSize) {
      mine->entrance.values[i] = kZero;
    }
    for (int i = place_.lane; i < C::kRing * C::kWords * kWarpSize; i += kWarpSize) {
      mine->slots[i] = -HUGE_VAL;
    }
  }

  // Feeds these columns' steps in a panel.
  __device__ __forceinline__ void Run(int first_column) {
    const int rows = place_.sequence.frames;
    SetPointers(place_.Column(first_column));
    const bool has_panel = first_column > 0 && place_.index == 0;
    const EntranceAt<Real> own = place_.Neighbour(place_.index).Entry();
    const int chunks = CountChunks<Topo>(rows);
    int slot = place_.FirstSlot();

#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      // The writer has read the values in these slots, where there are any yet, and is no more
      // chunks behind than kStages gates bear.
      const int before = chunk - C::kPrefetch - 1;
      if (before >= 0) place_.mine.Emptied(before).Wait(before / kStages);
      const int first_row = chunk * kChunk;
      if (absent_ == 0 && first_row >= kFirstPlainRow && first_row + kChunk <= rows) {
        CopyIn(slot);
      } else {
        CopyInEdge(first_row, slot);
      }
      // Each lane for its copies, and the warp for what it has stored.
      place_.mine.Full(chunk).ArriveWithCopies();
      ArriveAsWarp(place_.mine.Full(chunk), place_.lane);
      if (has_panel && first_row <= rows) SendStored(own, first_column, chunk);
      slot = Place::NextSlot(slot);
    }
  }

 private:
  // Pointers are at the row that is copied next; they may point outside the arrays where nothing is
  // read.
  __device__ __forceinline__ void SetPointers(int column) {
    column_ = column;
    absent_ = 0;
    const bool is_active = column < place_.sequence.columns;
    wanted_ = 0;
#pragma unroll
    for (int k = 0; k < kArcs; ++k) {
      const Real* const arcs = place_.arguments.arrays.arcs[k];
      source_[k] = arcs + place_.FirstCell(column);
      if (!place_.is_beta) {
        source_[k] -= Topo::Dt(k) * place_.sequence.stride + Topo::Du(k);
      }
      if (C::kLeaves == Leaves::kValues && k < 2 && arcs == nullptr) absent_ |= 1u << k;
      const bool is_wanted = arcs != nullptr && is_active && (Topo::Du(k) == 0 || column > 0);
      wanted_ |= is_wanted ? 1u << k : 0u;
    }
  }

  // Starts the copies of the arcs into the next rows.
  __device__ __forceinline__ void CopyIn(int slot) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const uint32_t slots = place_.SlotsOf(slot, i);
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        CopyAsyncIf(wanted_ & (1u << k),
                    slots + static_cast<uint32_t>(k * kWarpSize * sizeof(Real)),
                    source_[k] + static_cast<int64_t>(place_.row_step) * i);
      }
    }
    AdvanceSources();
  }

  // CopyIn at either end of the rows, where some arcs are illegal, and for lattices without the
  // first two arcs. An arc into row r of alpha leaves row r - dt; beta's leaves row r itself, and
  // leads to row r - dt.
  __device__ void CopyInEdge(int first_row, int slot) {
    const int rows = place_.sequence.frames;
#pragma unroll 1
    for (int i = 0; i < kChunk; ++i) {
      const int row = first_row + i;
      const uint32_t slots = place_.SlotsOf(slot, i);
      if (absent_ != 0) FillAbsent(slots);
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        const int dt = Topo::Dt(k);
        const bool may_be_last = place_.arguments.topology.may_be_last[k];
        // Beta's arcs into row 0 lead to its column 0 alone.
        const bool enters_end = may_be_last && column_ == Topo::Du(k);
        const int lowest = place_.is_beta ? max(1, dt + (enters_end ? 0 : 1)) : dt;
        // Of row T_n alpha's last column alone is led to.
        const bool is_last_column = column_ == place_.sequence.columns - 1;
        const int highest =
            place_.is_beta ? rows
                           : min(rows - (may_be_last && is_last_column ? 0 : 1), rows - 1 + dt);
        const bool is_legal = row >= lowest && row <= highest;
        const uint32_t place = slots + static_cast<uint32_t>(k * kWarpSize * sizeof(Real));
        if (!is_legal) StoreShared(place, Real(-HUGE_VAL));
        CopyAsyncIf(is_legal && (wanted_ & (1u << k)), place,
                    source_[k] + static_cast<int64_t>(place_.row_step) * i);
      }
    }
    AdvanceSources();
  }

  // A row's value takes the place of its first two arcs. Where the lattice does not have both,
  // no copy takes it back.
  __device__ __forceinline__ void FillAbsent(uint32_t slots) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (absent_ & (1u << k)) {
        StoreShared(slots + static_cast<uint32_t>(k * kWarpSize * sizeof(Real)), Real(-HUGE_VAL));
      }
    }
  }

  __device__ __forceinline__ void AdvanceSources() {
#pragma unroll
    for (int k = 0; k < kArcs; ++k) source_[k] += static_cast<int64_t>(place_.row_step) * kChunk;
  }

  // Sends this panel's first lane what the panel before has stored of its last column. Lane 0 needs
  // in step s the row s of it or, where lanes are in one row, row s - 1.
  __device__ void SendStored(EntranceAt<Real> own, int first_column, int chunk) {
    const int row = chunk * kChunk + place_.lane % kChunk - (Topo::Skewed() ? 0 : 1);
    Scaled<Real> value = kZero;
    // Of beta row 0 is zero beyond column 0; of alpha the last row is not needed.
    const bool is_stored = place_.is_beta ? row >= 1 && row <= place_.sequence.frames
                                          : row >= 0 && row < place_.sequence.frames;
    if (is_stored) {
      const int column = first_column - 1;
      const int64_t cell = place_.FirstCell(column) + row * static_cast<int64_t>(place_.row_step);
      const Scaled<Real> stored =
          (place_.is_beta ? place_.arguments.betas
                          : place_.arguments.alphas)[cell + place_.sequence.to_kept];
      value = {stored.mantissa, stored.exponent - kRound};
    }
    own.Send(chunk, place_.lane, value);
  }

  const Place& place_;
  int column_;
  unsigned absent_;  // a bit for each of the first two arcs
  unsigned wanted_;  // a bit for each arc: whether this lane has it at all
  const Real* source_[kArcs];
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_FEEDER_CUH_
