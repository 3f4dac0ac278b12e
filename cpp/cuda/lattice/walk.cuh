// Alpha and beta of a lattice over arcs (dt, du), du <= 1, of a topology known in advance.
//
//   value(r, c) = [r = 0, c = 0] + sum_k arc_k(into (r, c)) value(r - dt_k, c - du_k)
//
// is alpha with r = t, c = u, and beta with r = T_n - t, c = U_n - u: only pointers and the rows in
// which an arc is legal differ. WalkKernel walks alpha and beta over all frames, side by side, and
// stores every value; posteriors are a parallel pass behind (posteriors.cuh). Two walks of all
// frames and a pass take 16 bytes an arc and 32 more of each cell, but half as many dependent steps
// as walks one after the other: they are what the time of a few sequences consists of. Of many
// sequences it consists of bytes, and walk_cotangents.cuh is for them.
//
//   arcs            K arrays of cells (core/lattice_layout.h), log-weights in nats
//   alphas, betas   (cells): the nodes (t, u), t < T_n
//   totals          (sequences): alpha(T_n, U_n)
//   status          (sequences, 2): see IsNear
//
// Split: a lane has a column, a warp 32 of them; in step s a lane is at row s - lane where an arc
// (0, 1) exists, else at row s. A lane keeps its own last max dt values and its left neighbour's in
// registers: each term is one arc times one of them, and one value is shuffled a step.
//
// The arcs of a row lie in slots of a ring which one lane alone reads; a row's value, or its arcs'
// terms, takes their place, and leaves for memory, 32 columns at a time, when the last lane has
// passed the row. So both arcs and values move as rows of 32 neighbours though the walk goes along
// diagonals.
//
// Three warps share 32 columns: one has nothing but the chain of steps, one copies arcs in
// (cp.async), one writes values out and passes the last column on to the next 32 columns. When one
// warp did the second and the third's work it was the bound: 181 us against 132 at (T, U) =
// (1500, 300) on an H100.
//
// The last column goes to the next 32, eight rows a signal, and nothing else is waited for. So the
// columns of a sequence may lie in several blocks of a cluster (sm_90 and newer), each with its own
// multiprocessor: with two warps for 32 columns, (1500, 300) took 127 us in five blocks
// and 212 in one. More columns than blocks have room for are walked in panels; the next panel reads
// the last column of the one before from the stored values.
//
// Numbers: a value is mantissa * 2^exponent, and in registers and slots the exponent carries an
// offset of -kRound, which saves an addition an arc. What falls below 2^kFloor becomes zero, so
// that exponents are whole numbers that Real holds exactly, whatever the arcs. Where that was wrong
// (see IsNear) walk_any.cuh walks the sequence again.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_CUH_

#include "cuda/lattice/power.cuh"
#include "cuda/lattice/topology.cuh"
#include "cuda/lattice/walk_arguments.cuh"
#include "cuda/lattice/walk_columns.cuh"
#include "cuda/lattice/walk_feeder.cuh"
#include "cuda/lattice/walk_writer.cuh"

namespace jax_rnnt::cuda {

// The chain of steps of 32 columns. present: a bit for each arc that the lattice has; looked at
// where terms are left.
template <class C>
__device__ __forceinline__ void WalkSteps(C* columns, int rows, bool has_left, unsigned present,
                                          int lane) {
  using Topo = typename C::Topo;
  using Real = typename C::Real;
  constexpr bool kTerms = C::kLeaves == Leaves::kTerms;
  constexpr int kArcs = Topo::kArcs;
  constexpr Real kRound = FloatBits<Real>::kRoundingConstant;
  constexpr Real kLog2E = kDeviceLog2E<Real>;
  constexpr uint32_t kRealBytes = sizeof(Real);
  constexpr int kOwn = Topo::MaxDt(0) > 1 ? Topo::MaxDt(0) : 1;
  constexpr int kFirstLeft = Topo::Skewed() ? 0 : 1;  // the value that comes by shuffle: row - this
  constexpr int kLeft = Topo::MaxDt(1) > kFirstLeft ? Topo::MaxDt(1) : kFirstLeft;
  constexpr Real kZero = Real(kFloor) - kRound;

  const ColumnsAt<C> own(KeptSharedAddress(columns), false);
  const uint32_t slots = own.Slots() + lane * kRealBytes;
  // Values by their distance in rows.
  Real own_m[kOwn + 1], own_e[kOwn + 1], left_m[kLeft + 1], left_e[kLeft + 1];
#pragma unroll
  for (int j = 0; j <= kOwn; ++j) own_m[j] = 0, own_e[j] = kZero;
#pragma unroll
  for (int j = 0; j <= kLeft; ++j) left_m[j] = 0, left_e[j] = kZero;
  Real shuffled_m = 0, shuffled_e = kZero;  // the left neighbour's newest value
  int step_slot = 0;
  const int chunks = CountChunks<Topo>(rows);

#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    own.Full(chunk).Wait(chunk / kStages);
    if (has_left && chunk * kChunk <= rows) {
      own.Entry().Arrived(chunk).Wait(chunk / kEntranceChunks);
    }
    const uint32_t entering = own.Entry().Values(chunk);
    const uint32_t shown = own.Shown(chunk);
    const uint32_t chunk_slots = slots + step_slot * (C::kWords * kWarpSize * kRealBytes);
    const auto slot = [&](int i, int k) {
      return chunk_slots + (i * C::kWords + k) * kWarpSize * kRealBytes;
    };
    const bool starts = !has_left && chunk == 0 && lane == 0;
    __syncwarp();  // the lanes go on together
    Real next_arc[kArcs];
    Scaled<Real> next_first = LoadPair<Real>(entering);
#pragma unroll
    for (int k = 0; k < kArcs; ++k) next_arc[k] = LoadShared<Real>(slot(0, k));
    if (lane == kWarpSize - 1) StoreSharedPair(shown, own_m[1], own_e[1]);

#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const Scaled<Real> first = next_first;
      if (lane == 0) shuffled_m = first.mantissa, shuffled_e = first.exponent;
#pragma unroll
      for (int j = kLeft; j > kFirstLeft; --j) {
        left_m[j] = left_m[j - 1];
        left_e[j] = left_e[j - 1];
      }
      left_m[kFirstLeft] = shuffled_m;
      left_e[kFirstLeft] = shuffled_e;

      Real arc[kArcs], whole[kArcs];
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        arc[k] = next_arc[k];
        whole[k] = RoundUpMultiplyAdd(arc[k], kLog2E, kRound);
      }
      // The next step's loads, ahead of this step's stores.
      if (i + 1 < kChunk) {
        next_first = LoadPair<Real>(entering + (i + 1) * 2 * kRealBytes);
#pragma unroll
        for (int k = 0; k < kArcs; ++k) next_arc[k] = LoadShared<Real>(slot(i + 1, k));
      }
      const auto tail_m = [&](int k) {
        return Topo::Du(k) ? left_m[Topo::Dt(k)] : own_m[Topo::Dt(k)];
      };
      const auto tail_e = [&](int k) {
        return Topo::Du(k) ? left_e[Topo::Dt(k)] : own_e[Topo::Dt(k)];
      };
      // Terms whose values are two steps old or more, ahead of the others: the chain of the newest
      // does not wait for them. Each term is taken relative to the largest one's exponent, in
      // (-1, 0] bits from it or below.
      constexpr bool kHasOld = Topo::Reach() > 1;
      static_assert(!kTerms || !kHasOld);
      Real terms[kArcs];  // mantissas, of exponent sum_e below
      Real old_e = kFloor, old_m = 0;
      if constexpr (kHasOld) {
#pragma unroll
        for (int k = 0; k < kArcs; ++k) {
          if (Topo::Distance(k) > 1) old_e = fmax(old_e, whole[k] + tail_e(k));
        }
        const Real base = old_e - kRound;
#pragma unroll
        for (int k = 0; k < kArcs; ++k) {
          if (Topo::Distance(k) < 2) continue;
          const Real power = Exp2(MultiplyAdd(arc[k], kLog2E, tail_e(k) - base));
          old_m = MultiplyAdd(tail_m(k), power, old_m);
        }
      }
      Real sum_e = old_e;
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        if (Topo::Distance(k) < 2) sum_e = fmax(sum_e, whole[k] + tail_e(k));
      }
      const Real base = sum_e - kRound;
      Real sum_m = kHasOld ? Product(old_m, Exp2(old_e - sum_e)) : Real(0);
#pragma unroll
      for (int k = 0; k < kArcs; ++k) {
        if (Topo::Distance(k) > 1) continue;
        const Real power = Exp2(MultiplyAdd(arc[k], kLog2E, tail_e(k) - base));
        sum_m = MultiplyAdd(tail_m(k), power, sum_m);
        if constexpr (kTerms) terms[k] = Product(tail_m(k), power);
      }
      Real value_m = sum_m, value_e = base;
      if (i == 0 && starts) value_m = 1, value_e = -kRound;
      // A path over arcs of several lengths may miss any one row, so every row is normalised then.
      if (Topo::Reach() > 1 || i == kChunk - 1) NormalizeNear(&value_m, &value_e);
