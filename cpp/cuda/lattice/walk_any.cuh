// Alpha and beta of a lattice over any arcs (dt, du), du <= 1, with numbers of any size, and with
// initial and final weights: what walk.cuh is not compiled for, and the sequences that it gave up.
//
//   value(r, c) = start(r, c) + sum_k arc_k(into (r, c)) value(r - dt_k, c - du_k)
//
// with rows and columns as in walk.cuh. Every quantity is Scaled (core/scaled.h) at every step.
//
// Split: one block for each sequence and direction, a thread for every blockDim.x-th column, one
// barrier a step. In step s a column c is at row s - c where an arc (0, 1) exists, else at row s.
// Values go through memory alone, so that any dt costs the same, and every step a trip to the cache
// and back: it is the walk that can do everything, not the fast one.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_ANY_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_ANY_CUH_

#include "cuda/lattice/walk_arguments.cuh"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {

constexpr int kAnyThreads = 256;

// initial(t) or final(t) of sequence n.
template <typename Real>
__device__ Scaled<Real> StartWeight(const Real* weights, const LatticeLayout& layout, int64_t n,
                                    int t, int default_frame) {
  if (weights == nullptr) {
    return t == default_frame ? Scaled<Real>{1, 0} : Scaled<Real>{0, kZeroExponent<Real>};
  }
  return Split(weights[n * (layout.max_frames + 1) + t]);
}

// Walks one direction of sequence n with a whole block. Returns alpha(T_n, U_n) or beta(0, 0) to
// every thread, mantissa NaN if a legal arc is NaN or +inf.
template <typename Real>
__device__ Scaled<Real> WalkAny(const WalkArguments<Real>& arguments,
                                const LatticeSequence& sequence, int64_t n, bool is_beta) {
  __shared__ Scaled<Real> last_value;
  __shared__ int senseless;
  const ArcTopology& topology = arguments.topology;
  Scaled<Real>* const values = (is_beta ? arguments.betas : arguments.alphas) + sequence.to_kept;
  const int frames = sequence.frames, columns = sequence.columns;
  bool is_skewed = false;
  for (int k = 0; k < topology.count; ++k) is_skewed |= topology.dt[k] == 0;
  if (threadIdx.x == 0) senseless = 0;
  __syncthreads();  // the flag is down before anybody raises it
  const Real* const initial = arguments.arrays.initial;
  if (!is_beta && initial != nullptr && threadIdx.x == 0) {
    // Nothing else looks at initial(T_n) where there are labels.
    const Real weight = initial[n * (arguments.layout.max_frames + 1) + frames];
    if (!(weight < Real(HUGE_VAL))) senseless = 1;
  }
  const int steps = frames + 1 + (is_skewed ? columns - 1 : 0);
  for (int step = 0; step < steps; ++step) {
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
      const int r = is_skewed ? step - c : step;
      if (r < 0 || r > frames) continue;
      const int t = is_beta ? frames - r : r, u = is_beta ? columns - 1 - c : c;
      // Row T_n: alpha's is needed at its last column, beta's is final(T_n).
      if (t == frames && u < columns - 1) continue;
      Scaled<Real> sum = {0, kZeroExponent<Real>};
      if (c == 0) {
        sum = StartWeight(is_beta ? arguments.arrays.final_weights : arguments.arrays.initial,
                          arguments.layout, n, t, is_beta ? frames : 0);
      }
      for (int k = 0; k < topology.count; ++k) {
        const int dt = topology.dt[k], du = topology.du[k];
        const int tail_t = is_beta ? t : t - dt, tail_u = is_beta ? u : u - du;
        if (tail_t < 0 || tail_u < 0 || !topology.Legal(k, tail_t, tail_u, frames, columns)) {
          continue;
        }
        const Real arc =
            arguments.arrays.arcs[k][sequence.first + tail_t * sequence.stride + tail_u];
        const int from_t = is_beta ? t + dt : tail_t, from_u = is_beta ? u + du : tail_u;
        Scaled<Real> from;
        if (from_t == frames) {
          from = StartWeight(arguments.arrays.final_weights, arguments.layout, n, frames, frames);
        } else {
          from = values[sequence.first + from_t * sequence.stride + from_u];
        }
        sum = Add(sum, Multiply(Split(arc), from));
      }
      sum = Normalize(sum);
      if (!(sum.mantissa >= 0)) senseless = 1;
      if (t < frames) values[sequence.first + t * sequence.stride + u] = sum;
      if (r == frames && c == columns - 1) last_value = sum;
    }
    __syncthreads();  // this step's values are visible to the next
  }
  const Scaled<Real> result = last_value;
  const bool is_senseless = senseless != 0;
  __syncthreads();  // both have been read before another walk writes them
  return {is_senseless ? Real(NAN) : result.mantissa, result.exponent};
}

