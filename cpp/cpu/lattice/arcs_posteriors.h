// Cotangents of one sequence's log-weights from its alphas and betas, frame by frame.
//
//   posterior of an arc = alpha(its tail) arc beta(its head) / total
//   cotangent of its log-weight = -posterior x the sequence's cotangent
//   likewise initial(t) beta(t, 0) / total and alpha(t, U_n) final(t) / total
//
// Included by cpu/lattice/arcs_sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_ARCS_POSTERIORS_H_
#define JAX_RNNT_CPU_LATTICE_ARCS_POSTERIORS_H_

#include <stdint.h>
#include <string.h>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/isa.h"
#include "cpu/lattice/arcs_double.h"
#include "cpu/lattice/arcs_float.h"
#include "cpu/lattice/arcs_terms.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

template <typename Real>
void Posteriors(const LatticeSequence& sequence, const ArcTopology& topology,
                const ArcArrays<Real>& arrays, const ArcsCotangents<Real>& given, int64_t begin,
                int64_t end, Real* memory) {
  const ArcsOf<Real> arcs = MakeArcsOf(sequence, topology, arrays);
  const int32_t columns = sequence.columns;
  const bool none = !(given.total.mantissa > 0) || given.cotangent == 0;
  Scaled<Real>* const alphas = const_cast<Scaled<Real>*>(given.alphas);
  Scaled<Real>* const betas = const_cast<Scaled<Real>*>(given.betas);
  const Scaled<Real> end_weight = Weight(arrays.final_weights, arcs.frames, arcs.frames);
  auto first_beta = [&](int64_t t) {
    if (t < arcs.frames) return StoredRow(sequence, betas, t)[0];
    return columns == 1 ? end_weight : kZero<Real>;
  };
  for (int64_t t = begin; t < end && t < arcs.frames; ++t) {
    for (int k = 0; k < topology.count; ++k) {
      const int64_t row = arcs.first + t * arcs.stride;
      const int du = topology.du[k];
      if (none || t >= topology.LegalFrames(k, arcs.frames)) {
        memset(given.arcs[k] + row, 0, columns * sizeof(Real));
        continue;
      }
      if (topology.dt[k] > 0 && t + topology.dt[k] == arcs.frames) {
        // Only (T_n, U_n) is led to there.
        memset(given.arcs[k] + row, 0, columns * sizeof(Real));
        const int64_t u = columns - 1 - du;
        if (u < 0) continue;
        const Scaled<Real> part = Multiply(StoredRow(sequence, alphas, t)[u],
                                           Multiply(Split(arrays.arcs[k][row + u]), end_weight));
        given.arcs[k][row + u] = Cotangent(part, given.total, given.cotangent);
        continue;
      }
      const NodeRow<Real> heads = StoredRow(sequence, betas, t + topology.dt[k]);
      FillCotangents(arrays.arcs[k] + row, StoredRow(sequence, alphas, t),
                     {heads.mantissas + du, heads.exponents + du}, columns - du, columns,
                     given.total, given.cotangent, given.arcs[k] + row);
    }
  }
  auto stored = [&](int64_t t) { return StoredRow(sequence, alphas, t); };
  for (int64_t t = begin; t < end && t <= arcs.frames; ++t) {
    if (arrays.initial != nullptr) {
      const Scaled<Real> part = Multiply(Split(arrays.initial[t]), first_beta(t));
      given.initial[t] = none ? 0 : Cotangent(part, given.total, given.cotangent);
    }
    if (arrays.final_weights != nullptr) {
      const Scaled<Real> alpha =
          t < arcs.frames ? StoredRow(sequence, alphas, t)[columns - 1] : arcs.LastAlpha(stored);
      const Scaled<Real> part = Multiply(alpha, Split(arrays.final_weights[t]));
      given.final_weights[t] = none ? 0 : Cotangent(part, given.total, given.cotangent);
    }
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_ARCS_POSTERIORS_H_
