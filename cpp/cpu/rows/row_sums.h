// What the kernels of rows compute of one row: its maximum and the sum of its exponentials, and a
// softmax from these.
//
// A row of floats goes through the first-level cache in pieces: the maximum of a piece, then the
// sum of its exponentials, while the next piece is on its way from memory. Logarithms are left for
// kRowsTogether rows at once.
//
// Included by files that are compiled once for each instruction set alone (cpu/isa.h).
#ifndef JAX_RNNT_CPU_ROWS_ROW_SUMS_H_
#define JAX_RNNT_CPU_ROWS_ROW_SUMS_H_

#include <math.h>
#include <stdint.h>

#include "core/row_label.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

JAX_RNNT_INLINE bool IsPadding(int32_t label, int64_t V) { return label < kNoLabel || label >= V; }

// The number of floats in a piece of a row: 8 KB, so that a piece and the next one share a
// first-level cache of 32 KB. Rows of 5000 come at 10.9 GB/s a core; pieces of half or twice the
// size are within 6% of that.
constexpr int64_t kPiece = 2048;

// What a sum over a row leaves out, as a function of numbers of the row and the column of the first
// of them; -inf adds nothing. Nothing, or the numbers of two columns, either of which may be -1.
struct LeaveNothing {
  __attribute__((always_inline)) bool IsAmong(int64_t, int64_t) const { return false; }
  __attribute__((always_inline)) Floats operator()(Floats x, int64_t) const { return x; }
  __attribute__((always_inline)) double operator()(double x, int64_t) const { return x; }
  __attribute__((always_inline)) LeaveNothing Behind(int64_t) const { return *this; }
};

struct LeaveColumns {
  // Whether any of `count` numbers from `column` on is left out.
  __attribute__((always_inline)) bool IsAmong(int64_t column, int64_t count) const {
    return (a >= column && a < column + count) || (b >= column && b < column + count);
  }
  __attribute__((always_inline)) Floats operator()(Floats x, int64_t column) const {
    const Ints lanes = LaneIndices() + static_cast<int32_t>(column);
    return ((lanes == a) | (lanes == b)) ? Broadcast(-kInfinity) : x;
  }
  __attribute__((always_inline)) double operator()(double x, int64_t column) const {
    return column == a || column == b ? -HUGE_VAL : x;
  }
  // The same of what is left of the row behind its first `columns` numbers.
  __attribute__((always_inline)) LeaveColumns Behind(int64_t columns) const {
    return {a - static_cast<int32_t>(columns), b - static_cast<int32_t>(columns)};
  }
  int32_t a;
  int32_t b;
};

template <typename Leave>
JAX_RNNT_INLINE float MaxOf(const float* x, int64_t count, Leave leave) {
  const Floats lowest = Broadcast(-kInfinity);
  Floats most[4] = {lowest, lowest, lowest, lowest};
  int64_t v = 0;
  for (; v + 4 * kLanes <= count; v += 4 * kLanes) {
    Floats row[4];
    for (int i = 0; i < 4; ++i) row[i] = Load(x + v + i * kLanes);
    if (leave.IsAmong(v, 4 * kLanes)) {
      for (int i = 0; i < 4; ++i) row[i] = leave(row[i], v + i * kLanes);
    }
    for (int i = 0; i < 4; ++i) most[i] = Max(most[i], row[i]);
  }
  for (; v + kLanes <= count; v += kLanes) most[0] = Max(most[0], leave(Load(x + v), v));
  if (v < count) most[1] = Max(most[1], leave(LoadFirst(x + v, count - v, -kInfinity), v));
  return Largest(Max(Max(most[0], most[1]), Max(most[2], most[3])));
}

// Begins to fetch the line one piece behind x, whether it is of this row or of a later one, as far
// as the second-level cache: 10.9 GB/s, against 8.5 with fetches into the first level, which has
// fewer lines on their way at once, and 9.5 without fetches.
JAX_RNNT_INLINE void FetchNextPiece(const float* x) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x + kPiece)), 0, 2);
}

