// Costs of RNN-T lattices, and the arcs' cotangents from the costs'.
//
//   alpha(0, 0) = 1
//   alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1)
//   beta(T, U)  = 1
//   beta(t, u)  = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1)
//   total       = sum_u alpha(m-1, u) blank(m-1, u) beta(m, u)  for any m,    cost = -log(total)
//   posterior of an arc = alpha(its tail) arc beta(its head) / total
//   cotangent of an arc's log-probability = -posterior x the cost's cotangent
//
// Every quantity is Scaled (core/scaled.h). Both recursions are one walk over rows r and columns c,
//
//   value(r, c) = value(r-1, c) from_above(r, c) + value(r, c-1) from_left(r, c),
//
// beta's on the lattice turned by 180 degrees; alpha enters a cell through its neighbours' arcs and
// beta leaves it through its own, so only indices differ (Walk).
//
// The two walks meet at frame m = (T + 1) / 2. In the forward alpha walks the frames before it and
// beta the others, at the same time; their values are stored and the total is taken where they
// meet. In the backward each walks on through the other's half, finds the other's values stored
// and writes the cotangents of the arcs on its way. So each pass takes half the frames' steps, an
// arc is read once in each, and a cell costs 40 bytes in float: 8 of arcs and 8 of values in the
// forward, 8 of arcs, 8 of values and 8 of cotangents in the backward. Alpha and beta over all
// frames and posteriors behind them would take 64 and as many steps.
//
// Split: one block per sequence and direction, one warp per 32 neighbouring columns, one lane per
// column. A wavefront: at step k a lane is at row k - lane, so the value to its left was computed
// by the lane to its left one step earlier and comes by shuffle. The time is that of T / 2 + U
// dependent steps a pass: a lone sequence is bound by the instructions in each of them, from about
// 64 sequences of 300 columns on memory is the bound.
//
// Arcs lie along u in memory, the wavefront runs across them. Each warp therefore keeps a ring of
// kRing steps x 32 columns in shared memory. A lane copies its own column's arcs into it a whole
// row at a time for the warp, so that global memory sees 32 neighbours, and reads them when the
// wavefront comes by, up to 31 steps later. The backward leaves cotangents in the same slots and
// writes them out when a row is complete. No lane touches another's slots. Values are stored by
// diagonals t + u instead, where the wavefront's 32 lanes are neighbours.
//
// A lane to the right of another warp needs that warp's last column: each warp shows it in a second
// ring of one value a row, which is what the one barrier in kChunk steps is for. More columns than
// a block has are walked in panels, one after the other; the last column of a panel passes to the
// next through global memory.
#include <algorithm>

#include "cuda/lattice/lattice.h"
#include "cuda/memory/async_copy.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Steps from one barrier to the next. The ring below has room for three chunks of prefetch with 8,
// for none behind the 31 steps that a row takes with 16.
constexpr int kChunk = 8;
static_assert(kChunk <= kMaxUnnormalizedSteps);
// Chunks between the copy of a row's arcs and its first use, of 0.9 to 1.7 us each on an H100: the
// arcs are loaded from the ring one chunk ahead, so that two hide the latency of global memory.
constexpr int kPrefetchChunks = 3;
// Chunks by which a warp follows its left neighbour, whose last lane is 31 steps behind its first
// and shows a value one step after it.
constexpr int kLag = kWarpSize / kChunk + 1;
// Steps in a warp's ring: a row's slots are taken kPrefetchChunks before its first step and free
// when the row is written out, one step after its last.
constexpr int kRing = 64;
static_assert(kRing >= (kPrefetchChunks + 1) * kChunk + kWarpSize);
static_assert(kRing >= (kLag + 1) * kChunk);  // as many rows are shown to the right neighbour
static_assert(kChunk % 2 == 0);

// Rings of 13 warps fit into the 227 KB of shared memory that a block can have on an H100, but the
// compiler then keeps to the 128 registers of 16 and spills.
template <typename Real>
constexpr int kMaxWarps = sizeof(Real) == sizeof(float) ? 12 : 6;

enum class Pass {
  kCost,      // the forward without anything kept for a backward
  kForward,   // the half of the frames where the walk starts
  kBackward,  // the other half
};

template <typename Real>
struct alignas(2 * sizeof(Real)) Slot {  // an arc pair's log-probabilities, then its cotangents
  Real above;
  Real left;
};

template <typename Real>
struct alignas(32) Rings {  // of one warp
  Scaled<Real> last_column[kRing];
  Slot<Real> arcs[kRing * kWarpSize];
};
// Shared memory of a block: Rings for each warp, and the first kChunk values of one more.
template <typename Real>
constexpr int64_t SharedBytes(int64_t warps) {
  return warps * static_cast<int64_t>(sizeof(Rings<Real>)) + kChunk * sizeof(Scaled<Real>);
}

__device__ __forceinline__ int RingIndex(int step) { return step & (kRing - 1); }

// Where a direction of the recursion finds row r, column c of its walk. Arcs: at above (left) +
// r * row_step + c * column_step. Values: cell (t, u) at row (t + u) mod T_n of the sequence's own
// cells, which is cell + c * column_step + ((diagonal + diagonal_step (r + c)) mod T_n) * stride.
struct Walk {
  int rows;
  int columns;
  bool is_start;          // 1 enters (0, 0) and nothing else enters row 0 from above
  bool enters_freely;     // that 1 comes without an arc, not through the one from above
  bool owns_first_above;  // whether the arcs into row 0 from above are this walk's in the backward
  int64_t above;
  int64_t left;
  int row_step;
  int column_step;
  int unused_left;  // from the arc that would enter column 0 to the row's unused label arc
  int64_t cell;
  int diagonal;
  int diagonal_step;
  int frames;
  int stride;

  __device__ int64_t ValueIndex(int row, int column) const {
    int rotated = (diagonal + diagonal_step * (row + column)) % frames;
    if (rotated < 0) rotated += frames;
    return cell + column * column_step + static_cast<int64_t>(rotated) * stride;
  }
};

__device__ __forceinline__ int MeetingFrame(const LatticeSequence& sequence) {
  return (sequence.frames + 1) / 2;
}

__device__ Walk MakeWalk(const LatticeSequence& sequence, bool is_beta, bool is_second_half) {
  const int meeting = MeetingFrame(sequence);
  const int last_column = sequence.columns - 1;
  Walk walk;
  walk.columns = sequence.columns;
  walk.frames = sequence.frames;
  walk.stride = static_cast<int>(sequence.stride);
  if (is_beta) {
    const int frame = (is_second_half ? meeting : sequence.frames) - 1;
    walk.rows = is_second_half ? meeting : sequence.frames - meeting;
    walk.is_start = frame == sequence.frames - 1;
    walk.enters_freely = false;
    walk.owns_first_above = true;
    walk.above = walk.left = sequence.first + frame * sequence.stride + last_column;
    walk.row_step = -walk.stride;
    walk.column_step = -1;
    walk.unused_left = 0;
    walk.cell = sequence.first + last_column;
    walk.diagonal = frame + last_column;
    walk.diagonal_step = -1;
  } else {
    const int frame = is_second_half ? meeting : 0;
    walk.rows = is_second_half ? sequence.frames - meeting : meeting;
    walk.is_start = walk.enters_freely = !is_second_half;
    walk.owns_first_above = false;
    walk.above = sequence.first + (frame - 1) * sequence.stride;
    walk.left = sequence.first + frame * sequence.stride - 1;
    walk.row_step = walk.stride;
    walk.column_step = 1;
    walk.unused_left = sequence.columns;
    walk.cell = sequence.first;
    walk.diagonal = frame;
    walk.diagonal_step = 1;
  }
  return walk;
}

// Bounds of the common step, for arcs in nats and exponents alike: sums of exponents then stay
// whole numbers that float holds exactly, and costs stay below 7e5 nats. A warp in whose chunk
// anything is lower takes the general step.
constexpr double kLowestNear = -1e6;
// Probability of an arc into a cell that nothing may enter, within these bounds: its power of two
// is 0 beside anything.
constexpr double kNeverLogProb = -9e5;

__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ double Exp2(double x) { return exp2(x); }

__device__ __forceinline__ float Saturate(float x) { return __saturatef(x); }  // NaN becomes 0
__device__ __forceinline__ double Saturate(double x) { return x > 0 ? fmin(x, 1.0) : 0.0; }

// -posterior x cotangent; an infinite cotangent does not reach arcs that no alignment takes.
template <typename Real>
__device__ __forceinline__ Real Weigh(Real posterior, Real cotangent) {
  return posterior != 0 && cotangent != 0 ? -posterior * cotangent : Real(0);
}

// What the backward knows of a sequence.
template <typename Real>
struct Outcome {
  Scaled<Real> total;
  Real cotangent;
};

// Pointers of the walk kernel: arrays of cells as cuda/lattice/lattice.h describes them.
template <typename Real>
struct Arrays {
  const Real* blank_log_probs;
  const Real* label_log_probs;
  Scaled<Real>* cuts;    // kCost: see CutIndex
  Scaled<Real>* values;  // kForward writes, kBackward reads
  const Scaled<Real>* totals;
  const Real* cotangents;
  Real* blank_cotangents;
  Real* label_cotangents;
  Scaled<Real>* boundaries;
};

// One warp's 32 columns.
//
// Lanes that are not in the lattice compute like the others, so that only what goes to global
// memory is masked. The slots of a lane that has not reached row 0 hold arcs of probability 1 from
// above and kNeverLogProb from the left, which leave its value as it is; a lane without a column
// has the last column's arcs. What a lane computes there or behind the last row reaches nobody.
template <typename Real, Pass kPass>
class WarpColumns {
 public:
  __device__ WarpColumns(const Walk& walk, const Arrays<Real>& arrays, Scaled<Real>* cut,
                         const Outcome<Real>& outcome, int first_column, Rings<Real>* rings)
      : walk_(walk),
        lane_(threadIdx.x % kWarpSize),
        column_(first_column + lane_),
        is_active_(column_ < walk.columns),
        reads_left_(column_ > 0 && walk.columns > 1),
        slots_(rings->arcs + lane_),
        last_column_(rings->last_column),
        cut_(cut + column_) {
    // A lane without a column reads the last column's arcs.
    const int offset = min(column_, walk.columns - 1) * walk.column_step;
    blank_log_probs_ = arrays.blank_log_probs + walk.above + offset;
    label_log_probs_ = arrays.label_log_probs + walk.left + offset;
    value_ = {0, kZeroExponent<Real>};
    if (!walk.is_start && is_active_) {
      value_ = Normalize(arrays.values[walk.ValueIndex(-1, column_)]);
    }
    if constexpr (kPass != Pass::kCost) {
      lane_values_ = arrays.values + walk.cell + offset;
      diagonal_stride_ = walk.diagonal_step * walk.stride;
      rotated_ = (walk.diagonal + walk.diagonal_step * first_column) % walk.frames;
      if (rotated_ < 0) rotated_ += walk.frames;
    }
    if constexpr (kPass == Pass::kBackward) {
      blank_cotangents_ = arrays.blank_cotangents + walk.above + offset;
      label_cotangents_ =
          arrays.label_cotangents + walk.left + offset + (column_ == 0 ? walk.unused_left : 0);
      outcome_ = outcome;
      // Posteriors below 2^-kNegligibleBits vanish: the exponent's power of two is taken that much
      // smaller, where it underflows, and the mantissa's factor that much larger.
      constexpr int kHeadroom = FloatBits<Real>::kBias - 1 - kNegligibleBits;
      inverse_ = 1 / (outcome.total.mantissa * PowerOfTwoUpToOne(Real(-kHeadroom)));
      exponent_offset_ = -outcome.total.exponent - kHeadroom;
      is_near_ =
          outcome.total.exponent > Real(kLowestNear) && fabs(outcome.cotangent) < Real(HUGE_VAL);
    }
    rows_inside_ = is_active_ ? walk.rows : 0;
    FillSlots();
  }

