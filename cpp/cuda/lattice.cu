// Alpha, beta and posteriors of RNN-T lattices.
//
//   alpha(0, 0) = 1
//   alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1)
//   total       = alpha(T-1, U) blank(T-1, U),    cost = -log(total)
//   beta(T, U)  = 1
//   beta(t, u)  = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1)
//   posterior of an arc = alpha(its tail) arc beta(its head) / total
//
// Every quantity is Scaled (core/scaled.h). Both recursions are one walk over rows r and columns c,
//
//   value(r, c) = value(r-1, c) from_above(r, c) + value(r, c-1) from_left(r, c),
//
// beta's on the lattice turned by 180 degrees; alpha enters a cell through its neighbours' arcs and
// beta leaves it through its own, so only pointers differ (Walk).
//
// Split: one block per sequence and direction, one warp per 32 neighbouring columns, one lane per
// column. A wavefront: at step k a lane is at row k - lane, so the value to its left was computed
// by the lane to its left one step earlier and comes by shuffle. The time is that of T + U
// dependent steps, hence as little as possible in each: no logarithm, no division.
//
// Rows lie along u in memory, the wavefront runs across them. Each warp therefore keeps a ring of
// kRing rows x 32 columns in shared memory. A lane copies its own column's arcs into it a whole row
// at a time for the warp, so that global memory sees 32 neighbours; reads them when the wavefront
// comes by, up to 31 steps later; puts its result in the same slot; and writes it out when the row
// is complete. Nobody else touches the slot but for the next warp, which reads the last lane's
// results: that is what the one barrier in kChunk steps is for.
//
// More columns than a block has are walked in panels, one after the other; the last column of a
// panel passes to the next through global memory.
#include <algorithm>

#include "cuda/async_copy.cuh"
#include "cuda/lattice.h"

namespace jax_rnnt::cuda {
namespace {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Steps from one barrier to the next. In a ring of 64 rows 8 leaves room for two chunks of
// prefetch, 16 for one. With 8 the forward of (T, U, V) = (1500, 300, 50), N = 1, takes 0.43 ms on
// an H100; 16 has not been measured in this kernel.
constexpr int kChunk = 8;
static_assert(kChunk <= kMaxUnnormalizedSteps);
// Chunks between the copy of a row's arcs and its first use: 16 steps, about 3 us at the rate
// above, several times the latency of global memory.
constexpr int kPrefetchChunks = 2;
// Chunks by which a warp follows its left neighbour, whose last lane is 31 steps behind its first.
constexpr int kLag = kWarpSize / kChunk + 1;
// Rows in a warp's ring: a row's slots are taken kPrefetchChunks before its first step, its last
// result is ready 31 steps after, and the right neighbour reads that kLag chunks after the first
// step.
constexpr int kRing = 64;
static_assert(kRing >= (kPrefetchChunks + kLag + 1) * kChunk);

// As many rings as fill the 227 KB of shared memory that a block can have on an H100.
template <typename Real>
constexpr int kMaxWarps = sizeof(Real) == sizeof(float) ? 14 : 7;

template <typename Real>
struct alignas(2 * sizeof(Real))
    Slot {  // first an arc pair's log-probabilities, then the cell's value
  Real first;
  Real second;
};

// The slot of a row in a lane's column of a ring.
__device__ __forceinline__ int RingIndex(int row) { return (row & (kRing - 1)) * kWarpSize; }

// Where a direction of the recursion finds row r, column c of its walk.
template <typename Real>
struct Walk {
  const Real* from_above;  // of (0, 0), for rows r >= first_row_from_above
  const Real* from_left;   // of (0, 0), for columns c >= 1
  int64_t cell;            // index of (0, 0) in an array of cells
  int64_t row_step;
  int column_step;
  int first_row_from_above;  // value(-1, 0) = 1 enters (0, 0) as it is if this is 1
};

template <typename Real>
__device__ Walk<Real> MakeWalk(bool backward, const LatticeSequence& sequence,
                               const Real* blank_log_probs, const Real* label_log_probs) {
  if (backward) {
    const int64_t last =
        sequence.first + (sequence.frames - 1) * sequence.stride + sequence.columns - 1;
    return {blank_log_probs + last, label_log_probs + last, last, -sequence.stride, -1, 0};
  }
  return {blank_log_probs + sequence.first - sequence.stride,
          label_log_probs + sequence.first - 1,
          sequence.first,
          sequence.stride,
          1,
          1};
}

// One warp's 32 columns.
template <typename Real, bool kStore>
class WarpColumns {
 public:
  __device__ WarpColumns(const Walk<Real>& walk, int rows, int columns, int first_column,
                         Slot<Real>* ring)
      : walk_(walk),
        rows_(rows),
        lane_(threadIdx.x % kWarpSize),
        column_(first_column + lane_),
        active_(column_ < columns),
        all_active_(first_column + kWarpSize <= columns),
        slots_(ring + lane_) {
    const int64_t offset = static_cast<int64_t>(column_) * walk.column_step;
    from_above_ = walk.from_above + offset;
    from_left_ = walk.from_left + offset;
    cell_ = walk.cell + offset;
    value_ = column_ == 0 ? Scaled<Real>{1, 0} : Scaled<Real>{0, kZeroExponent<Real>};
  }

