// The lattice on CPU: costs and arc posteriors from the arcs' log-probabilities.
#ifndef JAX_RNNT_CPU_LATTICE_H_
#define JAX_RNNT_CPU_LATTICE_H_

#include <cstdint>

#include "core/lattice_layout.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// costs (sequences) from arcs laid out as `layout` says, in nats. Nothing beyond a sequence's
// lengths is read. Real is float or double.
template <typename Real>
void LatticeCost(const LatticeLayout& layout, const Real* blank_log_probs,
                 const Real* label_log_probs, Real* costs, const ParallelFor& parallel_for);

// The same costs, and for each arc the posterior probability that the alignment takes it, exact
// zeros beyond the lengths; cells: of each of the two posterior arrays; alphas: scratch of `cells`
// pairs.
template <typename Real>
void LatticePosteriors(const LatticeLayout& layout, int64_t cells, const Real* blank_log_probs,
                       const Real* label_log_probs, Real* costs, Real* blank_posteriors,
                       Real* label_posteriors, Scaled<Real>* alphas,
                       const ParallelFor& parallel_for);

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_LATTICE_H_
