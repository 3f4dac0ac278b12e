// PickForward and PickBackward over a range of rows, on one thread (cpu/rows/pick.h has the
// equations and the shapes).
//
// A row is read as the arithmetic's type first: float and double where they lie, 16-bit types
// through a buffer that stays in the cache (cpu/rows/read_row.h). What is left to do for a row when
// its sum is known (cpu/rows/row_sums.h), a logarithm and two differences, is done for
// kRowsTogether rows at once.
//
// Compiled once for each instruction set (cpu/isa.h).
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/row_label.h"
#include "cpu/isa.h"
#include "cpu/rows/read_row.h"
#include "cpu/rows/row_sums.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

// Turns, in place, each row's sum into its logarithm and the two logits into log-probabilities.
JAX_RNNT_INLINE void Finish(int64_t rows, int64_t V, const int32_t* labels, const float* maxima,
                            float* log_sums, float* blanks, float* own_labels) {
  int64_t r = 0;
  const Floats none = Broadcast(-kInfinity);
  auto finish = [&](Ints label, Floats maximum, Floats sum, Floats* blank, Floats* own) {
    const Floats log_sum = LogOfSum(sum, kInfinity);
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

JAX_RNNT_INLINE void Finish(int64_t rows, int64_t V, const int32_t* labels, const double* maxima,
                            double* log_sums, double* blanks, double* own_labels) {
  for (int64_t r = 0; r < rows; ++r) {
    log_sums[r] = LogOfSum(log_sums[r], HUGE_VAL);
    blanks[r] = (blanks[r] - maxima[r]) - log_sums[r];
    own_labels[r] =
        labels[r] >= 0 && labels[r] < V ? (own_labels[r] - maxima[r]) - log_sums[r] : -HUGE_VAL;
  }
}

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
      Reduce(x, V, LeaveNothing{}, maxima + r, log_sums + r);
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