  // Starts the copies of the arcs of rows [first_row, first_row + kChunk). Rows come in order.
  __device__ void CopyArcs(int first_row) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int row = first_row + i;
      if (active_ && row < rows_) {
        Slot<Real>* slot = slots_ + RingIndex(row);
        if (row >= walk_.first_row_from_above) CopyAsync(&slot->first, from_above_);
        if (column_ > 0) CopyAsync(&slot->second, from_left_);
      }
      from_above_ += walk_.row_step;
      from_left_ += walk_.row_step;
    }
    CommitCopies();
  }

  // Steps [first_step, first_step + kChunk). left(i): what enters lane 0 at the i-th of them.
  template <typename Left>
  __device__ void Advance(int first_step, const Left& left) {
    const bool all_inside =
        all_active_ && first_step - kWarpSize >= 0 && first_step + kChunk <= rows_;
    if (all_inside) {
      AdvanceChunk<false>(first_step, left);
    } else {
      AdvanceChunk<true>(first_step, left);
    }
  }

  // Writes out the rows that the last step but kChunk completed.
  __device__ void WriteRows(int first_step, Scaled<Real>* values) {
    if constexpr (kStore) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const int row = first_step - kWarpSize + i;
        if (active_ && row >= 0 && row < rows_) {
          const Slot<Real> slot = slots_[RingIndex(row)];
          values[cell_] = {slot.first, slot.second};
          cell_ += walk_.row_step;
        }
      }
    }
  }

  __device__ Scaled<Real> last_value() const { return last_value_; }

 private:
  template <bool kMasked, typename Left>
  __device__ __forceinline__ void AdvanceChunk(int first_step, const Left& left) {
    Scaled<Real> above[kChunk], beside[kChunk], entering[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int row = first_step + i - lane_;
      const Slot<Real> slot = slots_[RingIndex(row)];
      constexpr Real kNever = -HUGE_VAL;
      Real first = slot.first;
      Real second = column_ > 0 ? slot.second : kNever;
      if constexpr (kMasked) {
        const bool inside = active_ && row >= 0 && row < rows_;
        // Above row 0 of column 0 stands the one that everything starts from. Nothing else enters
        // from above: those arcs of beta's lead out of the lattice and may hold anything.
        const bool from_start = column_ == 0 && row < walk_.first_row_from_above;
        if (from_start) first = 0;
        if (!from_start && (!inside || (row == 0 && column_ > 0))) first = kNever;
        if (!inside) second = kNever;
      }
      above[i] = Split(first);
      beside[i] = Split(second);
      entering[i] = left(i);
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      Scaled<Real> from_left = {__shfl_up_sync(kAllLanes, value_.mantissa, 1),
                                __shfl_up_sync(kAllLanes, value_.exponent, 1)};
      if (lane_ == 0) from_left = entering[i];
      value_ = Add(Multiply(value_, above[i]), Multiply(from_left, beside[i]));
      const int row = first_step + i - lane_;
      if (!kMasked || (row >= 0 && row < rows_)) {
        slots_[RingIndex(row)] = {value_.mantissa, value_.exponent};
        if (kMasked && row == rows_ - 1) last_value_ = value_;
      }
    }
    value_ = Normalize(value_);
  }

  const Walk<Real> walk_;
  const int rows_;
  const int lane_;
  const int column_;
  const bool active_;
  const bool all_active_;
  Slot<Real>* const slots_;
  const Real* from_above_;  // of the next row to copy
  const Real* from_left_;
  int64_t cell_;  // of the next row to write
  Scaled<Real> value_;
  Scaled<Real> last_value_ = {
      0, kZeroExponent<Real>};  // of the last row; a lane meets it in a masked chunk only
};

