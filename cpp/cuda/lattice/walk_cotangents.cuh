// The arcs' cotangents by a walk of beta: for so many sequences that the time is that of their
// bytes.
//
//   posterior_k(t, u) = alpha(t, u) [exp arc_k(t, u) beta(t + dt_k, u + du_k)] / total
//
// What is in brackets is a term of beta(t, u), which the walk has in its hands. So beta is stored
// nowhere: alpha's walk before takes 4 bytes an arc and 8 more of each cell and this one 8 bytes an
// arc and 8 more, where walks of both and a pass behind take 16 and 32.
//
// Arrays as walk.cuh and posteriors.cuh have them. Split as walk.cuh: the chain leaves terms and
// their exponent in the slots, and the writer multiplies them by alpha. Zeros beyond the lengths
// are left to PosteriorKernel, and all of a sequence whose cotangents are zero. A sequence that was
// wrong to walk so (IsNear) is walked again by the block, on Scaled numbers.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_COTANGENTS_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_COTANGENTS_CUH_

#include "cuda/lattice/posteriors.cuh"
#include "cuda/lattice/walk.cuh"
#include "cuda/memory/async_copy.cuh"

namespace jax_rnnt::cuda {

template <class Place>
class CotangentSink {
  using C = typename Place::C;
  using Real = typename Place::Real;
  static constexpr int kArcs = C::Topo::kArcs;
  static constexpr Real kRound = FloatBits<Real>::kRoundingConstant;

 public:
  __device__ explicit CotangentSink(const Place& place) : place_(place) {}

  __device__ __forceinline__ void Begin(int64_t n, int column, bool) {
    is_active_ = column < place_.sequence.columns;
    cell_ = place_.FirstCell(column);
    const Scaled<Real> total = place_.arguments.totals[n];
    inverse_ = 1 / total.mantissa;
    total_exponent_ = total.exponent - kRound;  // of the exponents in the slots
    cotangent_ = place_.arguments.cotangents[n];
    sent_for_ = place_.arguments.alphas + cell_ + place_.sequence.to_kept;
    for (int chunk = 0; chunk < C::kHeldChunks - 1; ++chunk) SendFor(chunk * kChunk);
  }

  __device__ __forceinline__ void Prepare(int first_row) {
    SendFor(first_row + (C::kHeldChunks - 1) * kChunk);
  }

  template <typename Release>
  __device__ __forceinline__ void Take(int first_row, int slot, const Release& release) {
    WaitForCopies<C::kHeldChunks - 1>();
    const uint32_t held = Held(first_row);
    Real cotangents[kChunk][kArcs];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const uint32_t slots = place_.SlotsOf(slot, i);
      const auto word = [&](int k) {
        return LoadShared<Real>(slots + static_cast<uint32_t>(k * kWarpSize * sizeof(Real)));
      };
      const bool is_inside = IsInside(first_row + i);
      const Scaled<Real> alpha = LoadPair<Real>(held + i * kHeldRow);
      const Real base = word(kArcs);
      if (is_inside) watch_.SeeExponent(base + kRound);
      const Real exponent = alpha.exponent + (base - total_exponent_);
      const Real power = exponent < Real(-kNegligibleBits) ? Real(0) : Exp2(exponent);
      const Real factor = alpha.mantissa * inverse_ * power;
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        const Real term = word(k);
        if (is_inside && place_.arguments.arc_cotangents[k] != nullptr) watch_.See(term);
        cotangents[i][k] = Weigh(Saturate(factor * term), cotangent_);
      }
    }
    release();
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (!IsInside(first_row + i)) continue;
      const int64_t cell = cell_ + static_cast<int64_t>(place_.row_step) * i;
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        Real* const to = place_.arguments.arc_cotangents[k];
        if (to != nullptr) to[cell] = cotangents[i][k];
      }
    }
    cell_ += static_cast<int64_t>(place_.row_step) * kChunk;
  }

  __device__ float Highest() const { return watch_.Highest(); }

 private:
  static constexpr uint32_t kHeldRow = kWarpSize * sizeof(Scaled<Real>);

  __device__ __forceinline__ bool IsInside(int row) const {
    return is_active_ && row >= 1 && row <= place_.sequence.frames;
  }

  // This lane's alphas of a chunk of rows. No other lane looks at them.
  __device__ __forceinline__ uint32_t Held(int first_row) const {
    return place_.mine.Held(first_row / kChunk) +
           place_.lane * static_cast<uint32_t>(sizeof(Scaled<Real>));
  }

  // Starts the copies of the next chunk's alphas.
  __device__ __forceinline__ void SendFor(int first_row) {
    const uint32_t held = Held(first_row);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Scaled<Real>* const alpha = sent_for_ + static_cast<int64_t>(place_.row_step) * i;
      static_assert(sizeof(*alpha) == sizeof(double));
      CopyAsyncIf(IsInside(first_row + i), held + i * kHeldRow,
                  reinterpret_cast<const double*>(alpha));
    }
    CommitCopies();
    sent_for_ += static_cast<int64_t>(place_.row_step) * kChunk;
  }

  const Place& place_;
  bool is_active_;
  int64_t cell_;
  const Scaled<Real>* sent_for_;
  Real inverse_;  // of the total's mantissa
  Real total_exponent_;
  Real cotangent_;
  Watch<Real> watch_;
};

