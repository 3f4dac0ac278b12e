// Alpha and beta of one sequence in double, one cell after the other (the equations are in
// cpu/lattice/sequence.cc).
//
// Included by cpu/lattice/sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_SEQUENCE_DOUBLE_H_
#define JAX_RNNT_CPU_LATTICE_SEQUENCE_DOUBLE_H_

#include <stdint.h>

#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

// The arcs of one frame, split into an array of mantissas and one of exponents, so that the
// splitting vectorises.
struct SplitArcs {
  double* mantissas;
  double* exponents;

  Scaled<double> operator[](int32_t u) const { return {mantissas[u], exponents[u]}; }
};

void Read(const double* log_probs, int32_t columns, SplitArcs arcs) {
  double* __restrict mantissas = arcs.mantissas;
  double* __restrict exponents = arcs.exponents;
  for (int32_t u = 0; u < columns; ++u) {
    const Scaled<double> arc = Split(log_probs[u]);
    mantissas[u] = arc.mantissa;
    exponents[u] = arc.exponent;
  }
}

struct Workspace {
  Workspace(double* memory, int32_t columns)
      : blank{memory, memory + columns},
        label{memory + 2 * columns, memory + 3 * columns},
        row(reinterpret_cast<Scaled<double>*>(memory + 4 * columns)) {}

  SplitArcs blank;
  SplitArcs label;
  Scaled<double>* row;  // what a frame passes to the next one, for each column
};

constexpr Scaled<double> kZero = {0, kZeroExponent<double>};
constexpr Scaled<double> kOne = {1, 0};

Scaled<double> Forward(const LatticeSequence& sequence, const double* blank_log_probs,
                       const double* label_log_probs, Scaled<double>* alphas, double* memory) {
  const int32_t columns = sequence.columns;
  Workspace work(memory, columns);
  Scaled<double>* from_above = work.row;  // alpha(t-1, u) blank(t-1, u)
  for (int32_t u = 0; u < columns; ++u) from_above[u] = u == 0 ? kOne : kZero;
  for (int32_t t = 0; t < sequence.frames; ++t) {
    const int64_t row = sequence.first + t * sequence.stride;
    Read(blank_log_probs + row, columns, work.blank);
    Read(label_log_probs + row, columns, work.label);
    Scaled<double> from_left = kZero;
    for (int32_t u = 0; u < columns; ++u) {
      const Scaled<double> alpha = Normalize(Add(from_above[u], from_left));
      if (alphas != nullptr) alphas[row + sequence.to_kept + u] = alpha;
      from_above[u] = Multiply(alpha, work.blank[u]);
      from_left = Multiply(alpha, work.label[u]);
    }
  }
  return from_above[columns - 1];
}

// -cotangent * part / total.
JAX_RNNT_INLINE double ArcCotangent(Scaled<double> part, Scaled<double> total, double cotangent) {
  const double share = Share(part, total);
  return share == 0 || cotangent == 0 ? 0 : -share * cotangent;
}

void Backward(const LatticeSequence& sequence, Scaled<double> total, double cotangent,
              const double* blank_log_probs, const double* label_log_probs,
              const Scaled<double>* alphas, double* blank_cotangents, double* label_cotangents,
              double* memory) {
  const int32_t columns = sequence.columns;
  Workspace work(memory, columns);
  Scaled<double>* below = work.row;  // beta(t+1, u)
  for (int32_t u = 0; u < columns; ++u) below[u] = u == columns - 1 ? kOne : kZero;
  for (int32_t t = sequence.frames - 1; t >= 0; --t) {
    const int64_t row = sequence.first + t * sequence.stride;
    Read(blank_log_probs + row, columns, work.blank);
    Read(label_log_probs + row, columns, work.label);
    Scaled<double> right = kZero;  // beta(t, u+1)
    for (int32_t u = columns - 1; u >= 0; --u) {
      // Blank arcs of the last frame but the last, and label arcs of the last column, lead out of
      // the lattice and may hold anything.
      const bool last_column = u == columns - 1;
      const Scaled<double> leave =
          t == sequence.frames - 1 && !last_column ? kZero : Multiply(work.blank[u], below[u]);
      const Scaled<double> emit = last_column ? kZero : Multiply(work.label[u], right);
      const Scaled<double> alpha = alphas[row + sequence.to_kept + u];
      blank_cotangents[row + u] = ArcCotangent(Multiply(alpha, leave), total, cotangent);
      label_cotangents[row + u] = ArcCotangent(Multiply(alpha, emit), total, cotangent);
      right = below[u] = Normalize(Add(leave, emit));
    }
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_SEQUENCE_DOUBLE_H_