  // What must have happened before the first step: the first kPrefetchChunks chunks of rows are on
  // their way and the first one's arcs and other values here.
  __device__ void Begin() {
#pragma unroll 1
    for (int chunk = 0; chunk < kPrefetchChunks; ++chunk) {
      const int first_row = chunk * kChunk;
      unsigned wanted = InRange(first_row, walk_.rows);
      const unsigned wanted_left = reads_left_ ? wanted : 0;
      if (chunk == 0 && walk_.is_start) {
        wanted &= ~1u;
        const bool enters_by_arc = column_ == 0 && !walk_.enters_freely;
        CopyAsyncIf(enters_by_arc, &slots_[0].left, blank_log_probs_);
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) CopyRow(first_row, i, wanted, wanted_left);
      CommitCopies();
      AdvanceRows(&blank_log_probs_);
      AdvanceRows(&label_log_probs_);
    }
    WaitForCopies<kPrefetchChunks - 1>();
    inside_ = InRange(-lane_, rows_inside_);
    const bool wraps = Wraps(rotated_);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) LoadArcs(0, i);
    LoadOthers(inside_, rotated_, wraps);
  }

  // Steps [first_step, first_step + kChunk). left: kChunk values, what enters lane 0 in each of
  // them; has_left: whether they are more than zeros.
  __device__ __forceinline__ void Advance(int first_step, bool has_left, const Scaled<Real>* left) {
    Scaled<Real> entering[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; i += 2) {
      const ScaledPair pair = *reinterpret_cast<const ScaledPair*>(left + i);
      entering[i] = pair.first;
      entering[i + 1] = pair.second;
    }
    Real lowest = fmin(lowest_arc_, value_.mantissa == 0 ? Real(0) : value_.exponent);
    if (has_left) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) lowest = fmin(lowest, entering[i].exponent);
    }
    const bool is_near = __all_sync(kAllLanes, is_near_ && lowest > Real(kLowestNear));
    // All but the last chunk of rows under way, for the arcs of the next steps.
    WaitForCopies<kPrefetchChunks - 2>();
    lowest_arc_ = 0;
    const int next_rotated = Rotate(rotated_, walk_.diagonal_step * kChunk);
    const bool wraps = (kPass == Pass::kForward && Wraps(rotated_)) ||
                       (kPass == Pass::kBackward && Wraps(next_rotated));
    const unsigned next_inside = InRange(first_step + kChunk - lane_, rows_inside_);
    Scaled<Real> others[kChunk];
    if constexpr (kPass == Pass::kBackward) {
      CopyRows(first_step + kPrefetchChunks * kChunk);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) others[i] = others_[i];
      // The next loads must not start before these values have arrived: a warp waits for all loads
      // that share a counter, and would wait for the next ones too. Exponents are whole, so this is
      // 0, but nobody else knows before the last of them is here.
      const int zero = others[kChunk - 1].exponent == Real(0.5) ? 1 : 0;
      LoadOthers(next_inside, next_rotated + zero, wraps);
    }
    if (is_near && !wraps) {
      Steps<true, false>(first_step, entering, others);
    } else if (is_near) {
      Steps<true, true>(first_step, entering, others);
    } else {
      Steps<false, true>(first_step, entering, others);
    }
    inside_ = next_inside;
    WriteRows(first_step - kWarpSize);
    CommitCopies();
    AdvanceRows(&blank_log_probs_);
    AdvanceRows(&label_log_probs_);
    if constexpr (kPass == Pass::kBackward) {
      if (first_step >= kWarpSize) {
        AdvanceRows(&blank_cotangents_);
        AdvanceRows(&label_cotangents_);
      }
    }
    value_ = Normalize(value_);
    rotated_ = next_rotated;
  }

  // Leaves the rows that the steps from first_step on have shown to the right neighbour for the
  // next panel: `next` is the place of row 0, null if there is no next panel.
  __device__ void PassOn(int first_step, Scaled<Real>* next) {
    if (next == nullptr) return;
    __syncwarp();  // the last lane's values become visible to the warp
    const int row = first_step - kWarpSize + lane_;
    if (lane_ < kChunk && row >= 0 && row < walk_.rows) next[row] = last_column_[RingIndex(row)];
  }

 private:
  struct alignas(2 * sizeof(Scaled<Real>)) ScaledPair {
    Scaled<Real> first;
    Scaled<Real> second;
  };

  // Fills the slots: for the lanes that have not reached row 0, for the halves that no copy fills,
  // and so that what is read behind the last row, where it only decides between two ways to
  // compute the same, is the same in every run. Where the sequence is beyond the bounds of the
  // common step anyway, nothing at all comes from the left. Lanes beside a lone column go along
  // with it, so that nothing in them is beyond those bounds.
  __device__ void FillSlots() {
    const bool is_beside = column_ > 0 && !reads_left_;
    const Real never = is_beside ? Real(0) : is_near_ ? Real(kNeverLogProb) : Real(-HUGE_VAL);
#pragma unroll 4
    for (int step = 0; step < kRing; ++step) slots_[step * kWarpSize] = {0, never};
    // The 1 that starts the walk enters (0, 0) from the left: as it is, or through an arc that
    // Begin copies.
    if (walk_.is_start && column_ == 0) slots_[0].left = 0;
  }

  // A diagonal modulo the frames, at most kChunk steps on.
  __device__ __forceinline__ int Rotate(int rotated, int steps) const {
    rotated += steps;
    if (walk_.frames < kChunk) rotated %= walk_.frames;
    if (rotated >= walk_.frames) rotated -= walk_.frames;
    if (rotated < 0) rotated += walk_.frames;
    return rotated;
  }

  __device__ __forceinline__ Scaled<Real>* ValuesOfDiagonal(int rotated) const {
    return lane_values_ + static_cast<int64_t>(rotated) * walk_.stride;
  }

  // Whether the diagonals of kChunk steps are not one run of rows.
  __device__ __forceinline__ bool Wraps(int rotated) const {
    const int last = rotated + walk_.diagonal_step * (kChunk - 1);
    return kPass != Pass::kCost && (last < 0 || last >= walk_.frames);
  }

  // Where the values of the i-th diagonal from `rotated` on are.
  __device__ __forceinline__ Scaled<Real>* ValuesAt(int rotated, int i, bool wraps) const {
    if (wraps) return ValuesOfDiagonal(Rotate(rotated, walk_.diagonal_step * i));
    return Step(ValuesOfDiagonal(rotated), diagonal_stride_, i);
  }

  // `pointer` and i strides of 32 bits: one instruction.
  template <typename T>
  static __device__ __forceinline__ T* Step(T* pointer, int stride, int i) {
    return pointer + static_cast<int64_t>(stride) * i;
  }
  template <typename T>
  __device__ __forceinline__ void AdvanceRows(T** pointer) const {
    *pointer += static_cast<int64_t>(walk_.row_step) * kChunk;
  }

  static constexpr unsigned kAllRows = (1u << kChunk) - 1;
  // One bit for each of kChunk rows from first_row on: whether it is in [0, rows).
  static __device__ __forceinline__ unsigned InRange(int first_row, int rows) {
    const int begin = min(max(-first_row, 0), kChunk);
    const int end = min(max(rows - first_row, 0), kChunk);
    return (kAllRows << begin) & (kAllRows >> (kChunk - end));
  }

  // Starts the copies of the arcs of row first_row + i, where the bit of i is set; the pointers are
  // at first_row. The slot in which a lane finds a row is that of the step in which it gets there:
  // the same for all lanes in a step.
  __device__ __forceinline__ void CopyRow(int first_row, int i, unsigned wanted,
                                          unsigned wanted_left) {
    Slot<Real>* slot = slots_ + RingIndex(first_row + lane_ + i) * kWarpSize;
    CopyAsyncIf(wanted & (1u << i), &slot->above, Step(blank_log_probs_, walk_.row_step, i));
    CopyAsyncIf(wanted_left & (1u << i), &slot->left, Step(label_log_probs_, walk_.row_step, i));
  }

  // The copies of a chunk of rows.
  __device__ __forceinline__ void CopyRows(int first_row) {
    const unsigned wanted = InRange(first_row, walk_.rows);
    const unsigned wanted_left = reads_left_ ? wanted : 0;
    if (wanted == kAllRows) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        Slot<Real>* slot = slots_ + RingIndex(first_row + lane_ + i) * kWarpSize;
        CopyAsync(&slot->above, Step(blank_log_probs_, walk_.row_step, i));
        CopyAsyncIf(reads_left_, &slot->left, Step(label_log_probs_, walk_.row_step, i));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) CopyRow(first_row, i, wanted, wanted_left);
    }
  }

  // Writes out the rows from first_row on that the last lane has left.
  __device__ __forceinline__ void WriteRows(int first_row) {
    if constexpr (kPass == Pass::kBackward) {
      const unsigned complete = InRange(first_row, rows_inside_);
      if (complete == kAllRows && first_row > 0) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          const Slot<Real> slot = slots_[RingIndex(first_row + lane_ + i) * kWarpSize];
          *Step(blank_cotangents_, walk_.row_step, i) = slot.above;
          *Step(label_cotangents_, walk_.row_step, i) = slot.left;
        }
      } else if (complete != 0) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          const Slot<Real> slot = slots_[RingIndex(first_row + lane_ + i) * kWarpSize];
          const bool is_complete = complete & (1u << i);
          if (is_complete && (i > 0 || first_row > 0 || walk_.owns_first_above)) {
            *Step(blank_cotangents_, walk_.row_step, i) = slot.above;
          }
          if (is_complete) *Step(label_cotangents_, walk_.row_step, i) = slot.left;
        }
      }
    }
  }

  // Loads what the i-th step of the chunk from first_step on needs.
  __device__ __forceinline__ void LoadArcs(int first_step, int i) {
    arcs_[i] = slots_[(RingIndex(first_step) + i) * kWarpSize];
    lowest_arc_ = fmin(lowest_arc_, fmin(arcs_[i].above, arcs_[i].left));
  }
  __device__ __forceinline__ void LoadOthers(unsigned inside, int rotated, bool wraps) {
    if constexpr (kPass == Pass::kBackward) {
      if (inside == kAllRows && !wraps) {
        const Scaled<Real>* others = ValuesOfDiagonal(rotated);
#pragma unroll
        for (int i = 0; i < kChunk; ++i) others_[i] = *Step(others, diagonal_stride_, i);
      } else if (inside != 0) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          if (inside & (1u << i)) others_[i] = *ValuesAt(rotated, i, wraps);
        }
      }
    }
  }

  // The next chunk's arcs are loaded on the way, and in the forward the arcs of the chunk
  // kPrefetchChunks ahead copied: that hides behind the latency of shuffles and powers. In the
  // backward, whose steps have loads from global memory under way, it does not: 265 us against 245
  // at (T, U) = (1500, 300), N = 1, on an H100, and 370 against 246 at N = 16.
  //
  // kNear: all arcs and exponents are within the bounds above. kWraps: see Wraps.
  template <bool kNear, bool kWraps>
  __device__ __forceinline__ void Steps(int first_step, const Scaled<Real> (&entering)[kChunk],
                                        const Scaled<Real> (&others)[kChunk]) {
    const int first_slot = RingIndex(first_step) * kWarpSize;
    // Row first_step - kWarpSize + i is what the last lane has when the i-th step begins.
    Scaled<Real>* const shown = last_column_ + RingIndex(first_step - kWarpSize);
    const int copied_row = first_step + kPrefetchChunks * kChunk;
    const unsigned copied = InRange(copied_row, walk_.rows);
    const unsigned copied_left = reads_left_ ? copied : 0;
    const int last_row_at = is_active_ ? walk_.rows - 1 - (first_step - lane_) : -1;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (lane_ == kWarpSize - 1) shown[i] = value_;
      Scaled<Real> left = {__shfl_up_sync(kAllLanes, value_.mantissa, 1),
                           __shfl_up_sync(kAllLanes, value_.exponent, 1)};
      const Slot<Real> arcs = arcs_[i];
      LoadArcs(first_step + kChunk, i);
      if (kPass != Pass::kBackward && i % 2 == 1) {
        CopyRow(copied_row, i - 1, copied, copied_left);
        CopyRow(copied_row, i, copied, copied_left);
      }
      if (lane_ == 0) left = entering[i];
      Scaled<Real> next;
      Slot<Real> cotangents;
      if constexpr (kNear) {
        // The arcs' mantissas are never made: each term is taken relative to the larger term's
        // exponent at once, in (-1, 0] bits from it or below.
        next.exponent =
            fmax(value_.exponent + WholeLog2(arcs.above), left.exponent + WholeLog2(arcs.left));
        const Real from_above =
            Exp2(MultiplyAdd(arcs.above, kDeviceLog2E<Real>, value_.exponent - next.exponent));
        const Real from_left =
            Exp2(MultiplyAdd(arcs.left, kDeviceLog2E<Real>, left.exponent - next.exponent));
        const Real left_term = Product(left.mantissa, from_left);
        next.mantissa = MultiplyAdd(value_.mantissa, from_above, left_term);
        if constexpr (kPass == Pass::kBackward) {
          const Real above_term = Product(value_.mantissa, from_above);
          const Real share = others[i].mantissa * inverse_ *
                             Exp2(next.exponent + (others[i].exponent + exponent_offset_));
          cotangents = {-outcome_.cotangent * Saturate(above_term * share),
                        -outcome_.cotangent * Saturate(left_term * share)};
        }
      } else {
        const Scaled<Real> above_term = Multiply(value_, Split(arcs.above));
        const Scaled<Real> left_term = Multiply(left, Split(arcs.left));
        next = Add(above_term, left_term);
        if constexpr (kPass == Pass::kBackward) {
          cotangents = {
              Weigh(Share(Multiply(above_term, others[i]), outcome_.total), outcome_.cotangent),
              Weigh(Share(Multiply(left_term, others[i]), outcome_.total), outcome_.cotangent)};
        }
      }
      value_ = next;
      if constexpr (kPass == Pass::kCost) {
        if (i == last_row_at) *cut_ = value_;
      }
      if constexpr (kPass == Pass::kForward) {
        Scaled<Real>* const value = ValuesAt(rotated_, i, kWraps);
        if (inside_ & (1u << i)) *value = value_;
      }
      if constexpr (kPass == Pass::kBackward) slots_[first_slot + i * kWarpSize] = cotangents;
    }
  }

  const Walk& walk_;
  const int lane_;
  const int column_;
  const bool is_active_;
  const bool reads_left_;  // whether the column whose arcs it reads has some from the left
  Slot<Real>* const slots_;
  Scaled<Real>* const last_column_;
  Scaled<Real>* const cut_;
  const Real* blank_log_probs_;  // of the next row to copy
  const Real* label_log_probs_;
  Scaled<Real> value_;
  Scaled<Real>* lane_values_;
  int diagonal_stride_ = 0;  // from one diagonal's values to the next
  int rotated_ = 0;          // diagonal of the warp's next step, modulo the frames
  int rows_inside_;          // the walk's, 0 without a column
  unsigned inside_ = 0;  // one bit for each of the next steps: whether it has a cell for this lane
  bool is_near_ = true;
  Slot<Real> arcs_[kChunk];           // of the next steps
  Scaled<Real> others_[kChunk] = {};  // the other walk's values there
  Real lowest_arc_ = 0;
  Outcome<Real> outcome_;
  Real inverse_;
  Real exponent_offset_;
  Real* blank_cotangents_;  // of the next row to write
  Real* label_cotangents_;
};