// The sum over t of alpha(t, U_n) final(t), from stored alphas and alpha(T_n, U_n); of a whole
// warp.
template <typename Real>
__device__ Scaled<Real> SumOverEnds(const WalkArguments<Real>& arguments,
                                    const LatticeSequence& sequence, int64_t n,
                                    Scaled<Real> last_alpha) {
  const int lane = threadIdx.x % kWarpSize;
  const Scaled<Real>* const alphas = arguments.alphas + sequence.to_kept;
  Scaled<Real> sum = {0, kZeroExponent<Real>};
  for (int t = lane; t <= sequence.frames; t += kWarpSize) {
    const Scaled<Real> alpha =
        t == sequence.frames ? last_alpha
                             : alphas[sequence.first + t * sequence.stride + sequence.columns - 1];
    const Scaled<Real> weight =
        StartWeight(arguments.arrays.final_weights, arguments.layout, n, t, sequence.frames);
    sum = Normalize(Add(sum, Multiply(alpha, weight)));
  }
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Scaled<Real> other = {__shfl_xor_sync(kAllLanes, sum.mantissa, distance),
                                __shfl_xor_sync(kAllLanes, sum.exponent, distance)};
    sum = Normalize(Add(sum, other));
  }
  return sum;
}

// One block for each sequence and direction; alpha's leaves the total.
template <typename Real>
__global__ void __launch_bounds__(kAnyThreads)
    WalkAnyKernel(const __grid_constant__ WalkArguments<Real> arguments) {
  const int64_t n = blockIdx.x / arguments.directions();
  const bool is_beta = blockIdx.x % arguments.directions() == 1;
  const LatticeSequence sequence = arguments.layout.Sequence(n);
  if (!sequence.valid) return;
  const Scaled<Real> last = WalkAny(arguments, sequence, n, is_beta);
  if (threadIdx.x >= kWarpSize || is_beta) return;
  const Scaled<Real> total = SumOverEnds(arguments, sequence, n, last);
  if (threadIdx.x == 0) arguments.totals[n] = total;
}

// Costs of all sequences, totals and marks: one block for each. is_checked: walks again those for
// which walk.cuh was not right.
template <typename Real>
__global__ void __launch_bounds__(kAnyThreads)
    FinishKernel(const __grid_constant__ WalkArguments<Real> arguments, bool is_checked,
                 Real* costs) {
  const int64_t n = blockIdx.x;
  const LatticeSequence sequence = arguments.layout.Sequence(n);
  Scaled<Real> total = {Real(NAN), 0};
  bool is_near = true;
  if (sequence.valid) {
    total = arguments.totals[n];
    is_near = !is_checked || IsNear(total, arguments.status + 2 * n, arguments.directions());
    if (!is_near) {
      const Scaled<Real> last = WalkAny(arguments, sequence, n, /*is_beta=*/false);
      total = SumOverEnds(arguments, sequence, n, last);
      if (arguments.directions() == 2) WalkAny(arguments, sequence, n, /*is_beta=*/true);
    }
  }
  if (threadIdx.x == 0) {
    arguments.totals[n] = total;
    costs[n] = static_cast<Real>(NegativeLog(total));
    if (arguments.marks != nullptr && sequence.valid) {
      arguments.marks[sequence.first + sequence.to_kept] = {is_near ? Real(0) : Real(1), 0};
    }
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_ANY_CUH_