// The walk of one panel: columns [first_column, first_column + 32 warps) of `columns`.
// previous, next: global memory, one number a row (boundary_step apart): the last column of the
// panel to the left, or null, and where this panel leaves its own, or null.
template <typename Real, bool kStore>
__device__ Scaled<Real> WalkPanel(const Walk<Real>& walk, int rows, int columns, int first_column,
                                  Scaled<Real>* values, const Scaled<Real>* previous,
                                  Scaled<Real>* next, int64_t boundary_step, Slot<Real>* rings) {
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int panel_columns = min(columns - first_column, static_cast<int>(blockDim.x));
  const int warps = (panel_columns + kWarpSize - 1) / kWarpSize;
  Slot<Real>* ring = rings + warp * kRing * kWarpSize;
  WarpColumns<Real, kStore> mine(walk, rows, columns, first_column + warp * kWarpSize, ring);
  // The left neighbour's last lane.
  const Slot<Real>* left_ring = warp > 0 ? ring - kRing * kWarpSize + kWarpSize - 1 : nullptr;
  const bool rightmost = next != nullptr && warp == warps - 1;
  // Chunks until a warp has written its last row, kWarpSize steps after that row's first.
  const int chunks = (rows - 1 + kWarpSize) / kChunk + 1;
  const int rounds = chunks + (warps - 1) * kLag;

  for (int round = 0; round < rounds; ++round) {
    const int chunk = round - warp * kLag;
    if (warp < warps && chunk >= 0 && chunk < chunks) {
      const int first_step = chunk * kChunk;
      if (chunk == 0) {
#pragma unroll 1
        for (int i = 0; i < kPrefetchChunks; ++i) mine.CopyArcs(i * kChunk);
      }
      mine.CopyArcs(first_step + kPrefetchChunks * kChunk);
      WaitForCopies<kPrefetchChunks>();
      mine.Advance(first_step, [&](int i) -> Scaled<Real> {
        const int row = first_step + i;
        if (warp > 0) {
          const Slot<Real> slot = left_ring[RingIndex(row)];
          return {slot.first, slot.second};
        }
        if (previous != nullptr && row < rows) return previous[row * boundary_step];
        return {0, kZeroExponent<Real>};
      });
      if (rightmost && lane == kWarpSize - 1) {
        for (int i = 0; i < kChunk; ++i) {
          const int row = first_step + i - (kWarpSize - 1);
          if (row < 0 || row >= rows) continue;
          const Slot<Real> slot = ring[RingIndex(row) + kWarpSize - 1];
          next[row * boundary_step] = {slot.first, slot.second};
        }
      }
      mine.WriteRows(first_step, values);
    }
    // Shows this round's results in the last lane's slots to the warp on the right, and tells the
    // warp on the left that the slots read here may be copied into again.
    __syncthreads();
  }
  return mine.last_value();
}