// The walk of one panel: columns [first_column, first_column + blockDim.x) of `walk`.
// previous, next: one value a row: the last column of the panel to the left, or null, and where
// this panel leaves its own, or null.
template <typename Real, Pass kPass>
__device__ void WalkPanel(const Walk& walk, const Arrays<Real>& arrays, Scaled<Real>* cut,
                          const Outcome<Real>& outcome, int first_column,
                          const Scaled<Real>* previous, Scaled<Real>* next, Rings<Real>* rings) {
  const int warp = threadIdx.x / kWarpSize;
  const int panel_columns = min(walk.columns - first_column, static_cast<int>(blockDim.x));
  const int warps = (panel_columns + kWarpSize - 1) / kWarpSize;
  WarpColumns<Real, kPass> mine(walk, arrays, cut, outcome, first_column + warp * kWarpSize,
                                rings + warp);
  // What enters the first warp: zeros, or what the panel before passed on.
  Scaled<Real>* const entrance = rings[blockDim.x / kWarpSize].last_column;
  if (threadIdx.x < kChunk) entrance[threadIdx.x] = {0, kZeroExponent<Real>};
  if (threadIdx.x == 0 && walk.is_start && first_column == 0) entrance[0] = {1, 0};
  __syncwarp();
  Scaled<Real>* const mine_next = warp == warps - 1 ? next : nullptr;
  // Chunks until the last lane has shown its last row, kWarpSize steps after that row's first, and
  // the row is written.
  const int chunks = (walk.rows - 1 + kWarpSize) / kChunk + 1;
  const int rounds = chunks + (warps - 1) * kLag;

  for (int round = 0; round < rounds; ++round) {
    const int chunk = round - warp * kLag;
    if (warp < warps && chunk >= 0 && chunk < chunks) {
      const int first_step = chunk * kChunk;
      if (chunk == 0) mine.Begin();
      const Scaled<Real>* left = entrance;
      if (warp > 0) {
        left = rings[warp - 1].last_column + RingIndex(first_step);
      } else if (previous != nullptr || chunk == 1) {
        __syncwarp();  // the values of the last chunk have been read
        const int row = first_step + static_cast<int>(threadIdx.x);
        if (threadIdx.x < kChunk && row < walk.rows) {
          entrance[threadIdx.x] =
              previous != nullptr ? previous[row] : Scaled<Real>{0, kZeroExponent<Real>};
        }
        __syncwarp();  // and those of this one become visible to the warp
      }
      mine.Advance(first_step, warp > 0 || previous != nullptr, left);
      mine.PassOn(first_step, mine_next);
    }
    // Makes the last columns shown in this round visible to the warps on the right; a slot is shown
    // anew kRing rows later, long after it was read.
    __syncthreads();
  }
}

// Walks all panels. boundaries: what the panels pass on, two values a row of the walk.
template <typename Real, Pass kPass>
__device__ void WalkPanels(const Walk& walk, const Arrays<Real>& arrays, Scaled<Real>* cut,
                           const Outcome<Real>& outcome, Scaled<Real>* boundaries,
                           Rings<Real>* rings) {
  if (walk.rows == 0) return;
  const int panel = blockDim.x;
  for (int first = 0; first < walk.columns; first += panel) {
    const bool is_odd = first / panel % 2 == 1;
    Scaled<Real>* const own = boundaries + (is_odd ? walk.rows : 0);
    Scaled<Real>* const other = boundaries + (is_odd ? 0 : walk.rows);
    // The barrier at the end of a panel makes its boundary visible to the next.
    WalkPanel<Real, kPass>(walk, arrays, cut, outcome, first, first > 0 ? other : nullptr,
                           first + panel < walk.columns ? own : nullptr, rings);
  }
}

// The scratch of a sequence's walk. A sequence has two walks of together T_n rows.
// Boundaries: padded (sequences, T, 2); compact the sequence's own cells, of which it has more than
// 2 T_n if it has more than one panel.
// Cuts, where the values of the last row go if nothing else is kept: padded (sequences, 2, U);
// compact the sequence's own cells, of which the walks of two rows or more have 2 (U_n + 1).
__device__ int64_t BoundariesIndex(const LatticeLayout& layout, const LatticeSequence& sequence,
                                   int64_t n, int rows_before) {
  const int64_t first = layout.compact() ? sequence.first : n * layout.max_frames * 2;
  return first + 2 * rows_before;
}
__device__ int64_t CutIndex(const LatticeLayout& layout, const LatticeSequence& sequence, int64_t n,
                            bool is_beta) {
  if (layout.compact()) return sequence.first + (is_beta ? sequence.columns : 0);
  return (2 * n + is_beta) * layout.max_columns;
}

