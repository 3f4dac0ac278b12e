// The warp that takes what a walk leaves out of the slots of 32 columns, behind their chain of
// steps (walk.cuh), and passes their last column on.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_WRITER_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_WRITER_CUH_

#include "cuda/lattice/walk_place.cuh"

namespace jax_rnnt::cuda {

// Sink: where it goes, one for each lane. It has
//   Begin(n, column, is_last)       the column is the lane's of sequence n; is_last: of a panel
//   Prepare(first_row)              before the steps are waited for whose rows it takes next
//   Take(first_row, slot, release)  takes kChunk rows out of their slots, and calls release() once
//                                   it has read them
//   Highest()                       the largest exponent that it has seen, at least 0, or NaN if
//                                   there was a NaN
template <class Place, class Sink>
class Writer {
  using C = typename Place::C;
  using Topo = typename C::Topo;
  using Real = typename C::Real;

 public:
  __device__ explicit Writer(const Place& place) : place_(place), sink_(place) {}

  // Serves these columns' steps in a panel of `used` times 32 columns.
  __device__ __forceinline__ void Run(int64_t n, int first_column, int used) {
    const int rows = place_.sequence.frames, index = place_.index;
    const bool has_right = index + 1 < used, has_left = index > 0;
    sink_.Begin(n, place_.Column(first_column), !has_right && place_.lane == kWarpSize - 1);
    const bool has_panel = first_column > 0 && !has_left;
    const EntranceAt<Real> right = place_.Neighbour(has_right ? index + 1 : index).Entry();
    const uint32_t left_vacated = place_.Neighbour(has_left ? index - 1 : index).Vacated();
    const int chunks = CountChunks<Topo>(rows);
    int slot = place_.FirstSlot();

#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int complete = chunk - kSkew<Topo> / kChunk;  // the chunk of rows that all lanes passed
      if (complete >= 0) sink_.Prepare(complete * kChunk);
      place_.mine.Done(chunk).Wait(chunk / kStages);
      if (has_right && complete >= 0 && complete * kChunk <= rows) PassOn(right, chunk, complete);
      if ((has_left || has_panel) && place_.lane == 0) {
        if (chunk * kChunk <= rows) place_.mine.Entry().Expect(chunk);
        if (has_left && place_.is_clustered) RaiseWord(left_vacated, chunk + 1, true);
      }
      // Where there is a chunk that waits for the place.
      if (has_left && !place_.is_clustered && (chunk + kEntranceChunks) * kChunk <= rows) {
        ArriveAsWarp(place_.mine.Entry().Vacated(chunk), place_.lane);
      }
      const auto release = [&] { ArriveAsWarp(place_.mine.Emptied(chunk), place_.lane); };
      if (complete < 0) {
        release();
        continue;
      }
      sink_.Take(complete * kChunk, slot, release);
      slot = Place::NextSlot(slot);
    }
    ReportStatus();
  }

 private:
  // Passes on the last column of the rows that chunk `chunk` of the steps has completed.
  __device__ __forceinline__ void PassOn(EntranceAt<Real> right, int chunk, int complete) {
    // The chunk whose place it takes has been read: by lanes that had read it when they arrived,
    // and the gate opens, or the word is raised, behind their arrival.
    const int before = complete - kEntranceChunks;
    if (place_.is_clustered) {
      while (static_cast<int>(LoadWord(place_.mine.Vacated())) <= before) {
      }
    } else if (before >= 0) {
      right.Vacated(before).Wait(before / kEntranceChunks);
    }
    const uint32_t shown = place_.mine.Shown(chunk) +
                           place_.lane % kChunk * static_cast<uint32_t>(sizeof(Scaled<Real>));
    right.Send(complete, place_.lane, LoadPair<Real>(shown));
  }

  // As bits, floats that are not negative are in order, and NaN is above all of them.
  __device__ void ReportStatus() {
    const float status = sink_.Highest();
    if (status != 0) {
      RaiseWord(place_.AddressIn(0, ColumnsAt<C>(place_.all_columns, false).Status()),
                __float_as_uint(status), place_.is_clustered);
    }
  }

  const Place& place_;
  Sink sink_;
};

// Watches numbers for what IsNear asks.
template <typename Real>
class Watch {
 public:
  __device__ __forceinline__ void See(Real mantissa) {
    senseless_ = MultiplyAdd(mantissa, Real(0), senseless_);  // NaN once there has been one
  }
  __device__ __forceinline__ void SeeExponent(Real exponent) {
    highest_ = fmax(highest_, exponent);
  }
  __device__ float Highest() const { return senseless_ == 0 ? static_cast<float>(highest_) : NAN; }

 private:
  Real senseless_ = 0;
  Real highest_ = 0;
};

// Writes values to memory.
template <class Place>
class ValueSink {
  using Real = typename Place::Real;
  static constexpr Real kRound = FloatBits<Real>::kRoundingConstant;

 public:
  __device__ explicit ValueSink(const Place& place) : place_(place) {}

  __device__ __forceinline__ void Begin(int64_t n, int column, bool is_last) {
    n_ = n;
    column_ = column;
    is_active_ = column < place_.sequence.columns;
    is_kept_ = is_active_ && (place_.arguments.keeps_values || is_last);  // the next panel's, too
    out_ = (place_.is_beta ? place_.arguments.betas : place_.arguments.alphas) +
           place_.FirstCell(column) + place_.sequence.to_kept;
  }

  __device__ __forceinline__ void Prepare(int) {}

  template <typename Release>
  __device__ __forceinline__ void Take(int first_row, int slot, const Release& release) {
    if (first_row >= 1 && first_row + kChunk <= place_.sequence.frames) {
      Scaled<Real> values[kChunk];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) values[i] = ValueAt(place_.SlotsOf(slot, i));
      release();
      if (is_active_) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          See(values[i]);
          if (is_kept_) out_[static_cast<int64_t>(place_.row_step) * i] = values[i];
        }
      }
    } else {
      TakeEdge(first_row, slot);
      release();
    }
    out_ += static_cast<int64_t>(place_.row_step) * kChunk;
  }

  __device__ float Highest() const { return watch_.Highest(); }

 private:
  __device__ __forceinline__ Scaled<Real> ValueAt(uint32_t slots) const {
    return {LoadShared<Real>(slots),
            LoadShared<Real>(slots + static_cast<uint32_t>(kWarpSize * sizeof(Real))) + kRound};
  }

  __device__ __forceinline__ void See(Scaled<Real> value) {
    watch_.See(value.mantissa);
    watch_.SeeExponent(value.exponent);
  }

  // Take at either end of the rows. Nodes of row T_n are not stored: alpha's row T_n, whose last
  // column is the total, and beta's row 0.
  __device__ void TakeEdge(int first_row, int slot) {
    const int rows = place_.sequence.frames;
#pragma unroll 1
    for (int i = 0; is_active_ && i < kChunk; ++i) {
      const int row = first_row + i;
      const Scaled<Real> value = ValueAt(place_.SlotsOf(slot, i));
      const bool is_stored = place_.is_beta ? row >= 1 && row <= rows : row < rows;
      const bool is_total =
          !place_.is_beta && row == rows && column_ == place_.sequence.columns - 1;
      if (is_stored || is_total) See(value);
      if (is_stored && is_kept_) out_[static_cast<int64_t>(place_.row_step) * i] = value;
      if (is_total) place_.arguments.totals[n_] = value;
    }
  }

  const Place& place_;
  int64_t n_;
  int column_;
  bool is_active_;
  bool is_kept_;
  Scaled<Real>* out_;
  Watch<Real> watch_;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_WRITER_CUH_
