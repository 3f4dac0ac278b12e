// The warp that takes values out of the slots of 32 columns, behind their chain of steps
// (walk.cuh), and passes their last column on.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_WRITER_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_WRITER_CUH_

#include "cuda/lattice/walk_place.cuh"

namespace jax_rnnt::cuda {

template <class Topo, typename Real, int kPrefetch>
class Writer {
  using Place = WalkPlace<Topo, Real, kPrefetch>;
  using C = Columns<Topo, Real, kPrefetch>;
  static constexpr Real kRound = FloatBits<Real>::kRoundingConstant;

 public:
  __device__ explicit Writer(const Place& place) : place_(place) {}

  // Serves these columns' steps in a panel of `used` times 32 columns.
  __device__ __forceinline__ void Run(int64_t n, int first_column, int used) {
    const int rows = place_.sequence.frames, index = place_.index;
    column_ = place_.Column(first_column);
    is_active_ = column_ < place_.sequence.columns;
    out_ = (place_.is_beta ? place_.arguments.betas : place_.arguments.alphas) +
           place_.FirstCell(column_);
    const bool has_right = index + 1 < used, has_left = index > 0;
    const bool has_panel = first_column > 0 && !has_left;
    const EntranceAt<Real> right = place_.Neighbour(has_right ? index + 1 : index).Entry();
    const uint32_t left_vacated = place_.Neighbour(has_left ? index - 1 : index).Vacated();
    const int chunks = CountChunks<Topo>(rows);
    int slot = place_.FirstSlot();

#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      place_.mine.Done(chunk).Wait(chunk / kStages);
      const int complete = chunk - kSkew<Topo> / kChunk;  // the chunk of rows that all lanes passed
      if (has_right && complete >= 0 && complete * kChunk <= rows) PassOn(right, chunk, complete);
      if ((has_left || has_panel) && place_.lane == 0) {
        if (chunk * kChunk <= rows) place_.mine.Entry().Expect(chunk);
        if (has_left) RaiseWord(left_vacated, chunk + 1, place_.is_clustered);
      }
      const int first_row = complete * kChunk;
      if (complete < 0) {
        ArriveAsWarp(place_.mine.Emptied(chunk), place_.lane);
        continue;
      }
      if (first_row >= 1 && first_row + kChunk <= rows) {
        WriteOut(chunk, slot);
      } else {
        WriteOutEdge(n, chunk, first_row, slot);
      }
      slot = Place::NextSlot(slot);
    }
    ReportStatus();
  }

 private:
  // Passes on the last column of the rows that chunk `last` has completed.
  __device__ __forceinline__ void PassOn(EntranceAt<Real> right, int chunk, int complete) {
    // The chunk whose place it takes has been read: by lanes that had read it when they arrived,
    // and the word is raised behind their arrival.
    while (static_cast<int>(LoadWord(place_.mine.Vacated())) < complete - kEntranceChunks + 1) {
    }
    const uint32_t shown = place_.mine.Shown(chunk) +
                           place_.lane % kChunk * static_cast<uint32_t>(sizeof(Scaled<Real>));
    right.Send(complete, place_.lane, LoadPair<Real>(shown));
  }

  __device__ __forceinline__ Scaled<Real> ValueAt(uint32_t slots) const {
    return {LoadShared<Real>(slots),
            LoadShared<Real>(slots + static_cast<uint32_t>(kWarpSize * sizeof(Real))) + kRound};
  }

  // Writes out the rows that chunk `chunk` of the steps has completed.
  __device__ __forceinline__ void WriteOut(int chunk, int slot) {
    Scaled<Real> values[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = ValueAt(place_.SlotsOf(slot, i));
    ArriveAsWarp(place_.mine.Emptied(chunk), place_.lane);
    if (is_active_) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        Watch(values[i]);
        out_[static_cast<int64_t>(place_.row_step) * i] = values[i];
      }
    }
    out_ += static_cast<int64_t>(place_.row_step) * kChunk;
  }

  // WriteOut at either end of the rows. Nodes of row T_n are not stored: alpha's row T_n, whose
  // last column is the total, and beta's row 0.
  __device__ void WriteOutEdge(int64_t n, int chunk, int first_row, int slot) {
    const int rows = place_.sequence.frames;
#pragma unroll 1
    for (int i = 0; is_active_ && i < kChunk; ++i) {
      const int row = first_row + i;
      const Scaled<Real> value = ValueAt(place_.SlotsOf(slot, i));
      const bool is_stored = place_.is_beta ? row >= 1 && row <= rows : row < rows;
      const bool is_total =
          !place_.is_beta && row == rows && column_ == place_.sequence.columns - 1;
      if (is_stored || is_total) Watch(value);
      if (is_stored) out_[static_cast<int64_t>(place_.row_step) * i] = value;
      if (is_total) place_.arguments.totals[n] = value;
    }
    ArriveAsWarp(place_.mine.Emptied(chunk), place_.lane);
    out_ += static_cast<int64_t>(place_.row_step) * kChunk;
  }

  __device__ __forceinline__ void Watch(Scaled<Real> value) {
    senseless_ = MultiplyAdd(value.mantissa, Real(0), senseless_);  // NaN once there has been one
    highest_ = fmax(highest_, value.exponent);
  }

  // As bits, floats that are not negative are in order, and NaN is above all of them.
  __device__ void ReportStatus() {
    const float status = senseless_ == 0 ? static_cast<float>(highest_) : NAN;
    if (status != 0) {
      RaiseWord(place_.AddressIn(0, ColumnsAt<C, Real>(place_.all_columns, false).Status()),
                __float_as_uint(status), place_.is_clustered);
    }
  }

  const Place& place_;
  int column_;
  bool is_active_;
  Scaled<Real>* out_;
  Real senseless_ = 0;
  Real highest_ = 0;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_WRITER_CUH_