// Zeros the cotangents of a padded sequence's cells beyond `frames` and `columns`; the two blocks
// of a sequence share the rows.
template <typename Real>
__device__ void ZeroPadding(const LatticeLayout& layout, int64_t n, int frames, int columns,
                            bool is_second, const Arrays<Real>& arrays) {
  const int64_t first = n * layout.max_frames * layout.max_columns;
  const int warps = blockDim.x / kWarpSize;
  const int64_t warp = threadIdx.x / kWarpSize * 2 + is_second;
  for (int64_t t = warp; t < layout.max_frames; t += 2 * warps) {
    const int64_t row = first + t * layout.max_columns;
    const int64_t used = t < frames ? columns : 0;
    for (int64_t u = used + threadIdx.x % kWarpSize; u < layout.max_columns; u += kWarpSize) {
      arrays.blank_cotangents[row + u] = 0;
      arrays.label_cotangents[row + u] = 0;
    }
  }
}

// Block 2n walks alpha of sequence n, block 2n + 1 beta.
template <typename Real, Pass kPass>
__global__ void __launch_bounds__(kMaxWarps<Real>* kWarpSize, 1)
    LatticeWalkKernel(const LatticeLayout layout, const Arrays<Real> arrays) {
  extern __shared__ __align__(32) unsigned char shared_memory[];
  Rings<Real>* rings = reinterpret_cast<Rings<Real>*>(shared_memory);
  const int64_t n = blockIdx.x / 2;
  const bool is_beta = blockIdx.x % 2 == 1;
  const LatticeSequence sequence = layout.Sequence(n);
  Outcome<Real> outcome = {};
  bool is_walked = sequence.valid;
  if constexpr (kPass == Pass::kBackward) {
    if (is_walked) {
      outcome = {arrays.totals[n], arrays.cotangents[n]};
      is_walked = outcome.total.mantissa > 0 && outcome.cotangent != 0;
    }
    if (!layout.compact()) {
      ZeroPadding(layout, n, is_walked ? sequence.frames : 0, sequence.columns, is_beta, arrays);
    }
  }
  if (!is_walked) return;
  if (kPass == Pass::kBackward && sequence.frames == 1) {
    // One alignment, and all of its arcs are certain.
    for (int u = threadIdx.x; is_beta && u < sequence.columns; u += blockDim.x) {
      const bool is_last = u == sequence.columns - 1;
      arrays.blank_cotangents[sequence.first + u] = is_last ? -outcome.cotangent : Real(0);
      arrays.label_cotangents[sequence.first + u] = is_last ? Real(0) : -outcome.cotangent;
    }
    return;
  }
  const Walk walk = MakeWalk(sequence, is_beta, kPass == Pass::kBackward);
  const int rows_before = is_beta ? sequence.frames - walk.rows : 0;
  Scaled<Real>* const boundaries =
      arrays.boundaries + BoundariesIndex(layout, sequence, n, rows_before);
  Scaled<Real>* const cut = arrays.cuts + CutIndex(layout, sequence, n, is_beta);
  WalkPanels<Real, kPass>(walk, arrays, cut, outcome, boundaries, rings);
  if constexpr (kPass == Pass::kBackward) {
    // The blank arcs of the last frame lead out of the lattice, the last of them at its end: all
    // alignments take it.
    if (!is_beta) {
      const int64_t row = sequence.first + (sequence.frames - 1) * sequence.stride;
      for (int u = threadIdx.x; u < sequence.columns; u += blockDim.x) {
        arrays.blank_cotangents[row + u] = u == sequence.columns - 1 ? -outcome.cotangent : Real(0);
      }
    }
  }
}

