// PickForward and PickBackward over a range of rows, on one thread (cpu/rows/pick.h has the
// equations and the shapes).
//
// A row is read as the arithmetic's type first: float and double where they lie, 16-bit types
// through a buffer that stays in the cache (cpu/rows/read_row.h). A row of floats goes through the
// first-level cache in pieces: the maximum of a piece, then the sum of its exponentials, while the
// next piece is on its way from memory. What is left to do for a row, a logarithm and two
// differences, is done for kRowsTogether rows at once.
//
// Compiled once for each instruction set (cpu/isa.h).
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/row_label.h"
#include "cpu/isa.h"
#include "cpu/rows/read_row.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

// The number of floats in a piece of a row: 8 KB, so that a piece and the next one share a
// first-level cache of 32 KB. Rows of 5000 come at 10.9 GB/s a core; pieces of half or twice the
// size are within 6% of that.
constexpr int64_t kPiece = 2048;

JAX_RNNT_INLINE float MaxOf(const float* x, int64_t count) {
  const Floats lowest = Broadcast(-kInfinity);
  Floats most[4] = {lowest, lowest, lowest, lowest};
  int64_t v = 0;
  for (; v + 4 * kLanes <= count; v += 4 * kLanes) {
    for (int i = 0; i < 4; ++i) most[i] = Max(most[i], Load(x + v + i * kLanes));
  }
  for (; v + kLanes <= count; v += kLanes) most[0] = Max(most[0], Load(x + v));
  if (v < count) most[1] = Max(most[1], LoadFirst(x + v, count - v, -kInfinity));
  return Largest(Max(Max(most[0], most[1]), Max(most[2], most[3])));
}

// Begins to fetch the line one piece behind x, whether it is of this row or of a later one, as far
// as the second-level cache: 10.9 GB/s, against 8.5 with fetches into the first level, which has
// fewer lines on their way at once, and 9.5 without fetches.
JAX_RNNT_INLINE void FetchNextPiece(const float* x) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x + kPiece)), 0, 2);
}

