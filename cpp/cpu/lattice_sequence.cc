// Alpha and beta of one sequence of an RNN-T lattice, frame by frame, on one thread.
//
//   alpha(0, 0) = 1
//   alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1)
//   total       = alpha(T-1, U) blank(T-1, U)
//   beta(T, U)  = 1
//   beta(t, u)  = blank(t, u) beta(t+1, u) + label(t, u) beta(t, u+1)
//   posterior of an arc = alpha(its tail) arc beta(its head) / total
//   cotangent of an arc's log-probability = -posterior x the sequence's cotangent
//
// Every quantity is Scaled (core/scaled.h). A frame's arcs are split into mantissa and exponent by
// a loop without dependences, which the compiler vectorises; the recursion along u behind it is
// bound by its own latency. Posteriors come with beta, so that only alpha is stored.
//
// Compiled once for each instruction set (cpu/isa.h).
#include "cpu/isa.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

// The arcs of one frame, split: two arrays each, so that the splitting vectorises.
template <typename Real>
struct SplitArcs {
  Real* mantissas;
  Real* exponents;

  Scaled<Real> operator[](int32_t u) const { return {mantissas[u], exponents[u]}; }
};

template <typename Real>
void Read(const Real* log_probs, int32_t columns, SplitArcs<Real> arcs) {
  Real* __restrict mantissas = arcs.mantissas;
  Real* __restrict exponents = arcs.exponents;
  for (int32_t u = 0; u < columns; ++u) {
    const Scaled<Real> arc = Split(log_probs[u]);
    mantissas[u] = arc.mantissa;
    exponents[u] = arc.exponent;
  }
}

template <typename Real>
struct Workspace {
  Workspace(Real* memory, int32_t columns)
      : blank{memory, memory + columns},
        label{memory + 2 * columns, memory + 3 * columns},
        row(reinterpret_cast<Scaled<Real>*>(memory + 4 * columns)) {}

  SplitArcs<Real> blank;
  SplitArcs<Real> label;
  Scaled<Real>* row;  // what a frame hands to the next one, per column
};

// -posterior x cotangent; an infinite cotangent does not reach arcs that no alignment takes.
template <typename Real>
Real Weigh(Real posterior, Real cotangent) {
  return posterior != 0 && cotangent != 0 ? -posterior * cotangent : Real(0);
}

template <typename Real>
constexpr Scaled<Real> kZero = {Real(0), kZeroExponent<Real>};
template <typename Real>
constexpr Scaled<Real> kOne = {Real(1), Real(0)};

}  // namespace

template <typename Real>
Scaled<Real> SequenceForward(const LatticeSequence& sequence, const Real* blank_log_probs,
                             const Real* label_log_probs, Scaled<Real>* alphas, Real* memory) {
  const int32_t columns = sequence.columns;
  Workspace<Real> work(memory, columns);
  Scaled<Real>* from_above = work.row;  // alpha(t-1, u) blank(t-1, u)
  for (int32_t u = 0; u < columns; ++u) from_above[u] = u == 0 ? kOne<Real> : kZero<Real>;
  for (int32_t t = 0; t < sequence.frames; ++t) {
    const int64_t row = sequence.first + t * sequence.stride;
    Read(blank_log_probs + row, columns, work.blank);
    Read(label_log_probs + row, columns, work.label);
    Scaled<Real> from_left = kZero<Real>;
    for (int32_t u = 0; u < columns; ++u) {
      const Scaled<Real> alpha = Normalize(Add(from_above[u], from_left));
      if (alphas != nullptr) alphas[row + u] = alpha;
      from_above[u] = Multiply(alpha, work.blank[u]);
      from_left = Multiply(alpha, work.label[u]);
    }
  }
  return from_above[columns - 1];
}

template <typename Real>
void SequenceBackward(const LatticeSequence& sequence, Scaled<Real> total, Real cotangent,
                      const Real* blank_log_probs, const Real* label_log_probs,
                      const Scaled<Real>* alphas, Real* blank_cotangents, Real* label_cotangents,
                      Real* memory) {
  const int32_t columns = sequence.columns;
  Workspace<Real> work(memory, columns);
  Scaled<Real>* below = work.row;  // beta(t+1, u)
  for (int32_t u = 0; u < columns; ++u) below[u] = u == columns - 1 ? kOne<Real> : kZero<Real>;
  for (int32_t t = sequence.frames - 1; t >= 0; --t) {
    const int64_t row = sequence.first + t * sequence.stride;
    Read(blank_log_probs + row, columns, work.blank);
    Read(label_log_probs + row, columns, work.label);
    Scaled<Real> right = kZero<Real>;  // beta(t, u+1)
    for (int32_t u = columns - 1; u >= 0; --u) {
      // Blank arcs of the last frame but the last, and label arcs of the last column, lead out of
      // the lattice and may hold anything.
      const bool last_column = u == columns - 1;
      const Scaled<Real> leave = t == sequence.frames - 1 && !last_column
                                     ? kZero<Real>
                                     : Multiply(work.blank[u], below[u]);
      const Scaled<Real> emit = last_column ? kZero<Real> : Multiply(work.label[u], right);
      const Scaled<Real> alpha = alphas[row + u];
      blank_cotangents[row + u] = Weigh(Share(Multiply(alpha, leave), total), cotangent);
      label_cotangents[row + u] = Weigh(Share(Multiply(alpha, emit), total), cotangent);
      right = below[u] = Normalize(Add(leave, emit));
    }
  }
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