// One warp per sequence: the sum over the cut, U_n + 1 terms.
template <typename Real, Pass kPass>
__global__ void __launch_bounds__(kWarpSize)
    LatticeTotalKernel(const LatticeLayout layout, const Arrays<Real> arrays, Real* costs,
                       Scaled<Real>* totals) {
  const int64_t n = blockIdx.x;
  const LatticeSequence sequence = layout.Sequence(n);
  if (!sequence.valid) {
    if (threadIdx.x == 0) costs[n] = NAN;
    return;
  }
  const Walk alpha_walk = MakeWalk(sequence, /*is_beta=*/false, /*is_second_half=*/false);
  const Walk beta_walk = MakeWalk(sequence, /*is_beta=*/true, /*is_second_half=*/false);
  const int last_column = sequence.columns - 1;
  const Real* blank_log_probs =
      arrays.blank_log_probs + sequence.first + (MeetingFrame(sequence) - 1) * sequence.stride;
  Scaled<Real> sum = {0, kZeroExponent<Real>};
  for (int u = threadIdx.x; u <= last_column; u += kWarpSize) {
    Scaled<Real> alpha, beta = {1, 0};
    if constexpr (kPass == Pass::kCost) {
      alpha = arrays.cuts[CutIndex(layout, sequence, n, false) + u];
      if (beta_walk.rows > 0) {
        beta = arrays.cuts[CutIndex(layout, sequence, n, true) + last_column - u];
      }
    } else {
      alpha = arrays.values[alpha_walk.ValueIndex(alpha_walk.rows - 1, u)];
      if (beta_walk.rows > 0) {
        beta = arrays.values[beta_walk.ValueIndex(beta_walk.rows - 1, last_column - u)];
      }
    }
    if (beta_walk.rows == 0 && u < last_column) continue;  // beta(T, u) = 0
    const Scaled<Real> through = Multiply(Multiply(alpha, Split(blank_log_probs[u])), beta);
    sum = Normalize(Add(sum, through));
  }
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Scaled<Real> other = {__shfl_xor_sync(kAllLanes, sum.mantissa, distance),
                                __shfl_xor_sync(kAllLanes, sum.exponent, distance)};
    sum = Normalize(Add(sum, other));
  }
  if (threadIdx.x == 0) {
    costs[n] = static_cast<Real>(NegativeLog(sum));
    if constexpr (kPass == Pass::kForward) totals[n] = sum;
  }
}

struct WalkLimits {
  int64_t warps;
  int shared_memory;  // of a block with so many warps
};