template <typename Leave>
JAX_RNNT_INLINE float SumExp(const float* x, int64_t count, float reference, Leave leave) {
  Floats sums[4] = {};
  int64_t v = 0;
  for (; v + 4 * kLanes <= count; v += 4 * kLanes) {
    Floats row[4];
    for (int i = 0; i < 4; ++i) {
      if (i * kVectorBytes % 64 == 0) FetchNextPiece(x + v + i * kLanes);
      row[i] = Load(x + v + i * kLanes);
    }
    if (leave.IsAmong(v, 4 * kLanes)) {
      for (int i = 0; i < 4; ++i) row[i] = leave(row[i], v + i * kLanes);
    }
    for (int i = 0; i < 4; ++i) sums[i] += Exp(row[i] - reference);
  }
  for (; v + kLanes <= count; v += kLanes) {
    FetchNextPiece(x + v);
    sums[0] += Exp(leave(Load(x + v), v) - reference);
  }
  if (v < count) {
    sums[1] += Exp(leave(LoadFirst(x + v, count - v, -kInfinity), v) - reference);
  }
  return Sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Reduce for a row of at most kCount vectors, the last of which it may fill in part.
template <int kCount, typename Leave>
JAX_RNNT_INLINE void ReduceShort(const float* x, int64_t V, Leave leave, float* maximum,
                                 float* sum) {
  Floats row[kCount];
  for (int i = 0; i < kCount - 1; ++i) row[i] = Load(x + i * kLanes);
  const int64_t before = (kCount - 1) * kLanes;
  row[kCount - 1] = LoadFirst(x + before, V - before, -kInfinity);
  FetchNextPiece(x);
  for (int i = 0; i < kCount; ++i) row[i] = leave(row[i], i * kLanes);
  Floats most = row[0];
  for (int i = 1; i < kCount; ++i) most = Max(most, row[i]);
  const float largest = Largest(most);
  const float reference = largest > -kInfinity ? largest : 0;
  Floats sums = Exp(row[0] - reference);
  for (int i = 1; i < kCount; ++i) sums += Exp(row[i] - reference);
  *maximum = reference;
  *sum = Sum(sums);
}

// The row's maximum (0 where there is none but -inf) and the sum of exp(x_v - maximum).
template <typename Leave>
JAX_RNNT_INLINE void Reduce(const float* x, int64_t V, Leave leave, float* maximum, float* sum) {
  switch ((V - 1) / kLanes) {
    case 0:
      return ReduceShort<1>(x, V, leave, maximum, sum);
    case 1:
      return ReduceShort<2>(x, V, leave, maximum, sum);
    case 2:
      return ReduceShort<3>(x, V, leave, maximum, sum);
    case 3:
      return ReduceShort<4>(x, V, leave, maximum, sum);
  }
  float most = -kInfinity;
  float total = 0;
  for (int64_t v = 0; v < V; v += kPiece) {
    const int64_t count = V - v < kPiece ? V - v : kPiece;
    const float here = MaxOf(x + v, count, leave.Behind(v));
    if (here > most) {
      if (v > 0) total *= Exp(Broadcast(most - here))[0];
      most = here;
    }
    // A piece of nothing but NaN has no maximum either, but its sum is NaN.
    total += SumExp(x + v, count, most == -kInfinity ? 0 : most, leave.Behind(v));
  }
  *maximum = most == -kInfinity ? 0 : most;
  *sum = total;
}

template <typename Leave>
JAX_RNNT_INLINE void Reduce(const double* x, int64_t V, Leave leave, double* maximum, double* sum) {
  double most = -HUGE_VAL;
  for (int64_t v = 0; v < V; ++v) most = leave(x[v], v) > most ? leave(x[v], v) : most;
  *maximum = most == -HUGE_VAL ? 0 : most;
  *sum = 0;
  for (int64_t v = 0; v < V; ++v) *sum += exp(leave(x[v], v) - *maximum);
}

// The number of rows whose logarithms are taken together.
constexpr int64_t kRowsTogether = 64;

// The logarithm of a sum as Reduce gives it; NaN stays NaN, and `of_nothing` is that of 0.
JAX_RNNT_INLINE Floats LogOfSum(Floats sum, float of_nothing) {
  return sum == Floats{} ? Broadcast(of_nothing) : sum != sum ? sum : Log(sum);
}
JAX_RNNT_INLINE double LogOfSum(double sum, double of_nothing) {
  return sum == 0 ? of_nothing : log(sum);
}

// result_v = scale * exp((x_v - maximum) - log_sum); result may be x.
JAX_RNNT_INLINE void ScaledSoftmax(const float* x, int64_t V, float maximum, float log_sum,
                                   float scale, float* result) {
  if (V < kLanes) {
    const Floats row = scale * Exp((LoadFirst(x, V, 0.0f) - maximum) - log_sum);
    for (int64_t v = 0; v < V; ++v) result[v] = row[v];
    return;
  }
  const Floats last = Load(x + V - kLanes);  // loaded before the loop may write over it
  int64_t v = 0;
  for (; v + kLanes <= V; v += kLanes) {
    Store(result + v, scale * Exp((Load(x + v) - maximum) - log_sum));
  }
  // The last vector ends with the row and overlaps the one before.
  if (v < V) Store(result + V - kLanes, scale * Exp((last - maximum) - log_sum));
}

JAX_RNNT_INLINE void ScaledSoftmax(const double* x, int64_t V, double maximum, double log_sum,
                                   double scale, double* result) {
  for (int64_t v = 0; v < V; ++v) result[v] = scale * exp((x[v] - maximum) - log_sum);
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_ROWS_ROW_SUMS_H_
