// Lattices whose arcs are any set of steps (dt, du): dt frames consumed, du labels written. Shared
// by host and device.
//
//   alpha(t, u) = [u = 0] exp initial(t) + sum_k alpha(t - dt, u - du) exp arc_k(t - dt, u - du)
//   beta(t, u)  = [u = U_n] exp final(t) + sum_k exp arc_k(t, u) beta(t + dt, u + du)
//   total       = sum_t alpha(t, U_n) exp final(t) = sum_t exp initial(t) beta(t, 0)
//
// Nodes (t, u) have 0 <= t <= T_n and 0 <= u <= U_n. Arcs leave those with t < T_n, and illegal
// ones have weight zero. In row T_n, which is stored nowhere, beta is [u = U_n] exp final(T_n), and
// alpha is needed at column U_n alone.
#ifndef JAX_RNNT_CORE_ARCS_H_
#define JAX_RNNT_CORE_ARCS_H_

#include <cstdint>

#include "core/host_device.h"

namespace jax_rnnt {

// Kernels take arcs of at most so many frames and one label: (1, 0), ..., (8, 0), (0, 1), ...,
// (8, 1).
inline constexpr int kMaxArcFrames = 8;
inline constexpr int kMaxArcs = 2 * kMaxArcFrames + 1;

// A set of arcs, in ascending order of (du, dt).
struct ArcTopology {
  int32_t count;
  int8_t dt[kMaxArcs];
  int8_t du[kMaxArcs];
  bool may_be_last[kMaxArcs];  // whether the arc may lead to row T_n

  // In frames below this number, which may be negative, arc k leads to a row that it may lead to.
  JAX_RNNT_HOST_DEVICE int32_t LegalFrames(int k, int32_t frames) const {
    return dt[k] == 0 ? frames : frames - dt[k] + (may_be_last[k] ? 1 : 0);
  }

  // Whether arc k may be taken from node (t, u), 0 <= t < frames, 0 <= u < columns, of a sequence
  // of columns - 1 labels. Of row T_n only (T_n, U_n) is led to: from the others nothing leads on.
  // What the arrays hold for an illegal arc has no effect.
  JAX_RNNT_HOST_DEVICE bool Legal(int k, int32_t t, int32_t u, int32_t frames,
                                  int32_t columns) const {
    return t < LegalFrames(k, frames) && u + du[k] < columns &&
           (t < frames - dt[k] || u + du[k] == columns - 1);
  }
};

// The log-weights of a topology's arcs, in nats.
template <typename Real>
struct ArcArrays {
  const Real* arcs[kMaxArcs];  // one a cell, laid out as a LatticeLayout says
  // (sequences, T + 1), of which a sequence has T_n + 1; null: 0 at t = 0, elsewhere -inf.
  const Real* initial;
  // (sequences, T + 1) likewise; null: 0 at t = T_n, elsewhere -inf.
  const Real* final_weights;
};

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_ARCS_H_