template <typename Real>
cudaError_t GetWalkLimits(WalkLimits* limits) {
  int device = 0, limit = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  limits->warps = kMaxWarps<Real>;
  while (SharedBytes<Real>(limits->warps) > limit) --limits->warps;
  limits->shared_memory = static_cast<int>(SharedBytes<Real>(limits->warps));
  return cudaSuccess;
}

// As many warps as the columns need and a block can have; panels of equal width otherwise.
int64_t CountWarps(const LatticeLayout& layout, int64_t limit) {
  int64_t columns = layout.max_columns;
  if (layout.compact()) {
    // The bound may be the labels of all sequences together: take twice the mean instead. A longer
    // sequence is walked in panels.
    const int64_t labels = 2 * (layout.max_columns - 1) / layout.sequences_per_group;
    columns = std::min(columns, labels + 1);
  }
  const int64_t needed = (columns + kWarpSize - 1) / kWarpSize;
  const int64_t panels = (needed + limit - 1) / limit;
  return (needed + panels - 1) / panels;
}

template <typename Real, Pass kPass>
cudaError_t LaunchLatticeWalk(cudaStream_t stream, const LatticeLayout& layout,
                              const Arrays<Real>& arrays) {
  WalkLimits limits;
  cudaError_t error = GetWalkLimits<Real>(&limits);
  if (error != cudaSuccess) return error;
  const auto kernel = LatticeWalkKernel<Real, kPass>;
  // Always the same value: another thread may be between these two calls on the same device.
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               limits.shared_memory);
  if (error != cudaSuccess) return error;
  const int64_t blocks = 2 * layout.sequences;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const int64_t warps = CountWarps(layout, limits.warps);
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(warps * kWarpSize),
           static_cast<size_t>(SharedBytes<Real>(warps)), stream>>>(layout, arrays);
  return cudaGetLastError();
}

template <typename Real, Pass kPass>
cudaError_t LaunchLatticeForward(cudaStream_t stream, const LatticeLayout& layout,
                                 const Arrays<Real>& arrays, Real* costs, Scaled<Real>* totals) {
  const cudaError_t error = LaunchLatticeWalk<Real, kPass>(stream, layout, arrays);
  if (error != cudaSuccess) return error;
  LatticeTotalKernel<Real, kPass>
      <<<static_cast<unsigned>(layout.sequences), kWarpSize, 0, stream>>>(layout, arrays, costs,
                                                                          totals);
  return cudaGetLastError();
}

}  // namespace

template <typename Real>
cudaError_t LatticeCost(cudaStream_t stream, const LatticeLayout& layout,
                        const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                        Scaled<Real>* cuts, Scaled<Real>* boundaries) {
  if (layout.sequences == 0) return cudaSuccess;
  Arrays<Real> arrays = {};
  arrays.blank_log_probs = blank_log_probs;
  arrays.label_log_probs = label_log_probs;
  arrays.cuts = cuts;
  arrays.boundaries = boundaries;
  return LaunchLatticeForward<Real, Pass::kCost>(stream, layout, arrays, costs, nullptr);
}

template <typename Real>
cudaError_t LatticeForward(cudaStream_t stream, const LatticeLayout& layout,
                           const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                           Scaled<Real>* values, Scaled<Real>* totals, Scaled<Real>* boundaries) {
  if (layout.sequences == 0) return cudaSuccess;
  Arrays<Real> arrays = {};
  arrays.blank_log_probs = blank_log_probs;
  arrays.label_log_probs = label_log_probs;
  arrays.values = values;
  arrays.boundaries = boundaries;
  return LaunchLatticeForward<Real, Pass::kForward>(stream, layout, arrays, costs, totals);
}

template <typename Real>
cudaError_t LatticeBackward(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                            const Real* blank_log_probs, const Real* label_log_probs,
                            const Scaled<Real>* values, const Scaled<Real>* totals,
                            const Real* cotangents, Real* blank_cotangents, Real* label_cotangents,
                            Scaled<Real>* boundaries) {
  if (layout.compact()) {
    // Rows between and behind the sequences belong to none of them.
    for (Real* zeroed : {blank_cotangents, label_cotangents}) {
      const cudaError_t error = cudaMemsetAsync(zeroed, 0, cells * sizeof(Real), stream);
      if (error != cudaSuccess) return error;
    }
  }
  if (layout.sequences == 0) return cudaSuccess;
  Arrays<Real> arrays = {};
  arrays.blank_log_probs = blank_log_probs;
  arrays.label_log_probs = label_log_probs;
  arrays.values = const_cast<Scaled<Real>*>(values);  // only read in the backward
  arrays.totals = totals;
  arrays.cotangents = cotangents;
  arrays.blank_cotangents = blank_cotangents;
  arrays.label_cotangents = label_cotangents;
  arrays.boundaries = boundaries;
  return LaunchLatticeWalk<Real, Pass::kBackward>(stream, layout, arrays);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                               \
  template cudaError_t LatticeCost(cudaStream_t, const LatticeLayout&, const Real*, const Real*, \
                                   Real*, Scaled<Real>*, Scaled<Real>*);                         \
  template cudaError_t LatticeForward(cudaStream_t, const LatticeLayout&, const Real*,           \
                                      const Real*, Real*, Scaled<Real>*, Scaled<Real>*,          \
                                      Scaled<Real>*);                                            \
  template cudaError_t LatticeBackward(cudaStream_t, const LatticeLayout&, int64_t, const Real*, \
                                       const Real*, const Scaled<Real>*, const Scaled<Real>*,    \
                                       const Real*, Real*, Real*, Scaled<Real>*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
