// The choices in all cells of a sequence, by one block.
//
// Split: a lane has a column, a warp 32 of them. In step s a lane is at row s - lane; what it emits
// goes to its right neighbour by shuffle, what it leaves stays in a register. A chain step is a
// shuffle, a comparison, a selection and an addition.
//
// Chunks of kChunk steps: all warps of a block run one, then meet at a barrier. A warp is kLag
// chunks behind its left neighbour, whose last column's rows it finds in a ring in shared memory.
// More columns than the block's are panels, one after the other, with a column in global memory
// between them.
//
// Arcs: a lane copies its own column ahead, kChunk rows at once, into slots that nobody else reads,
// so that 32 lanes load 32 neighbours though they are 31 rows apart when they take them. A slot is
// that of a step: in each step all lanes read the same, at an address known for the chunk. With a
// slot for a row the addresses were a fifth of the instructions, which are what the time consists
// of: some 60 a step of each of (1500, 300)'s ten warps took 181 cycles on an H100.
//
// Frames outside of the lattice have a blank of 0 and a label of -inf: a lane passes on what it
// has.
#ifndef JAX_RNNT_CUDA_LATTICE_ALIGN_WALK_CUH_
#define JAX_RNNT_CUDA_LATTICE_ALIGN_WALK_CUH_

#include <cstdint>

#include "core/best_path.h"
#include "core/lattice_layout.h"
#include "cuda/memory/async_copy.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/memory/shared_address.cuh"

namespace jax_rnnt::cuda {

template <typename Real>
struct AlignArguments {
  LatticeLayout layout;
  PathWordsLayout words_layout;
  const Real* blank_log_probs;
  const Real* label_log_probs;
  const PathScore<Real>* before;
  PathScore<Real>* after;
  int32_t* words;
  double* scratch;
  int64_t scratch_per_group;
};

namespace align {

constexpr int kChunk = 16;
// The last lane of a warp is at row s - 31 in step s: rows of chunk k are there after chunk k + 2.
constexpr int kLag = 3;
constexpr int kAhead = 2;  // tiles on their way
// A tile's last row is taken by the last lane 31 steps behind the first lane's: the copies of a
// tile reach into slots up to 78 steps on from the chunk that is run.
constexpr int kSlots = (3 + kAhead) * kChunk;
constexpr int kRing = 64;  // rows between two warps
constexpr int kMaxWarps = 16;
constexpr double kNoScore = -HUGE_VAL;

// Shared memory of 32 columns.
template <typename Real>
struct Columns {
  double entering[kRing];           // what the column on the left emits, by row
  Real arcs[kSlots][2][kWarpSize];  // of a step: blanks, then labels
};

template <typename Real>
class Warp {
 public:
  // The warp's columns begin at `first_column`.
  __device__ Warp(const AlignArguments<Real>& arguments, const PathFrames& sequence,
                  Columns<Real>* own, Columns<Real>* right, int first_column, int lane)
      : sequence_(sequence), own_(own), right_(right), lane_(lane), column_(first_column + lane) {
    const int64_t place = sequence.first + column_;
    blank_ = arguments.blank_log_probs + place;
    label_ = arguments.label_log_probs + place;
    for (int slot = 0; slot < kSlots; ++slot) {
      own_->arcs[slot][0][lane_] = 0;
      own_->arcs[slot][1][lane_] = Real(-HUGE_VAL);
    }
    for (int tile = 0; tile < kAhead; ++tile) CopyTile(tile);
  }

  __device__ bool inside() const { return column_ < sequence_.columns; }
  __device__ int column() const { return column_; }
  __device__ bool wrong() const { return wrong_; }
  __device__ double leave() const { return leave_; }
  __device__ void Enter(double score) { leave_ = score; }
  // The choices in rows 32 w, ..., after chunk 2 w + 3.
  __device__ uint32_t Word() const { return static_cast<uint32_t>(history_ >> lane_); }

