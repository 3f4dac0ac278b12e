// Alpha, beta and posteriors of one sequence of a lattice of any topology, on one thread
// (core/arcs.h has the equations). Every quantity is Scaled (core/scaled.h).
//
//   arcs_terms.h        rows of nodes, and what each is the sum of
//   arcs_walk.h         alpha and beta, a row after another
//   arcs_posteriors.h   the cotangents of log-weights
//   arcs_float.h        rows in float, where the lanes of a vector are columns
//   arcs_double.h       rows in double, one column after the other
//
// Compiled once for each instruction set (cpu/isa.h).
#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/isa.h"
#include "cpu/lattice/arcs_posteriors.h"
#include "cpu/lattice/arcs_walk.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {

template <typename Real>
Scaled<Real> ArcsAlpha(const LatticeSequence& sequence, const ArcTopology& topology,
                       const ArcArrays<Real>& arrays, Scaled<Real>* alphas, Real* workspace) {
  return Alpha(sequence, topology, arrays, alphas, workspace);
}

template <typename Real>
void ArcsBeta(const LatticeSequence& sequence, const ArcTopology& topology,
              const ArcArrays<Real>& arrays, Scaled<Real>* betas, Real* workspace) {
  Beta(sequence, topology, arrays, betas, workspace);
}

template <typename Real>
void ArcsPosteriors(const LatticeSequence& sequence, const ArcTopology& topology,
                    const ArcArrays<Real>& arrays, const ArcsCotangents<Real>& cotangents,
                    int64_t begin, int64_t end, Real* workspace) {
  Posteriors(sequence, topology, arrays, cotangents, begin, end, workspace);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                                 \
  template Scaled<Real> ArcsAlpha(const LatticeSequence&, const ArcTopology&,                      \
                                  const ArcArrays<Real>&, Scaled<Real>*, Real*);                   \
  template void ArcsBeta(const LatticeSequence&, const ArcTopology&, const ArcArrays<Real>&,       \
                         Scaled<Real>*, Real*);                                                    \
  template void ArcsPosteriors(const LatticeSequence&, const ArcTopology&, const ArcArrays<Real>&, \
                               const ArcsCotangents<Real>&, int64_t, int64_t, Real*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE
