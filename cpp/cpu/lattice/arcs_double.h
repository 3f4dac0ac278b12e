// Rows of nodes and of posteriors in double, one column after the other, for
// cpu/lattice/arcs_walk.h and cpu/lattice/arcs_posteriors.h.
//
// Included by cpu/lattice/arcs_sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_ARCS_DOUBLE_H_
#define JAX_RNNT_CPU_LATTICE_ARCS_DOUBLE_H_

#include <stdint.h>

#include "core/scaled.h"
#include "cpu/lattice/arcs_terms.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

template <bool kAlpha>
bool FillRow(const Terms<double>& terms, int32_t columns, NodeRow<double> row) {
  bool sensible = true;
  // The arc of one log-weight to column u, times the number at its other end.
  auto part = [&sensible](const double* log_weights, int64_t u, Scaled<double> other) {
    sensible = sensible && log_weights[u] < kInfinity;
    return Multiply(Split(log_weights[u]), other);
  };
  Scaled<double> passed_on = kZero<double>;
  for (int32_t i = 0; i < columns; ++i) {
    const int32_t u = kAlpha ? i : columns - 1 - i;
    Scaled<double> own = i == 0 ? terms.from_outside : kZero<double>;
    if (!kAlpha && i == 1) own = terms.from_end;
    // In the first column, as a walk meets them, an arc of du = 1 leads out of the lattice.
    const int count = i == 0 ? terms.without_label : terms.count;
    for (int k = 0; k < count; ++k) {
      own = Add(own, part(terms.terms[k].log_weights, u, terms.terms[k].others[u]));
    }
    if (terms.along_the_row != nullptr && i > 0) {
      own = Add(own, part(terms.along_the_row, u, passed_on));
    }
    own = Normalize(own);
    row.mantissas[u] = own.mantissa;
    row.exponents[u] = own.exponent;
    passed_on = own;
  }
  return sensible;
}

// See arcs_float.h.
void FillCotangents(const double* log_weights, NodeRow<double> alphas, NodeRow<double> betas,
                    int32_t count, int32_t columns, Scaled<double> total, double cotangent,
                    double* cotangents) {
  for (int32_t u = 0; u < columns; ++u) {
    if (u >= count) {
      cotangents[u] = 0;
      continue;
    }
    const Scaled<double> part = Multiply(alphas[u], Multiply(Split(log_weights[u]), betas[u]));
    cotangents[u] = Cotangent(part, total, cotangent);
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_ARCS_DOUBLE_H_
