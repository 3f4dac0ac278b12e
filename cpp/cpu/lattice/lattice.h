// The lattice on CPU: costs from the arcs' log-probabilities, and back, the arcs' cotangents from
// the costs'. cpu/lattice/sequence.cc has the equations.
#ifndef JAX_RNNT_CPU_LATTICE_LATTICE_H_
#define JAX_RNNT_CPU_LATTICE_LATTICE_H_

#include <cstdint>

#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// costs (sequences), in nats, from arcs in nats that `layout` says where to find. Nothing beyond a
// sequence's lengths is read. Real is float or double.
template <typename Real>
void LatticeCost(const LatticeLayout& layout, const Real* blank_log_probs,
                 const Real* label_log_probs, Real* costs, const ParallelFor& parallel_for);

// The same costs, and what LatticeBackward needs: alphas (cells) and totals (sequences).
template <typename Real>
void LatticeForward(const LatticeLayout& layout, const Real* blank_log_probs,
                    const Real* label_log_probs, Real* costs, Scaled<Real>* alphas,
                    Scaled<Real>* totals, const ParallelFor& parallel_for);

// The cotangent of each arc's log-probability: minus the posterior probability that the alignment
// takes the arc, times the cotangent of its sequence's cost; exact zeros beyond the lengths.
// `cells` is the number of elements of each of the two results.
template <typename Real>
void LatticeBackward(const LatticeLayout& layout, int64_t cells, const Real* blank_log_probs,
                     const Real* label_log_probs, const Scaled<Real>* alphas,
                     const Scaled<Real>* totals, const Real* cotangents, Real* blank_cotangents,
                     Real* label_cotangents, const ParallelFor& parallel_for);

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_LATTICE_LATTICE_H_
