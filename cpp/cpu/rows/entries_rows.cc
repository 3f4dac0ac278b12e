// EntriesForward and EntriesBackward over a range of rows, on one thread (cpu/rows/entries.h has
// the equations and the shapes). A row is read and summed as in cpu/rows/pick_rows.cc.
//
// Compiled once for each instruction set (cpu/isa.h).
#include <math.h>
#include <string.h>

#include "core/entries.h"
#include "core/half.h"
#include "core/row_label.h"
#include "cpu/isa.h"
#include "cpu/rows/read_row.h"
#include "cpu/rows/row_sums.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

// Turns, in place, each row's sum into its logarithm; where that is NaN the maximum becomes 0.
JAX_RNNT_INLINE void Finish(int64_t rows, float* maxima, float* log_sums) {
  int64_t r = 0;
  for (; r + kLanes <= rows; r += kLanes) {
    const Floats log_sum = LogOfSum(Load(log_sums + r), -kInfinity);
    Store(maxima + r, log_sum == log_sum ? Load(maxima + r) : Floats{});
    Store(log_sums + r, log_sum);
  }
  for (; r < rows; ++r) {
    log_sums[r] = LogOfSum(Broadcast(log_sums[r]), -kInfinity)[0];
    if (log_sums[r] != log_sums[r]) maxima[r] = 0;
  }
}

JAX_RNNT_INLINE void Finish(int64_t rows, double* maxima, double* log_sums) {
  for (int64_t r = 0; r < rows; ++r) {
    log_sums[r] = LogOfSum(log_sums[r], -HUGE_VAL);
    if (log_sums[r] != log_sums[r]) maxima[r] = 0;
  }
}

// Sums of a row and its bias, in the buffer.
JAX_RNNT_INLINE const float* ReadBiasedRow(const float* row, const float* bias, int64_t W,
                                           float* buffer) {
  int64_t v = 0;
  for (; v + kLanes <= W; v += kLanes) {
    FetchNextPiece(row + v);
    Store(buffer + v, Load(row + v) + Load(bias + v));
  }
  for (; v < W; ++v) buffer[v] = row[v] + bias[v];
  return buffer;
}
JAX_RNNT_INLINE const double* ReadBiasedRow(const double* row, const double* bias, int64_t W,
                                            double* buffer) {
  for (int64_t v = 0; v < W; ++v) buffer[v] = row[v] + bias[v];
  return buffer;
}

// The row's logits, with its bias if there are biases, which only rows of Real have.
template <typename T, typename Real>
JAX_RNNT_INLINE const Real* Read(const T* logits, int64_t row, int64_t W,
                                 const RowBiases<Real>& biases, Real* buffer) {
  if constexpr (sizeof(T) == sizeof(Real)) {
    if (biases.values != nullptr) {
      return ReadBiasedRow(logits + row * W, biases.values + row / biases.rows * W, W, buffer);
    }
  }
  return ReadRow(logits + row * W, W, buffer);
}

// NaN stays NaN.
template <typename Real>
JAX_RNNT_INLINE void CutRow(Real bound, int64_t W, Real* row) {
  for (int64_t v = 0; v < W; ++v) {
    const Real x = row[v] > bound ? bound : row[v];
    row[v] = x < -bound ? -bound : x;
  }
}

// Adds a row to its part of the bias' gradient, which its first row starts.
template <typename Real>
JAX_RNNT_INLINE void AddToPart(const Real* row, int64_t r, int64_t W, const RowBiases<Real>& biases,
                               Real* bias_parts) {
  const int64_t parts = PartsOfBias(biases.rows);
  const int64_t row_of_bias = r % biases.rows;
  Real* part = bias_parts + (r / biases.rows * parts + row_of_bias / kBiasPartRows) * W;
  if (row_of_bias % kBiasPartRows == 0) {
    memcpy(part, row, W * sizeof(Real));
  } else {
    for (int64_t v = 0; v < W; ++v) part[v] += row[v];
  }
}

}  // namespace