  __device__ void RunChunk(int chunk) {
    CopyTile(chunk + kAhead);
    WaitForCopies<kAhead>();
    uint32_t taken = 0;
    const Real(*const slots)[2][kWarpSize] = own_->arcs + chunk * kChunk % kSlots;
    Real next_blank = slots[0][0][lane_];
    Real next_label = slots[0][1][lane_];
    const double* const entering_rows = own_->entering + chunk * kChunk % kRing;
    double next_entering = entering_rows[0];
    // The last lane's rows are kWarpSize - 1 behind: of a chunk the last one alone may be the
    // ring's first.
    static_assert(kChunk == 16 && kRing % kChunk == 0);
    const unsigned first_gone = static_cast<unsigned>(chunk * kChunk) + kRing - (kWarpSize - 1);
    double* const gone_rows = right_->entering + first_gone % kRing;
    double* const last_gone_row = right_->entering + (first_gone + kChunk - 1) % kRing;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Real blank = next_blank, label = next_label;
      const double entering = next_entering;
      if (i + 1 < kChunk) {
        next_blank = slots[i + 1][0][lane_];
        next_label = slots[i + 1][1][lane_];
        next_entering = entering_rows[i + 1];
      }
      wrong_ |= !(blank < Real(HUGE_VAL)) || !(label < Real(HUGE_VAL));
      const double left = __shfl_up_sync(kAllLanes, emit_, 1);
      const double from_left = lane_ == 0 ? entering : left;
      const bool is_label = from_left > leave_;
      const double score = is_label ? from_left : leave_;
      if (is_label) taken |= 1u << i;
      leave_ = score + static_cast<double>(RoundToUnits(blank));
      emit_ = score + static_cast<double>(RoundToUnits(label));
      if (lane_ == kWarpSize - 1) {
        *(i + 1 < kChunk ? gone_rows + i : last_gone_row) = emit_;
      }
    }
    history_ = history_ >> kChunk | static_cast<uint64_t>(taken) << (64 - kChunk);
  }

 private:
  __device__ void CopyTile(int tile) {
    if ((tile + 1) * kChunk < sequence_.frames) {
      CopyRows<true>(tile);
    } else {
      CopyRows<false>(tile);
    }
    CommitCopies();
  }

  // Arcs of a tile that may be taken. kInner: all of its rows are there, and none is the last.
  template <bool kInner>
  __device__ __forceinline__ void CopyRows(int tile) {
    const int first_row = tile * kChunk;
    int slot = (first_row + lane_) % kSlots;
    const auto next_slot = [&] { slot = slot + 1 == kSlots ? 0 : slot + 1; };
    bool has[2][kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int row = first_row + i;
      const bool is_last = row == sequence_.frames - 1;
      const bool is_there = kInner || row < sequence_.frames;
      // Blanks of the last frame lead out of the lattice, but for the last column's.
      const bool is_out = !kInner && sequence_.ends && is_last && column_ != sequence_.columns - 1;
      has[0][i] = inside() && is_there && !is_out;
      has[1][i] = column_ < sequence_.columns - 1 && is_there;
    }
    const int64_t place = first_row * sequence_.stride;
#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int64_t cell = place + i * sequence_.stride;
      Real(*const arcs)[kWarpSize] = own_->arcs[slot];
      next_slot();
      CopyAsyncIf(has[0][i], SharedAddress(&arcs[0][lane_]), blank_ + cell);
      CopyAsyncIf(has[1][i], SharedAddress(&arcs[1][lane_]), label_ + cell);
      if (kInner) continue;
      if (!has[0][i]) arcs[0][lane_] = 0;
      if (!has[1][i]) arcs[1][lane_] = Real(-HUGE_VAL);
    }
#else
    Real blank[kChunk], label[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int64_t cell = place + i * sequence_.stride;
      blank[i] = has[0][i] ? blank_[cell] : Real(0);
      label[i] = has[1][i] ? label_[cell] : Real(-HUGE_VAL);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      own_->arcs[slot][0][lane_] = blank[i];
      own_->arcs[slot][1][lane_] = label[i];
      next_slot();
    }
#endif
  }

  const PathFrames& sequence_;
  Columns<Real>* const own_;
  Columns<Real>* const right_;
  const int lane_;
  const int column_;
  const Real* blank_;
  const Real* label_;
  bool wrong_ = false;
  double leave_ = kNoScore;  // score + blank of the row before
  double emit_ = kNoScore;   // score + label of the step before
  uint64_t history_ = 0;     // choices of the last 64 steps, the newest in the highest bits
};

}  // namespace align

// One block for each sequence.
template <typename Real>
__global__ void __launch_bounds__(align::kMaxWarps* kWarpSize, 1)
    AlignKernel(const __grid_constant__ AlignArguments<Real> arguments) {
  using namespace align;
  extern __shared__ __align__(16) unsigned char shared_memory[];
  // One more than there are warps: what the last one's last column emits goes there.
  Columns<Real>* const all_columns = reinterpret_cast<Columns<Real>*>(shared_memory);
  const LatticeLayout& layout = arguments.layout;
  const PathWordsLayout& words_layout = arguments.words_layout;
  const int64_t n = blockIdx.x, U = layout.max_columns;
  const PathFrames sequence = FramesOfPath(layout, n);
  const PathScore<Real>* const before = arguments.before + n * U;
  PathScore<Real>* const after = arguments.after + n * U;
  const int64_t walked = sequence.valid && sequence.frames > 0 ? sequence.columns : 0;
  const PathScore<Real> none = {Real(NAN), 0};
  for (int64_t u = walked + threadIdx.x; u < U; u += blockDim.x) {
    after[u] = sequence.valid ? before[u] : none;
  }
  if (walked == 0) return;  // the whole block
  const int64_t group = n / words_layout.sequences_per_group;
  int32_t* const words =
      arguments.words + group * words_layout.words_per_group + words_layout.First(n);
  double* const between = arguments.scratch + group * arguments.scratch_per_group +
                          (layout.compact() ? layout.offsets[n] / kFramesPerWord : 0);

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize, panel_columns = warps * kWarpSize;
  const int frames = sequence.frames;
  const int word_count = (frames + kFramesPerWord - 1) / kFramesPerWord;
  const int chunks = 2 * word_count + 2;
  Columns<Real>* const own = all_columns + warp;
  // Behind the last columns there are no arcs, only what enters.
  double* const leaving = all_columns[warps].entering;
  bool is_wrong = false;
#pragma unroll 1
  for (int first_column = 0; first_column < sequence.columns; first_column += panel_columns) {
    const int left = sequence.columns - first_column;
    const int used = left < panel_columns ? (left + kWarpSize - 1) / kWarpSize : warps;
    const bool has_right = left > panel_columns;
    for (int i = threadIdx.x; i < kRing; i += blockDim.x) all_columns[0].entering[i] = kNoScore;
    Warp<Real> walk(arguments, sequence, own, own + 1, first_column + warp * kWarpSize, lane);
    if (walk.inside()) walk.Enter(ToDouble(before[walk.column()]));
    double next_entering = kNoScore;
    if (first_column > 0 && warp == 0 && lane < kChunk && lane < frames) {
      next_entering = between[lane];
    }
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < chunks + kLag * (used - 1); ++step) {
      const int chunk = step - kLag * warp;
      if (warp < used && chunk >= 0 && chunk < chunks) {
        const int row = chunk * kChunk + lane;
        if (lane < kChunk) {
          double& entering = own->entering[row % kRing];
          if (row >= frames) {
            entering = kNoScore;
          } else if (first_column > 0 && warp == 0) {
            entering = next_entering;
            if (row + kChunk < frames) next_entering = between[row + kChunk];
          }
        }
        __syncwarp();
        walk.RunChunk(chunk);
        __syncwarp();
        const int gone = row - (kWarpSize - 1);
        if (has_right && warp == warps - 1 && lane < kChunk && gone >= 0 && gone < frames) {
          between[gone] = leaving[gone % kRing];
        }
        if (chunk % 2 == 1 && chunk > 2 && walk.inside()) {
          words[(chunk - 3) / 2 * sequence.stride + walk.column()] =
              static_cast<int32_t>(walk.Word());
        }
      }
      __syncthreads();
    }
    is_wrong = __syncthreads_or(is_wrong || walk.wrong());
    if (walk.inside()) {
      const bool is_last = walk.column() == sequence.columns - 1;
      after[walk.column()] = ToPathScore<Real>(is_last && is_wrong ? NAN : walk.leave());
    }
    WaitForCopies<0>();  // before the slots are filled anew
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_ALIGN_WALK_CUH_
