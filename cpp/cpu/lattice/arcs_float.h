// Rows of nodes and of posteriors in float, kLanes columns at a time, for cpu/lattice/arcs_walk.h
// and cpu/lattice/arcs_posteriors.h.
//
// Included by cpu/lattice/arcs_sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_ARCS_FLOAT_H_
#define JAX_RNNT_CPU_LATTICE_ARCS_FLOAT_H_

#include <stdint.h>

#include "core/scaled.h"
#include "cpu/lattice/arcs_terms.h"
#include "cpu/lattice/scaled_vectors.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

// x moved by kBy lanes, up for alpha and down for beta, with `fill` where nothing moves in.
template <bool kAlpha, int kBy, int... kLane>
JAX_RNNT_INLINE Floats Move(Floats x, Floats fill, std::integer_sequence<int, kLane...>) {
  return kAlpha ? __builtin_shufflevector(x, fill, (kLane < kBy ? kLanes + kLane : kLane - kBy)...)
                : __builtin_shufflevector(x, fill, (kLane + kBy)...);
}

template <bool kAlpha, int kBy>
JAX_RNNT_INLINE Numbers Move(Numbers x, Numbers fill) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
  return {Move<kAlpha, kBy>(x.mantissa, fill.mantissa, kAll),
          Move<kAlpha, kBy>(x.exponent, fill.exponent, kAll)};
}

template <bool kAlpha, int... kLane>
JAX_RNNT_INLINE Floats Last(Floats x, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(x, x, (kAlpha ? kLanes - 1 + 0 * kLane : 0 * kLane)...);
}

// The last lane that a walk meets, in all lanes.
template <bool kAlpha>
JAX_RNNT_INLINE Numbers Last(Numbers x) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>();
  return {Last<kAlpha>(x.mantissa, kAll), Last<kAlpha>(x.exponent, kAll)};
}

// The recurrence x_i = arc_i x_(i-1) + own_i over the lanes, x_(i+1) for beta, as the composition
// of its maps: x_i = arcs x + owns, where x is the number before the first lane.
struct Maps {
  Numbers arcs;
  Numbers owns;
};

template <bool kAlpha, int kBy = 1>
JAX_RNNT_INLINE Maps Compose(Maps maps) {
  if constexpr (kBy >= kLanes) {
    return maps;
  } else {
    const Numbers one = {Broadcast(1.0f), Floats{}};
    const Numbers before = Move<kAlpha, kBy>(maps.owns, Zeros());
    maps.owns = Add(maps.owns, Multiply(maps.arcs, before));
    maps.arcs = Multiply(maps.arcs, Move<kAlpha, kBy>(maps.arcs, one));
    return Compose<kAlpha, 2 * kBy>(maps);
  }
}

// Numbers to be summed, aligned to the largest exponent among them at once. Two arrays: as one of
// pairs, compilers copy the pairs through other registers.
struct Parts {
  __attribute__((always_inline)) void Add(Numbers part) {
    mantissas[count] = part.mantissa;
    exponents[count] = part.exponent;
    largest = Max(largest, part.exponent);
    ++count;
  }

  __attribute__((always_inline)) Numbers Sum() const {
    Floats sum = {};
    for (int k = 0; k < count; ++k) {
      // What is further below than this is lost in the sum.
      const Floats distance = Max(exponents[k] - largest, Broadcast(-100.0f));
      sum += mantissas[k] * PowerOfTwo(distance);
    }
    return {sum, largest};
  }

  int count = 0;
  Floats largest = Broadcast(kZeroLog);
  Floats mantissas[kMaxArcs + 2];
  Floats exponents[kMaxArcs + 2];
};

// The lanes of a vector that begins at column u for which arcs of du = 0 and of du = 1 exist.
template <bool kAlpha>
JAX_RNNT_INLINE Window ArcWindow(int64_t u, int du, int32_t columns) {
  return kAlpha ? MakeWindow(u, du, columns) : MakeWindow(u, 0, columns - du);
}

// The log-weights of an arc, -inf where there is none.
template <bool kWhole>
JAX_RNNT_INLINE Floats LoadArc(const float* log_weights, Window window) {
  return kWhole ? Load(log_weights)
                : LoadWindow(log_weights, window.first, window.last, -kInfinity);
}

JAX_RNNT_INLINE Numbers LoadNumbers(NodeRow<float> row, int64_t u) {
  return {Load(row.mantissas + u), Load(row.exponents + u)};
}

// The columns [u, u + kLanes) of a row, of which `passed_on` is what the last vector passes along
// it.
template <bool kAlpha, bool kWhole>
JAX_RNNT_INLINE Numbers FillColumns(const Terms<float>& terms, int64_t u, int32_t columns,
                                    Numbers* passed_on, Ints* senseless) {
  const Window windows[2] = {ArcWindow<kAlpha>(u, 0, columns), ArcWindow<kAlpha>(u, 1, columns)};
  Parts parts;
  if (!kWhole && u == (kAlpha ? 0 : (columns - 1) / kLanes * kLanes)) {
    const int64_t lane = kAlpha ? 0 : columns - 1 - u;
    Numbers from_outside = Zeros();
    from_outside.mantissa[lane] = terms.from_outside.mantissa;
    from_outside.exponent[lane] = terms.from_outside.exponent;
    parts.Add(from_outside);
  }
  if (!kAlpha && terms.from_end.mantissa != 0 && columns - 2 >= u && columns - 2 < u + kLanes) {
    Numbers from_end = Zeros();
    from_end.mantissa[columns - 2 - u] = terms.from_end.mantissa;
    from_end.exponent[columns - 2 - u] = terms.from_end.exponent;
    parts.Add(from_end);
  }
  auto add = [&](int begin, int end, Window window) {
    for (int k = begin; k < end; ++k) {
      const Floats log_weights = LoadArc<kWhole>(terms.terms[k].log_weights + u, window);
      if (kAlpha) *senseless |= ~(log_weights < kInfinity);
      const Numbers other = LoadNumbers(terms.terms[k].others, u);
      parts.Add(Multiply(SplitVector(log_weights), other));
    }
  };
  add(0, terms.without_label, windows[0]);
  add(terms.without_label, terms.count, windows[1]);
  Numbers own = parts.Sum();
  if (terms.along_the_row != nullptr) {
    const Floats log_weights = LoadArc<kWhole>(terms.along_the_row + u, windows[1]);
    if (kAlpha) *senseless |= ~(log_weights < kInfinity);
    const Maps maps = Compose<kAlpha>({SplitVector(log_weights), own});
    own = Add(maps.owns, Multiply(maps.arcs, *passed_on));
  }
  own = Normalize(own);
  *passed_on = Last<kAlpha>(own);
  return own;
}

template <bool kAlpha>
bool FillRow(const Terms<float>& terms, int32_t columns, NodeRow<float> row) {
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  Numbers passed_on = Zeros();
  Ints senseless = {};
  for (int64_t i = 0; i < vectors; ++i) {
    const int64_t u = (kAlpha ? i : vectors - 1 - i) * kLanes;
    const bool is_whole = i > 0 && u + kLanes < columns + (kAlpha ? 1 : 0);
    const Numbers own = is_whole
                            ? FillColumns<kAlpha, true>(terms, u, columns, &passed_on, &senseless)
                            : FillColumns<kAlpha, false>(terms, u, columns, &passed_on, &senseless);
    Store(row.mantissas + u, own.mantissa);
    Store(row.exponents + u, own.exponent);
  }
  int32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= senseless[i];
  return any == 0;
}

// The cotangents of one arc in one frame, for each of its `columns` columns: the first `count` have
// the arc. `betas` are those of the arcs' heads.
void FillCotangents(const float* log_weights, NodeRow<float> alphas, NodeRow<float> betas,
                    int32_t count, int32_t columns, Scaled<float> total, float cotangent,
                    float* cotangents) {
  const float reciprocal = 1.0f / total.mantissa;
  auto own = [&](Numbers alpha, Floats arc, Numbers beta) {
    const Numbers part = Multiply(alpha, Multiply(SplitVector(arc), beta));
    return ArcCotangents(part, reciprocal, total.exponent, cotangent);
  };
  int32_t u = 0;
  for (; u + kLanes <= count; u += kLanes) {
    Store(cotangents + u,
          own(LoadNumbers(alphas, u), Load(log_weights + u), LoadNumbers(betas, u)));
  }
  for (; u < columns; u += kLanes) {
    const Window window = MakeWindow(u, 0, count);
    auto load = [&](const float* row, float fill) {
      return LoadWindow(row + u, window.first, window.last, fill);
    };
    const Numbers alpha = {load(alphas.mantissas, 0.0f), load(alphas.exponents, kZeroLog)};
    const Numbers beta = {load(betas.mantissas, 0.0f), load(betas.exponents, kZeroLog)};
    const Floats result = own(alpha, load(log_weights, -kInfinity), beta);
    const Window stored = MakeWindow(u, 0, columns);
    StoreWindow(cotangents + u, stored.first, stored.last, result);
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_ARCS_FLOAT_H_