template <typename T, typename Real>
void EntriesForwardRows(int64_t begin, int64_t end, const EntriesOptions& options, const T* logits,
                        const RowBiases<Real>& biases, const int32_t* labels,
                        const EntriesResults<Real>& results, Real* buffer) {
  constexpr Real kMinusInfinity = -static_cast<Real>(HUGE_VAL);
  const int64_t W = options.width;
  const int64_t V = options.tokens;
  const bool leaves_nothing = !options.without_blank && !options.without_label;
  for (int64_t first = begin; first < end; first += kRowsTogether) {
    const int64_t last = end - first < kRowsTogether ? end : first + kRowsTogether;
    for (int64_t r = first; r < last; ++r) {
      const int32_t label = labels[r - begin];
      if (IsPadding(label, V)) {
        results.maxima[r] = 0;
        results.log_sums[r] = 1;  // the sum, whose logarithm is to be 0
        results.blank_logits[r] = kMinusInfinity;
        results.label_logits[r] = kMinusInfinity;
        for (int i = 0; i < options.pick_count; ++i) results.pick_logits[i][r] = kMinusInfinity;
        continue;
      }
      const Real* x = Read(logits, r, W, biases, buffer);
      if (leaves_nothing) {
        Reduce(x, V, LeaveNothing{}, results.maxima + r, results.log_sums + r);
      } else {
        const LeaveColumns leave{options.without_blank ? options.blank : -1,
                                 options.without_label ? label : -1};
        Reduce(x, V, leave, results.maxima + r, results.log_sums + r);
      }
      results.blank_logits[r] = x[options.blank];
      results.label_logits[r] = label == kNoLabel ? kMinusInfinity : x[label];
      for (int i = 0; i < options.pick_count; ++i) results.pick_logits[i][r] = x[options.picks[i]];
    }
    Finish(last - first, results.maxima + first, results.log_sums + first);
  }
}

template <typename Logit, typename T, typename Real>
void EntriesBackwardRows(int64_t begin, int64_t end, const EntriesOptions& options,
                         const Logit* logits, const RowBiases<Real>& biases, const int32_t* labels,
                         const Real* bounds, const Real* maxima, const Real* log_sums,
                         const EntriesCotangents<Real>& cotangents, T* logits_cotangents,
                         Real* bias_parts, Real* buffer) {
  constexpr Real kInfinite = static_cast<Real>(HUGE_VAL);
  const int64_t W = options.width;
  const int64_t V = options.tokens;
  for (int64_t r = begin; r < end; ++r) {
    const int32_t label = labels[r - begin];
    T* out = logits_cotangents + r * W;
    if (IsPadding(label, V)) {
      memset(out, 0, W * sizeof(T));
      if (bias_parts != nullptr && r % biases.rows % kBiasPartRows == 0) {
        memset(buffer, 0, W * sizeof(Real));
        AddToPart(buffer, r, W, biases, bias_parts);
      }
      continue;
    }
    const Real from_sum = cotangents.sums[r];
    const bool has_sum = from_sum != 0 && log_sums[r] > -kInfinite && log_sums[r] < kInfinite;
    const Real* x = has_sum ? Read(logits, r, W, biases, buffer) : nullptr;
    Real* row = RowToWrite(out, buffer);
    if (has_sum) {
      ScaledSoftmax(x, V, maxima[r], log_sums[r], from_sum, row);
      if (options.without_blank) row[options.blank] = 0;
      if (options.without_label && label != kNoLabel) row[label] = 0;
    }
    const int64_t zeros = has_sum ? V : 0;
    memset(row + zeros, 0, (W - zeros) * sizeof(Real));
    row[options.blank] += cotangents.blanks[r];
    if (label != kNoLabel) row[label] += cotangents.labels[r];
    for (int i = 0; i < options.pick_count; ++i) row[options.picks[i]] += cotangents.picks[i][r];
    if (bounds != nullptr && bounds[r] < kInfinite) CutRow(bounds[r], W, row);
    if (bias_parts != nullptr) AddToPart(row, r, W, biases, bias_parts);
    WriteRow(row, W, out);
  }
}

#define JAX_RNNT_INSTANTIATE(T, Real)                                                 \
  template void EntriesForwardRows(int64_t, int64_t, const EntriesOptions&, const T*, \
                                   const RowBiases<Real>&, const int32_t*,            \
                                   const EntriesResults<Real>&, Real*);
JAX_RNNT_INSTANTIATE(float, float)
JAX_RNNT_INSTANTIATE(BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, float)
JAX_RNNT_INSTANTIATE(double, double)
#undef JAX_RNNT_INSTANTIATE

#define JAX_RNNT_INSTANTIATE(Logit, T, Real)                                                      \
  template void EntriesBackwardRows(int64_t, int64_t, const EntriesOptions&, const Logit*,        \
                                    const RowBiases<Real>&, const int32_t*, const Real*,          \
                                    const Real*, const Real*, const EntriesCotangents<Real>&, T*, \
                                    Real*, Real*);
JAX_RNNT_INSTANTIATE(float, float, float)
JAX_RNNT_INSTANTIATE(BFloat16, BFloat16, float)
JAX_RNNT_INSTANTIATE(Float16, Float16, float)
JAX_RNNT_INSTANTIATE(double, double, double)
JAX_RNNT_INSTANTIATE(float, BFloat16, float)
JAX_RNNT_INSTANTIATE(float, Float16, float)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE
