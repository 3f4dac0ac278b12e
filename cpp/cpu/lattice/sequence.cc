// Alpha and beta of one sequence of an RNN-T lattice, on one thread.
//
//   alpha(0, 0) = 1
//   alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1)
//   total       = alpha(T-1, U) blank(T-1, U)
//   beta(T, U)  = 1
//   beta(t, u)  = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1)
//   posterior of an arc = alpha(its tail) arc beta(its head) / total
//   cotangent of an arc's log-probability = -posterior x the sequence's cotangent
//
// Every quantity is Scaled (core/scaled.h). Cotangents come with beta, so that only alpha is
// stored. Blank arcs of the last frame but the last, and label arcs of the last column, lead out of
// the lattice and may hold anything.
//
// In float the lanes of a vector are frames (cpu/lattice/sequence_float.h); in double one cell
// comes after the other (cpu/lattice/sequence_double.h).
//
// Compiled once for each instruction set (cpu/isa.h).
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/isa.h"
#include "cpu/lattice/sequence_double.h"
#include "cpu/lattice/sequence_float.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {

template <typename Real>
Scaled<Real> SequenceForward(const LatticeSequence& sequence, const Real* blank_log_probs,
                             const Real* label_log_probs, Scaled<Real>* alphas, Real* workspace) {
  return Forward(sequence, blank_log_probs, label_log_probs, alphas, workspace);
}

template <typename Real>
void SequenceBackward(const LatticeSequence& sequence, Scaled<Real> total, Real cotangent,
                      const Real* blank_log_probs, const Real* label_log_probs,
                      const Scaled<Real>* alphas, Real* blank_cotangents, Real* label_cotangents,
                      Real* workspace) {
  Backward(sequence, total, cotangent, blank_log_probs, label_log_probs, alphas, blank_cotangents,
           label_cotangents, workspace);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                        \
  template Scaled<Real> SequenceForward(const LatticeSequence&, const Real*, const Real*, \
                                        Scaled<Real>*, Real*);                            \
  template void SequenceBackward(const LatticeSequence&, Scaled<Real>, Real, const Real*, \
                                 const Real*, const Scaled<Real>*, Real*, Real*, Real*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE
