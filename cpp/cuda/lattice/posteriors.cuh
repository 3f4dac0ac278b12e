// The arcs' cotangents from alpha and beta of all nodes.
//
//   posterior_k(t, u) = alpha(t, u) exp arc_k(t, u) beta(t + dt_k, u + du_k) / total
//   cotangent of the arc = -posterior x the cost's cotangent
//   cotangent of initial(t) = -exp initial(t) beta(t, 0) / total x the cost's cotangent
//   cotangent of final(t) = -alpha(t, U_n) exp final(t) / total x the cost's cotangent
//
// Arrays as walk.cuh has them. Nothing depends on anything but alpha, beta and the arcs: a thread
// has a cell, a block a run of a sequence's cells whatever their rows, so that arcs and cotangents
// move in whole lines. Beta of K heads comes from the first-level cache but for one.
#ifndef JAX_RNNT_CUDA_LATTICE_POSTERIORS_CUH_
#define JAX_RNNT_CUDA_LATTICE_POSTERIORS_CUH_

#include "cuda/lattice/power.cuh"
#include "cuda/lattice/topology.cuh"
#include "cuda/lattice/walk_any.cuh"

namespace jax_rnnt::cuda {

template <typename Real>
struct PosteriorArguments {
  LatticeLayout layout;
  ArcTopology topology;
  ArcArrays<Real> arrays;
  const Scaled<Real>* alphas;
  const Scaled<Real>* betas;
  const Scaled<Real>* totals;
  const Real* cotangents;          // (sequences)
  Real* arc_cotangents[kMaxArcs];  // (cells) each
  Real* initial_cotangents;        // (sequences, T + 1), or null
  Real* final_cotangents;          // (sequences, T + 1), or null
  bool is_walked;                  // walk_cotangents.cuh has been there
  int blocks;                      // of a sequence
  int block_cells;                 // a multiple of kWarpSize
};

constexpr int kPosteriorThreads = 256;

// Whether a sequence has cotangents other than zero.
template <typename Real>
__device__ __forceinline__ bool IsAlive(Scaled<Real> total, Real cotangent) {
  return total.mantissa > 0 && cotangent != 0;
}

__device__ __forceinline__ float Saturate(float x) { return __saturatef(x); }  // NaN becomes 0
__device__ __forceinline__ double Saturate(double x) { return x > 0 ? fmin(x, 1.0) : 0.0; }

// -posterior x cotangent; an infinite cotangent does not reach arcs that no alignment takes.
template <typename Real>
__device__ __forceinline__ Real Weigh(Real posterior, Real cotangent) {
  return posterior != 0 && cotangent != 0 ? -posterior * cotangent : Real(0);
}

// Node (t, u) and its cell, among the cells of a sequence.
struct Node {
  int t;
  int u;
  int64_t cell;
};

// What of a sequence its posteriors need.
template <typename Real>
struct Outcome {
  Scaled<Real> total;
  Real cotangent;
  Real inverse;  // of the total's mantissa
  bool is_near;  // see walk.cuh
};

// The cotangents of one arc of a node. Of a sequence whose numbers are out of walk.cuh's bounds
// mantissas and exponents are multiplied as anywhere else.
template <typename Real>
__device__ __forceinline__ Real ArcCotangent(Scaled<Real> alpha, Real arc, Scaled<Real> head,
                                             const Outcome<Real>& outcome) {
  Real posterior;
  if (outcome.is_near) {
    const Real exponent = alpha.exponent - outcome.total.exponent + head.exponent;
    const Real log2_power = MultiplyAdd(arc, kDeviceLog2E<Real>, exponent);
    const Real power = log2_power < Real(-kNegligibleBits) ? Real(0) : Exp2(log2_power);
    posterior = Saturate(alpha.mantissa * outcome.inverse * head.mantissa * power);
  } else {
    posterior = Share(Multiply(Multiply(alpha, Split(arc)), head), outcome.total);
  }
  return Weigh(posterior, outcome.cotangent);
}

// Topo: the arcs of `arguments` are arranged as it has them, or AnyTopology.
template <class Topo, typename Real>
__device__ __forceinline__ void NodeCotangents(const PosteriorArguments<Real>& arguments,
                                               const LatticeSequence& sequence, int64_t n,
                                               const Node& node, bool is_inside,
                                               const Outcome<Real>& outcome) {
  const ArcTopology& topology = arguments.topology;
  const int frames = sequence.frames, columns = sequence.columns;
  constexpr Scaled<Real> kNone = {0, kZeroExponent<Real>};
  const int64_t kept = node.cell + sequence.to_kept;
  const Scaled<Real> alpha = is_inside ? arguments.alphas[kept] : kNone;
  // beta(T_n, U_n).
  const auto end = [&] {
    return StartWeight(arguments.arrays.final_weights, arguments.layout, n, frames, frames);
  };
  if constexpr (Topo::kArcs == kMaxArcs) {
    for (int k = 0; k < topology.count; ++k) {
      Real arc = -HUGE_VAL;
      Scaled<Real> head = kNone;
      if (is_inside && topology.Legal(k, node.t, node.u, frames, columns)) {
        arc = __ldcs(arguments.arrays.arcs[k] + node.cell);
        head = node.t < frames - topology.dt[k]
                   ? arguments.betas[kept + topology.dt[k] * sequence.stride + topology.du[k]]
                   : end();
      }
      __stcs(arguments.arc_cotangents[k] + node.cell, ArcCotangent(alpha, arc, head, outcome));
    }
  } else {
    // All loads are under way before the first is used.
    Real arcs[Topo::kArcs];
    Scaled<Real> heads[Topo::kArcs];
#pragma unroll
    for (int k = 0; k < Topo::kArcs; ++k) {
      arcs[k] = -HUGE_VAL;
      heads[k] = kNone;
      if (!is_inside || arguments.arrays.arcs[k] == nullptr ||
          !Topo::Legal(topology, k, node.t, node.u, frames, columns)) {
        continue;
      }
      arcs[k] = __ldcs(arguments.arrays.arcs[k] + node.cell);
      heads[k] = Topo::Dt(k) > 0 && node.t == frames - Topo::Dt(k)
                     ? end()
                     : arguments.betas[kept + Topo::Dt(k) * sequence.stride + Topo::Du(k)];
    }
#pragma unroll
    for (int k = 0; k < Topo::kArcs; ++k) {
      if (arguments.arc_cotangents[k] == nullptr) continue;
      __stcs(arguments.arc_cotangents[k] + node.cell,
             ArcCotangent(alpha, arcs[k], heads[k], outcome));
    }
  }
}

template <class Topo, typename Real>
__global__ void __launch_bounds__(kPosteriorThreads)
    PosteriorKernel(const __grid_constant__ PosteriorArguments<Real> arguments) {
  const LatticeLayout& layout = arguments.layout;
  const int64_t n = blockIdx.x / arguments.blocks;
  const LatticeSequence sequence = layout.Sequence(n);
  // Padded sequences have zeros in the cells beyond their lengths; compact ones have no such cells.
  const int64_t own = layout.compact() ? sequence.columns : layout.max_columns;
  const int64_t cells = !layout.compact() ? layout.max_frames * own
                        : sequence.valid  ? sequence.frames * own
                                          : 0;
  if (cells == 0) return;  // a compact sequence that is not valid may have no columns either
  Outcome<Real> outcome = {};
  if (sequence.valid) outcome.total = arguments.totals[n];
  outcome.cotangent = arguments.cotangents[n];
  outcome.inverse = 1 / outcome.total.mantissa;
  outcome.is_near = fabs(outcome.total.exponent) <= Real(-kFloor);
  const bool is_alive = IsAlive(outcome.total, outcome.cotangent);
  const bool is_walked = arguments.is_walked && is_alive;
  if (is_walked && cells == static_cast<int64_t>(sequence.frames) * sequence.columns) return;
  const int stride = static_cast<int>(own);
  // A thread's next node is so many rows and columns on.
  const int rows_on = kPosteriorThreads / stride, columns_on = kPosteriorThreads % stride;

  for (int64_t run = blockIdx.x % arguments.blocks; run * arguments.block_cells < cells;
       run += arguments.blocks) {
    const int64_t begin = run * arguments.block_cells;
    const int64_t end = min(cells, begin + arguments.block_cells);
    // Whole lines: from the line on in which the run begins.
    int64_t i = begin - (sequence.first + begin) % kWarpSize + threadIdx.x;
    if (i < begin) i += kPosteriorThreads;
    Node node = {static_cast<int>(i / own), static_cast<int>(i % own), sequence.first + i};
    for (; i < end; i += kPosteriorThreads) {
      const bool is_inside = is_alive && node.t < sequence.frames && node.u < sequence.columns;
      if (!(is_walked && is_inside)) {
        NodeCotangents<Topo>(arguments, sequence, n, node, is_inside, outcome);
      }
      node.t += rows_on;
      node.u += columns_on;
      node.cell += kPosteriorThreads;
      if (node.u >= stride) {
        node.u -= stride;
        ++node.t;
      }
    }
  }
}

// The cotangents of initial and final weights: one block for each sequence.
template <typename Real>
__global__ void __launch_bounds__(kAnyThreads)
    EndsKernel(const __grid_constant__ PosteriorArguments<Real> arguments) {
  const LatticeLayout& layout = arguments.layout;
  const ArcTopology& topology = arguments.topology;
  const int64_t n = blockIdx.x;
  const LatticeSequence sequence = layout.Sequence(n);
  const int frames = sequence.frames, last = sequence.columns - 1;
  const Scaled<Real> total = sequence.valid ? arguments.totals[n] : Scaled<Real>{0, 0};
  const Real cotangent = arguments.cotangents[n];
  const bool is_alive = IsAlive(total, cotangent);
  const Scaled<Real>* const alphas = arguments.alphas + sequence.to_kept;
  const Scaled<Real>* const betas = arguments.betas + sequence.to_kept;
  const auto cell = [&](int t, int u) { return sequence.first + t * sequence.stride + u; };
  for (int64_t t = threadIdx.x; t <= layout.max_frames; t += blockDim.x) {
    const int64_t at = n * (layout.max_frames + 1) + t;
    const bool is_inside = is_alive && t <= frames;
    if (arguments.initial_cotangents != nullptr) {
      Real posterior = 0;
      if (is_inside) {
        Scaled<Real> beta = {0, kZeroExponent<Real>};
        if (t < frames) {
          beta = betas[cell(t, 0)];
        } else if (last == 0) {
          beta = StartWeight(arguments.arrays.final_weights, layout, n, frames, frames);
        }
        posterior = Share(Multiply(Split(arguments.arrays.initial[at]), beta), total);
      }
      arguments.initial_cotangents[at] = Weigh(posterior, cotangent);
    }
    if (arguments.final_cotangents != nullptr) {
      Real posterior = 0;
      if (is_inside) {
        Scaled<Real> alpha = {0, kZeroExponent<Real>};
        if (t < frames) {
          alpha = alphas[cell(t, last)];
        } else {
          // alpha(T_n, U_n) is stored nowhere.
          if (last == 0) alpha = StartWeight(arguments.arrays.initial, layout, n, frames, 0);
          for (int k = 0; k < topology.count; ++k) {
            const int tail_t = frames - topology.dt[k], tail_u = last - topology.du[k];
            if (tail_t < 0 || tail_u < 0 ||
                !topology.Legal(k, tail_t, tail_u, frames, sequence.columns)) {
              continue;
            }
            const int64_t tail = cell(tail_t, tail_u);
            alpha = Normalize(
                Add(alpha, Multiply(Split(arguments.arrays.arcs[k][tail]), alphas[tail])));
          }
        }
        posterior = Share(Multiply(Split(arguments.arrays.final_weights[at]), alpha), total);
      }
      arguments.final_cotangents[at] = Weigh(posterior, cotangent);
    }
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_POSTERIORS_CUH_