// Rows of beta that WalkBackAny keeps: those that an arc may lead to, the one that is computed, and
// the one by which the column to the left is ahead.
constexpr int kKeptRows = kMaxArcFrames + 2;

// The cotangents of sequence n by one block, with numbers of any size, as walk_any.cuh walks. rows:
// kKeptRows of beta, in shared memory.
template <class Topo, typename Real>
__device__ __noinline__ void WalkBackAny(const PosteriorArguments<Real>& arguments,
                                         const LatticeSequence& sequence, int64_t n,
                                         Scaled<Real>* rows) {
  const int frames = sequence.frames, columns = sequence.columns;
  const Scaled<Real> total = arguments.totals[n];
  const Real cotangent = arguments.cotangents[n];
  const auto row = [&](int r, int c) -> Scaled<Real>& { return rows[r % kKeptRows * columns + c]; };
  const int steps = frames + 1 + (Topo::Skewed() ? columns - 1 : 0);
  for (int step = 0; step < steps; ++step) {
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
      const int r = Topo::Skewed() ? step - c : step;
      if (r < 0 || r > frames) continue;
      const int t = frames - r, u = columns - 1 - c;
      Scaled<Real> sum = {0, kZeroExponent<Real>};
      if (r == 0) {
        row(r, c) = c == 0 ? Scaled<Real>{1, 0} : sum;
        continue;
      }
      const int64_t cell = sequence.first + t * sequence.stride + u;
      const Scaled<Real> alpha = arguments.alphas[cell + sequence.to_kept];
      for (int k = 0; k < Topo::kArcs; ++k) {
        if (arguments.arc_cotangents[k] == nullptr) continue;
        Real posterior = 0;
        if (Topo::Legal(arguments.topology, k, t, u, frames, columns)) {
          const Scaled<Real> term = Multiply(Split(arguments.arrays.arcs[k][cell]),
                                             row(r - Topo::Dt(k), c - Topo::Du(k)));
          sum = Add(sum, term);
          posterior = Share(Multiply(alpha, term), total);
        }
        arguments.arc_cotangents[k][cell] = Weigh(posterior, cotangent);
      }
      row(r, c) = Normalize(sum);
    }
    __syncthreads();  // this step's values are visible to the next
  }
}

// One cluster (before sm_90: one block) for each sequence; all its columns at once.
template <class C>
__global__ void __launch_bounds__(kMaxBlockColumns<C> * kColumnsWarps * kWarpSize, 1)
    CotangentWalkKernel(const __grid_constant__ PosteriorArguments<typename C::Real> arguments) {
  using Real = typename C::Real;
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const int64_t n = blockIdx.x / ClusterSize();
  const LatticeSequence sequence = arguments.layout.Sequence(n);
  if (!sequence.valid || !IsAlive(arguments.totals[n], arguments.cotangents[n])) return;
  // Of alpha's numbers, see ArcsForward.
  bool is_near = arguments.betas[sequence.first + sequence.to_kept].mantissa == 0;
  if (is_near) {
    const Real status = static_cast<Real>(
        WalkColumns<C, CotangentSink>(arguments, sequence, n, /*is_beta=*/true, shared_memory));
    is_near = IsNear(arguments.totals[n], &status, 1);
  }
  if (ClusterRank() != 0) return;
  __syncthreads();  // all have read the status, where WalkBackAny's rows go
  if (!is_near) {
    WalkBackAny<typename C::Topo>(arguments, sequence, n,
                                  reinterpret_cast<Scaled<Real>*>(shared_memory));
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_COTANGENTS_CUH_
