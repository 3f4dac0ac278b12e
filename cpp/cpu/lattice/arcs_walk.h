// Alpha and beta of one sequence of a lattice of any topology, frame by frame (core/arcs.h has the
// equations).
//
// A frame's nodes are a row. Terms of arcs from (alpha) or to (beta) other frames are independent
// of each other; the arc (0, 1), where there is one, then goes along the row. The rows that arcs
// can reach lie in a ring, of which each is copied out when it is complete.
//
// Included by cpu/lattice/arcs_sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_ARCS_WALK_H_
#define JAX_RNNT_CPU_LATTICE_ARCS_WALK_H_

#include <stdint.h>
#include <string.h>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/lattice/arcs_double.h"
#include "cpu/lattice/arcs_float.h"
#include "cpu/lattice/arcs_terms.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

template <typename Real>
JAX_RNNT_INLINE void CopyOut(const LatticeSequence& sequence, NodeRow<Real> row,
                             Scaled<Real>* values, int64_t t) {
  const NodeRow<Real> stored = StoredRow(sequence, values, t);
  memcpy(stored.mantissas, row.mantissas, sequence.columns * sizeof(Real));
  memcpy(stored.exponents, row.exponents, sequence.columns * sizeof(Real));
}

// The total, whose mantissa is NaN where a legal weight is NaN or +inf. `alphas` may be null.
template <typename Real>
Scaled<Real> Alpha(const LatticeSequence& sequence, const ArcTopology& topology,
                   const ArcArrays<Real>& arrays, Scaled<Real>* alphas, Real* memory) {
  const ArcsOf<Real> arcs = MakeArcsOf(sequence, topology, arrays);
  const NodeRing<Real> ring(memory, sequence.columns, RingRows(topology));
  Scaled<Real> total = kZero<Real>;
  bool sensible = true;
  for (int64_t t = 0; t <= sequence.frames; ++t) {
    Scaled<Real> last;  // alpha(t, U_n)
    if (t < sequence.frames) {
      const NodeRow<Real> row = ring.row(t);
      const bool row_is_sensible =
          FillRow<true>(arcs.template MakeTerms<true>(ring, t), sequence.columns, row);
      sensible = sensible && row_is_sensible;
      if (alphas != nullptr) CopyOut(sequence, row, alphas, t);
      last = row[sequence.columns - 1];
    } else {
      last = arcs.LastAlpha([&](int64_t other) { return ring.row(other); });
    }
    sensible = sensible && IsSensible(arrays.initial, t) && IsSensible(arrays.final_weights, t);
    const Scaled<Real> stop = Weight(arrays.final_weights, t, sequence.frames);
    total = Normalize(Add(total, Multiply(last, stop)));
  }
  return sensible ? total : Scaled<Real>{Real(kInfinity - kInfinity), 0};
}

template <typename Real>
void Beta(const LatticeSequence& sequence, const ArcTopology& topology,
          const ArcArrays<Real>& arrays, Scaled<Real>* betas, Real* memory) {
  const ArcsOf<Real> arcs = MakeArcsOf(sequence, topology, arrays);
  const NodeRing<Real> ring(memory, sequence.columns, RingRows(topology));
  for (int64_t t = sequence.frames; t >= 0; --t) {
    const NodeRow<Real> row = ring.row(t);
    FillRow<false>(arcs.template MakeTerms<false>(ring, t), sequence.columns, row);
    if (t < sequence.frames) CopyOut(sequence, row, betas, t);
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_ARCS_WALK_H_