// Block n: alpha of sequence n, its total and cost. With kStore, block 2n is that and block 2n + 1
// is beta of sequence n, and all values are written to alphas and betas. Without, boundaries is
// used if there is more than one panel.
template <typename Real, bool kStore>
__global__ void __launch_bounds__(kMaxWarps<Real>* kWarpSize)
    LatticeWalkKernel(const LatticeLayout layout, const Real* __restrict__ blank_log_probs,
                      const Real* __restrict__ label_log_probs, Real* costs, Scaled<Real>* alphas,
                      Scaled<Real>* betas, Scaled<Real>* totals, Scaled<Real>* boundaries) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  Slot<Real>* rings = reinterpret_cast<Slot<Real>*>(shared_memory);
  const int64_t n = kStore ? blockIdx.x / 2 : blockIdx.x;
  const bool backward = kStore && blockIdx.x % 2 == 1;
  const LatticeSequence sequence = layout.Sequence(n);
  if (!sequence.valid) {
    if (!backward && threadIdx.x == 0) costs[n] = NAN;
    return;
  }
  const Walk<Real> walk = MakeWalk(backward, sequence, blank_log_probs, label_log_probs);
  Scaled<Real>* values = backward ? betas : alphas;
  const int panel = blockDim.x;
  Scaled<Real> last = {0, kZeroExponent<Real>};
  for (int first = 0; first < sequence.columns; first += panel) {
    const Scaled<Real>* previous = nullptr;
    Scaled<Real>* next = nullptr;
    int64_t boundary_step = walk.row_step;
    if constexpr (kStore) {
      // The values themselves are in global memory: the neighbouring column is there already.
      if (first > 0) previous = values + walk.cell + (first - 1) * walk.column_step;
    } else {
      // Panels take turns with two numbers a row: in the compact layout those of the sequence's own
      // cells (it has more than two columns), else an array (sequences, T, 2).
      boundary_step = layout.compact() ? sequence.stride : 2;
      Scaled<Real>* column =
          boundaries + (layout.compact() ? sequence.first : n * layout.max_frames * 2);
      const int turn = first / panel % 2;
      if (first > 0) previous = column + (1 - turn);
      if (first + panel < sequence.columns) next = column + turn;
    }
    last = WalkPanel<Real, kStore>(walk, sequence.frames, sequence.columns, first, values, previous,
                                   next, boundary_step, rings);
  }
  const int last_thread = (sequence.columns - 1) % panel;
  if (!backward && threadIdx.x == last_thread) {
    const int64_t exit = sequence.first + (sequence.frames - 1) * sequence.stride;
    const Scaled<Real> total =
        Normalize(Multiply(last, Split(blank_log_probs[exit + sequence.columns - 1])));
    if constexpr (kStore) totals[n] = total;
    costs[n] = static_cast<Real>(NegativeLog(total));
  }
}

constexpr int kPosteriorWarps = 8;

// One warp per row of cells, one lane per cell; blocks_per_sequence blocks share a sequence's rows.
// Bound by memory: 16 bytes of arcs and alpha, 8 of beta (the row below is another warp's own row
// and comes from the cache), 8 written, for float.
template <typename Real>
__global__ void __launch_bounds__(kPosteriorWarps* kWarpSize)
    LatticePosteriorsKernel(const LatticeLayout layout, int blocks_per_sequence,
                            const Real* __restrict__ blank_log_probs,
                            const Real* __restrict__ label_log_probs,
                            const Scaled<Real>* __restrict__ alphas,
                            const Scaled<Real>* __restrict__ betas,
                            const Scaled<Real>* __restrict__ totals, Real* blank_posteriors,
                            Real* label_posteriors) {
  const int64_t n = blockIdx.x / blocks_per_sequence;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t first_row =
      blockIdx.x % blocks_per_sequence * kPosteriorWarps + threadIdx.x / kWarpSize;
  const LatticeSequence sequence = layout.Sequence(n);
  // Padding is written as zeros; in the compact layout it is nobody's and was zeroed beforehand.
  const int64_t frames = sequence.valid ? sequence.frames : 0;
  const int64_t rows = layout.compact() ? frames : layout.max_frames;
  const int64_t row_cells = layout.compact() ? sequence.columns : layout.max_columns;
  const Scaled<Real> one = {1, 0};
  const Scaled<Real> total = sequence.valid ? totals[n] : Scaled<Real>{0, 0};
  for (int64_t t = first_row; t < rows; t += blocks_per_sequence * kPosteriorWarps) {
    const int64_t row = sequence.first + t * sequence.stride;
    for (int64_t u = lane; u < row_cells; u += kWarpSize) {
      const int64_t cell = row + u;
      Real blank_posterior = 0, label_posterior = 0;
      if (t < frames && u < sequence.columns) {
        const bool last_frame = t == frames - 1, last_column = u == sequence.columns - 1;
        const Scaled<Real> alpha = alphas[cell];
        if (!last_frame || last_column) {
          const Scaled<Real> below = last_frame ? one : betas[cell + sequence.stride];
          blank_posterior =
              Share(Multiply(Multiply(alpha, Split(blank_log_probs[cell])), below), total);
        }
        if (!last_column) {
          label_posterior = Share(
              Multiply(Multiply(alpha, Split(label_log_probs[cell])), betas[cell + 1]), total);
        }
      }
      blank_posteriors[cell] = blank_posterior;
      label_posteriors[cell] = label_posterior;
    }
  }
}

struct WalkLimits {
  int64_t warps;
  int shared_memory;  // of a block with so many warps
};

template <typename Real>
constexpr int64_t kRingBytes = kRing * kWarpSize * sizeof(Slot<Real>);

template <typename Real>
cudaError_t GetWalkLimits(WalkLimits* limits) {
  int device = 0, limit = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  limits->warps = std::min<int64_t>(kMaxWarps<Real>, limit / kRingBytes<Real>);
  limits->shared_memory = static_cast<int>(limits->warps * kRingBytes<Real>);
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

template <typename Real, bool kStore>
cudaError_t LaunchLatticeWalk(cudaStream_t stream, const LatticeLayout& layout,
                              const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                              Scaled<Real>* alphas, Scaled<Real>* betas, Scaled<Real>* totals,
                              Scaled<Real>* boundaries) {
  WalkLimits limits;
  cudaError_t error = GetWalkLimits<Real>(&limits);
  if (error != cudaSuccess) return error;
  const auto kernel = LatticeWalkKernel<Real, kStore>;
  // Always the same value: another thread may be between these two calls on the same device.
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               limits.shared_memory);
  if (error != cudaSuccess) return error;
  const int64_t blocks = kStore ? 2 * layout.sequences : layout.sequences;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const int64_t warps = CountWarps(layout, limits.warps);
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(warps * kWarpSize),
           static_cast<size_t>(warps * kRingBytes<Real>), stream>>>(
      layout, blank_log_probs, label_log_probs, costs, alphas, betas, totals, boundaries);
  return cudaGetLastError();
}

template <typename Real>
cudaError_t LaunchLatticePosteriors(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                                    const Real* blank_log_probs, const Real* label_log_probs,
                                    const Scaled<Real>* alphas, const Scaled<Real>* betas,
                                    const Scaled<Real>* totals, Real* blank_posteriors,
                                    Real* label_posteriors) {
  // About 4096 cells to a block: 16 per thread hide the block's start.
  constexpr int64_t kCellsPerBlock = 4096;
  const int64_t per_sequence = std::max<int64_t>(1, cells / layout.sequences / kCellsPerBlock);
  const int64_t blocks = per_sequence * layout.sequences;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  LatticePosteriorsKernel<<<static_cast<unsigned>(blocks), kPosteriorWarps * kWarpSize, 0,
                            stream>>>(layout, static_cast<int>(per_sequence), blank_log_probs,
                                      label_log_probs, alphas, betas, totals, blank_posteriors,
                                      label_posteriors);
  return cudaGetLastError();
}

}  // namespace

template <typename Real>
cudaError_t LatticeCost(cudaStream_t stream, const LatticeLayout& layout,
                        const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                        Scaled<Real>* boundaries) {
  return LaunchLatticeWalk<Real, false>(stream, layout, blank_log_probs, label_log_probs, costs,
                                        nullptr, nullptr, nullptr, boundaries);
}

template <typename Real>
cudaError_t LatticePosteriors(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                              const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                              Real* blank_posteriors, Real* label_posteriors, Scaled<Real>* alphas,
                              Scaled<Real>* betas, Scaled<Real>* totals) {
  if (layout.compact()) {
    // Rows between and behind the sequences belong to none of them.
    for (Real* posteriors : {blank_posteriors, label_posteriors}) {
      const cudaError_t error = cudaMemsetAsync(posteriors, 0, cells * sizeof(Real), stream);
      if (error != cudaSuccess) return error;
    }
  }
  if (layout.sequences == 0) return cudaSuccess;
  const cudaError_t error =
      LaunchLatticeWalk<Real, true>(stream, layout, blank_log_probs, label_log_probs, costs, alphas,
                                    betas, totals, /*boundaries=*/nullptr);
  if (error != cudaSuccess) return error;
  return LaunchLatticePosteriors<Real>(stream, layout, cells, blank_log_probs, label_log_probs,
                                       alphas, betas, totals, blank_posteriors, label_posteriors);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                                 \
  template cudaError_t LatticeCost(cudaStream_t, const LatticeLayout&, const Real*, const Real*,   \
                                   Real*, Scaled<Real>*);                                          \
  template cudaError_t LatticePosteriors(cudaStream_t, const LatticeLayout&, int64_t, const Real*, \
                                         const Real*, Real*, Real*, Real*, Scaled<Real>*,          \
                                         Scaled<Real>*, Scaled<Real>*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