JAX_RNNT_INLINE float SumExp(const float* x, int64_t count, float reference) {
  Floats sums[4] = {};
  int64_t v = 0;
  for (; v + 4 * kLanes <= count; v += 4 * kLanes) {
    for (int i = 0; i < 4; ++i) {
      if (i * kVectorBytes % 64 == 0) FetchNextPiece(x + v + i * kLanes);
      sums[i] += Exp(Load(x + v + i * kLanes) - reference);
    }
  }
  for (; v + kLanes <= count; v += kLanes) {
    FetchNextPiece(x + v);
    sums[0] += Exp(Load(x + v) - reference);
  }
  if (v < count) sums[1] += Exp(LoadFirst(x + v, count - v, -kInfinity) - reference);
  return Sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Reduce for a row of at most kCount vectors, the last of which it may fill in part.
template <int kCount>
JAX_RNNT_INLINE void ReduceShort(const float* x, int64_t V, float* maximum, float* sum) {
  Floats row[kCount];
  for (int i = 0; i < kCount - 1; ++i) row[i] = Load(x + i * kLanes);
  const int64_t before = (kCount - 1) * kLanes;
  row[kCount - 1] = LoadFirst(x + before, V - before, -kInfinity);
  FetchNextPiece(x);
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
JAX_RNNT_INLINE void Reduce(const float* x, int64_t V, float* maximum, float* sum) {
  switch ((V - 1) / kLanes) {
    case 0:
      return ReduceShort<1>(x, V, maximum, sum);
    case 1:
      return ReduceShort<2>(x, V, maximum, sum);
    case 2:
      return ReduceShort<3>(x, V, maximum, sum);
    case 3:
      return ReduceShort<4>(x, V, maximum, sum);
  }
  float most = -kInfinity;
  float total = 0;
  for (int64_t v = 0; v < V; v += kPiece) {
    const int64_t count = V - v < kPiece ? V - v : kPiece;
    const float here = MaxOf(x + v, count);
    if (here > most) {
      if (v > 0) total *= Exp(Broadcast(most - here))[0];
      most = here;
    }
    // A piece of nothing but NaN has no maximum either, but its sum is NaN.
    total += SumExp(x + v, count, most == -kInfinity ? 0 : most);
  }
  *maximum = most == -kInfinity ? 0 : most;
  *sum = total;
}

// The number of rows whose logarithms are taken together.
constexpr int64_t kRowsTogether = 64;

// Turns, in place, each row's sum into its logarithm and the two logits into log-probabilities.
JAX_RNNT_INLINE void Finish(int64_t rows, int64_t V, const int32_t* labels, const float* maxima,
                            float* log_sums, float* blanks, float* own_labels) {
  int64_t r = 0;
  const Floats none = Broadcast(-kInfinity);
  auto finish = [&](Ints label, Floats maximum, Floats sum, Floats* blank, Floats* own) {
    const Floats log_sum = sum == Floats{} ? -none : sum != sum ? sum : Log(sum);
    *blank = (*blank - maximum) - log_sum;
    const Ints labelled = (label >= 0) & (label < static_cast<int32_t>(V));
    *own = labelled ? (*own - maximum) - log_sum : none;
    return log_sum;
  };
  for (; r + kLanes <= rows; r += kLanes) {
    Floats blank = Load(blanks + r);
    Floats own = Load(own_labels + r);
    Store(log_sums + r,
          finish(Load(labels + r), Load(maxima + r), Load(log_sums + r), &blank, &own));
    Store(blanks + r, blank);
    Store(own_labels + r, own);
  }
  for (; r < rows; ++r) {
    Floats blank = Broadcast(blanks[r]);
    Floats own = Broadcast(own_labels[r]);
    log_sums[r] =
        finish(labels[r] - Ints{}, Broadcast(maxima[r]), Broadcast(log_sums[r]), &blank, &own)[0];
    blanks[r] = blank[0];
    own_labels[r] = own[0];
  }
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

JAX_RNNT_INLINE void Reduce(const double* x, int64_t V, double* maximum, double* sum) {
  double most = -HUGE_VAL;
  for (int64_t v = 0; v < V; ++v) most = x[v] > most ? x[v] : most;
  *maximum = most == -HUGE_VAL ? 0 : most;
  *sum = 0;
  for (int64_t v = 0; v < V; ++v) *sum += exp(x[v] - *maximum);
}

JAX_RNNT_INLINE void Finish(int64_t rows, int64_t V, const int32_t* labels, const double* maxima,
                            double* log_sums, double* blanks, double* own_labels) {
  for (int64_t r = 0; r < rows; ++r) {
    log_sums[r] = log_sums[r] == 0 ? HUGE_VAL : log(log_sums[r]);
    blanks[r] = (blanks[r] - maxima[r]) - log_sums[r];
    own_labels[r] =
        labels[r] >= 0 && labels[r] < V ? (own_labels[r] - maxima[r]) - log_sums[r] : -HUGE_VAL;
  }
}

JAX_RNNT_INLINE void ScaledSoftmax(const double* x, int64_t V, double maximum, double log_sum,
                                   double scale, double* result) {
  for (int64_t v = 0; v < V; ++v) result[v] = scale * exp((x[v] - maximum) - log_sum);
}

JAX_RNNT_INLINE bool IsPadding(int32_t label, int64_t V) { return label < kNoLabel || label >= V; }

}  // namespace

template <typename T, typename Real>
void PickForwardRows(int64_t begin, int64_t end, int64_t V, int64_t blank, const T* logits,
                     const int32_t* labels, Real* blank_log_probs, Real* label_log_probs,
                     Real* maxima, Real* log_sums, Real* buffer) {
  constexpr Real kMinusInfinity = -static_cast<Real>(HUGE_VAL);
  for (int64_t first = begin; first < end; first += kRowsTogether) {
    const int64_t last = end - first < kRowsTogether ? end : first + kRowsTogether;
    for (int64_t r = first; r < last; ++r) {
      const int32_t label = labels[r];
      if (IsPadding(label, V)) {
        blank_log_probs[r] = kMinusInfinity;
        maxima[r] = 0;
        log_sums[r] = 1;  // the sum, whose logarithm is to be 0
        continue;
      }
      const Real* x = ReadRow(logits + r * V, V, buffer);
      Reduce(x, V, maxima + r, log_sums + r);
      blank_log_probs[r] = x[blank];
      label_log_probs[r] = x[label == kNoLabel ? 0 : label];
    }
    Finish(last - first, V, labels + first, maxima + first, log_sums + first,
           blank_log_probs + first, label_log_probs + first);
  }
}

template <typename T, typename Real>
void PickBackwardRows(int64_t begin, int64_t end, int64_t V, int64_t blank, const T* logits,
                      const int32_t* labels, const Real* maxima, const Real* log_sums,
                      const Real* blank_cotangents, const Real* label_cotangents,
                      T* logits_cotangents, Real* buffer) {
  for (int64_t r = begin; r < end; ++r) {
    const int32_t label = labels[r];
    const Real from_blank = blank_cotangents[r];
    const Real from_label = label == kNoLabel ? 0 : label_cotangents[r];
    T* out = logits_cotangents + r * V;
    const bool usable = !IsPadding(label, V) && log_sums[r] < static_cast<Real>(HUGE_VAL);
    if (!usable || (from_blank == 0 && from_label == 0)) {
      memset(out, 0, V * sizeof(T));
      continue;
    }
    const Real* x = ReadRow(logits + r * V, V, buffer);
    Real* row = RowToWrite(out, buffer);
    ScaledSoftmax(x, V, maxima[r], log_sums[r], -(from_blank + from_label), row);
    row[blank] += from_blank;
    if (label != kNoLabel) row[label] += from_label;
    WriteRow(row, V, out);
  }
}

#define JAX_RNNT_INSTANTIATE(T, Real)                                                          \
  template void PickForwardRows(int64_t, int64_t, int64_t, int64_t, const T*, const int32_t*,  \
                                Real*, Real*, Real*, Real*, Real*);                            \
  template void PickBackwardRows(int64_t, int64_t, int64_t, int64_t, const T*, const int32_t*, \
                                 const Real*, const Real*, const Real*, const Real*, T*, Real*);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE
