// The nodes of a frame as a row of numbers, and the terms that a row is the sum of.
//
// Included by cpu/lattice/arcs_sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_ARCS_TERMS_H_
#define JAX_RNNT_CPU_LATTICE_ARCS_TERMS_H_

#include <stdint.h>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/isa.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

static_assert(3 * kLanes <= kWorkspaceMoreColumns);

// A row's numbers: the mantissas of all its nodes and, elsewhere, their exponents.
template <typename Real>
struct NodeRow {
  Scaled<Real> operator[](int64_t u) const { return {mantissas[u], exponents[u]}; }

  Real* mantissas;
  Real* exponents;
};

// Where the numbers of frame t were or will be left: its exponents behind its mantissas.
template <typename Real>
JAX_RNNT_INLINE NodeRow<Real> StoredRow(const LatticeSequence& sequence, Scaled<Real>* values,
                                        int64_t t) {
  const int64_t first = sequence.first + sequence.to_kept;
  Real* const row = reinterpret_cast<Real*>(values + first + t * sequence.stride);
  return {row, row + sequence.columns};
}

// The rows of the last frames. Zeros surround a row, kLanes before it and up to 2 kLanes behind it.
template <typename Real>
class NodeRing {
 public:
  NodeRing(Real* memory, int32_t columns, int rows)
      : memory_(memory), size_((columns + kLanes - 1) / kLanes * kLanes + 2 * kLanes), rows_(rows) {
    for (int64_t i = 0; i < 2 * rows * size_; ++i) {
      memory[i] = i / size_ % 2 == 0 ? Real(0) : kZeroExponent<Real>;
    }
  }

  NodeRow<Real> row(int64_t t) const {
    Real* const mantissas = memory_ + t % rows_ * 2 * size_ + kLanes;
    return {mantissas, mantissas + size_};
  }

 private:
  Real* memory_;
  int64_t size_;
  int rows_;
};

// An arc that joins each node of a row to a node of another: by the node's column, its log-weight
// and the other node's number.
template <typename Real>
struct Term {
  const Real* log_weights;
  NodeRow<Real> others;
};

// What the nodes of a row are the sum of.
template <typename Real>
struct Terms {
  Term<Real> terms[kMaxArcs];
  int without_label;          // so many terms first: arcs of du = 0
  int count;                  // then, up to this number, arcs of du = 1
  const Real* along_the_row;  // the log-weights of the arc (0, 1), by the node's column, or null
  Scaled<Real> from_outside;  // what the first node gets beside them, the last one for beta
  Scaled<Real> from_end;      // beta only: what the last node but one gets
};

template <typename Real>
constexpr Scaled<Real> kZero = {0, kZeroExponent<Real>};

// -cotangent * part / total.
template <typename Real>
JAX_RNNT_INLINE Real Cotangent(Scaled<Real> part, Scaled<Real> total, Real cotangent) {
  const Real share = Share(part, total);
  return share == 0 || cotangent == 0 ? 0 : -share * cotangent;
}

// One of a sequence's weights for starts or ends, of which `only` alone is one by default.
template <typename Real>
JAX_RNNT_INLINE Scaled<Real> Weight(const Real* log_weights, int64_t t, int64_t only) {
  if (log_weights != nullptr) return Split(log_weights[t]);
  return t == only ? Scaled<Real>{1, 0} : kZero<Real>;
}

template <typename Real>
JAX_RNNT_INLINE bool IsSensible(const Real* log_weights, int64_t t) {
  return log_weights == nullptr || log_weights[t] < Real(kInfinity);
}

// One sequence's arrays; `arrays` has its own initial and final.
template <typename Real>
struct ArcsOf {
  // The terms of row t, t < frames for alpha and t <= frames for beta. Alpha sums what comes in: an
  // arc begins in an earlier row. Beta sums what goes out, to a later one.
  template <bool kAlpha>
  __attribute__((always_inline)) Terms<Real> MakeTerms(const NodeRing<Real>& ring,
                                                       int64_t t) const {
    Terms<Real> result;
    result.without_label = result.count = 0;
    result.along_the_row = nullptr;
    result.from_outside =
        kAlpha ? Weight(arrays.initial, t, 0) : Weight(arrays.final_weights, t, frames);
    result.from_end = kZero<Real>;
    for (int k = 0; k < topology.count; ++k) {
      const int dt = topology.dt[k];
      const int du = topology.du[k];
      const int64_t tail = kAlpha ? t - dt : t;
      if (tail < 0 || tail >= topology.LegalFrames(k, frames)) continue;
      const Real* const log_weights = arrays.arcs[k] + first + tail * stride - (kAlpha ? du : 0);
      if (dt == 0) {
        result.along_the_row = log_weights;
        continue;
      }
      if (!kAlpha && t + dt == frames) {
        // Only (T_n, U_n) is led to there.
        if (du >= columns) continue;
        const Scaled<Real> part = Multiply(Split(log_weights[columns - 1 - du]),
                                           Weight(arrays.final_weights, frames, frames));
        if (du == 0) result.from_outside = Add(result.from_outside, part);
        if (du == 1) result.from_end = part;
        continue;
      }
      const NodeRow<Real> others = ring.row(kAlpha ? tail : t + dt);
      const int64_t side = kAlpha ? -du : du;
      result.terms[result.count++] = {log_weights,
                                      {others.mantissas + side, others.exponents + side}};
      if (du == 0) result.without_label = result.count;
    }
    return result;
  }

  // alpha(T_n, U_n), of rows of alpha by their frame.
  template <typename AlphaRow>
  Scaled<Real> LastAlpha(const AlphaRow& alpha_row) const {
    const int64_t last = columns - 1;
    Scaled<Real> sum = last == 0 ? Weight(arrays.initial, frames, 0) : kZero<Real>;
    for (int k = 0; k < topology.count; ++k) {
      const int64_t t = frames - topology.dt[k];
      const int64_t u = last - topology.du[k];
      if (t < 0 || t >= topology.LegalFrames(k, frames) || u < 0) continue;
      const Real log_weight = arrays.arcs[k][first + t * stride + u];
      sum = Add(sum, Multiply(alpha_row(t)[u], Split(log_weight)));
    }
    return Normalize(sum);
  }

  const ArcTopology& topology;
  const ArcArrays<Real>& arrays;
  int64_t first;
  int64_t stride;
  int64_t frames;
  int32_t columns;
};

template <typename Real>
JAX_RNNT_INLINE ArcsOf<Real> MakeArcsOf(const LatticeSequence& sequence,
                                        const ArcTopology& topology,
                                        const ArcArrays<Real>& arrays) {
  return {topology, arrays, sequence.first, sequence.stride, sequence.frames, sequence.columns};
}

JAX_RNNT_INLINE int RingRows(const ArcTopology& topology) {
  int most = 0;
  for (int k = 0; k < topology.count; ++k) most = topology.dt[k] > most ? topology.dt[k] : most;
  return most + 1;
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_ARCS_TERMS_H_
