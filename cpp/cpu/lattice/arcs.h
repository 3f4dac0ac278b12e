// Lattices of any topology on CPU: costs from the arcs' log-weights, and back, all cotangents from
// the costs'. core/arcs.h has the equations.
#ifndef JAX_RNNT_CPU_LATTICE_ARCS_H_
#define JAX_RNNT_CPU_LATTICE_ARCS_H_

#include <cstdint>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// costs (sequences), in nats, from the weights of arcs in nats that `layout` says where to find.
// Nothing beyond a sequence's lengths is read. Real is float or double.
template <typename Real>
void ArcsCost(const LatticeLayout& layout, const ArcTopology& topology,
              const ArcArrays<Real>& arrays, Real* costs, const ParallelFor& parallel_for);

// The same costs, and what ArcsBackward needs: alphas and betas (cells) and totals (sequences).
template <typename Real>
void ArcsForward(const LatticeLayout& layout, const ArcTopology& topology,
                 const ArcArrays<Real>& arrays, Real* costs, Scaled<Real>* alphas,
                 Scaled<Real>* betas, Scaled<Real>* totals, const ParallelFor& parallel_for);

// The cotangent of each log-weight: minus the posterior probability that the alignment takes the
// arc (starts, ends there), times the cotangent of its sequence's cost; exact zeros for illegal
// arcs and beyond the lengths.
//   arc_cotangents                          an array of `cells` elements for each arc
//   initial_cotangents, final_cotangents    (sequences, T + 1) where `arrays` has them, else not
//                                           looked at
template <typename Real>
void ArcsBackward(const LatticeLayout& layout, int64_t cells, const ArcTopology& topology,
                  const ArcArrays<Real>& arrays, const Scaled<Real>* alphas,
                  const Scaled<Real>* betas, const Scaled<Real>* totals, const Real* cotangents,
                  Real* const* arc_cotangents, Real* initial_cotangents, Real* final_cotangents,
                  const ParallelFor& parallel_for);

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_LATTICE_ARCS_H_