#pragma unroll
      for (int j = kOwn; j > 1; --j) own_m[j] = own_m[j - 1], own_e[j] = own_e[j - 1];
      own_m[1] = value_m;
      own_e[1] = value_e;
      shuffled_e = __shfl_up_sync(kAllLanes, value_e, 1);
      shuffled_m = __shfl_up_sync(kAllLanes, value_m, 1);
      if (i + 1 < kChunk && lane == kWarpSize - 1) {
        StoreSharedPair(shown + (i + 1) * 2 * kRealBytes, value_m, value_e);
      }
      if constexpr (kTerms) {
        // Nothing is copied into the places of the other arcs, where -inf must stay.
#pragma unroll
        for (int k = 0; k < kArcs; ++k) {
          if (present & (1u << k)) StoreShared(slot(i, k), terms[k]);
        }
        StoreShared(slot(i, kArcs), base);
      } else {
        StoreShared(slot(i, 0), value_m);
        StoreShared(slot(i, 1), value_e);
      }
    }
    step_slot += kChunk;
    if (step_slot == C::kRing) step_slot = 0;
    own.Done(chunk).Arrive();
  }
}

// Walks one direction of a sequence with a whole cluster (before sm_90, a block), whose threads are
// kColumnsWarps warps for every 32 columns. Its block 0 returns what IsNear looks at, to every
// thread.
template <class C, template <class> class Sink, class Arguments>
__device__ __forceinline__ float WalkColumns(const Arguments& arguments,
                                             const LatticeSequence& sequence, int64_t n,
                                             bool is_beta, unsigned char* shared_memory) {
  using Place = WalkPlace<C, Arguments>;
  C* const all_columns = reinterpret_cast<C*>(shared_memory);
  const unsigned rank = ClusterRank(), blocks = ClusterSize();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int block_columns = blockDim.x / kWarpSize / kColumnsWarps;
  const int role = warp / block_columns;  // chain, feeder, writer
  const int index = rank * block_columns + warp % block_columns;
  const int panel_columns = blocks * block_columns * kWarpSize;
  C* const own_columns = all_columns + warp % block_columns;
  if (role == 1 && lane == 0) own_columns->status = 0;
  unsigned present = 0;
#pragma unroll
  for (int k = 0; k < C::Topo::kArcs; ++k) {
    present |= arguments.arrays.arcs[k] != nullptr ? 1u << k : 0u;
  }

  const Place place(arguments, sequence, is_beta, all_columns, index, block_columns, lane,
                    blocks > 1);
  Feeder<Place> feeder(place);
  Writer<Place, Sink<Place>> writer(place);
#pragma unroll 1
  for (int first_column = 0; first_column < sequence.columns; first_column += panel_columns) {
    if (role == 1) feeder.Begin(own_columns, first_column);
    // Gates and slots are as the panel needs them, and the panel before has been stored.
    ClusterSync();
    const int columns = min(sequence.columns - first_column, panel_columns);
    const int used = (columns + kWarpSize - 1) / kWarpSize;
    if (index < used) {
      if (role == 0) {
        WalkSteps(own_columns, sequence.frames, first_column > 0 || index > 0, present, lane);
      } else if (role == 1) {
        feeder.Run(first_column);
      } else {
        writer.Run(n, first_column, used);
      }
    }
    ClusterSync();  // no block goes on while another writes into it
  }
  return __uint_as_float(all_columns->status);
}

// One cluster (before sm_90: one block) for each sequence and direction.
template <class C>
__global__ void __launch_bounds__(kMaxBlockColumns<C> * kColumnsWarps * kWarpSize, 1)
    WalkKernel(const __grid_constant__ WalkArguments<typename C::Real> arguments) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const int64_t walk = blockIdx.x / ClusterSize();
  const int64_t n = walk / arguments.directions();
  const bool is_beta = walk % arguments.directions() == 1;
  const LatticeSequence sequence = arguments.layout.Sequence(n);
  if (!sequence.valid) return;  // the whole cluster
  const float status = WalkColumns<C, ValueSink>(arguments, sequence, n, is_beta, shared_memory);
  if (ClusterRank() == 0 && threadIdx.x == 0) {
    arguments.status[2 * n + is_beta] = static_cast<typename C::Real>(status);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_CUH_
