// Rows on CPU: the logarithm of a sum over each row, entries of it, and the gradient back.
#ifndef JAX_RNNT_CPU_ROWS_ENTRIES_H_
#define JAX_RNNT_CPU_ROWS_ENTRIES_H_

#include <cstdint>

#include "core/entries.h"
#include "core/half.h"
#include "core/row_label.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// For each row x of logits (rows, W), labelled as core/row_label.h says among V tokens, with the
// core C of core/entries.h:
//   maximum = max_C x_v,  log_sum = log sum_C exp(x_v - maximum)
// and x_blank, x_label and x_pick as they are. A padding row is not read: maximum = log_sum = 0,
// all entries -inf. A core that is empty or all -inf has maximum 0 and log_sum -inf; one with NaN
// or +inf has maximum 0 and log_sum NaN. Where the row has no label, its x_label is -inf. T is
// float, BFloat16, Float16 (Real float) or double (Real double).
template <typename T, typename Real>
void EntriesForward(int64_t rows, const EntriesOptions& options, const T* logits,
                    const RowLabels& labels, const EntriesResults<Real>& results,
                    const ParallelFor& parallel_for);

// With c the cotangents,
//   g_v = c_sum exp((x_v - maximum) - log_sum) [v in C] + sum of c of the entries that are v.
// A padding row is zeros. It is not read, nor is one where c_sum is zero or log_sum not finite,
// which has no first term. logits_cotangents may be logits.
template <typename T, typename Real>
void EntriesBackward(int64_t rows, const EntriesOptions& options, const T* logits,
                     const RowLabels& labels, const Real* maxima, const Real* log_sums,
                     const EntriesCotangents<Real>& cotangents, T* logits_cotangents,
                     const ParallelFor& parallel_for);

// The same of rows whose logits are x + bias, with biases (biases, W), for Real = float and double.
template <typename Real>
void EntriesForwardBiased(int64_t rows, const EntriesOptions& options, const Real* logits,
                          const RowBiases<Real>& biases, const RowLabels& labels,
                          const EntriesResults<Real>& results, const ParallelFor& parallel_for);

// The same with x + bias in place of x, rows a multiple of biases.rows. Each g_v is then cut to
// [-bound, bound], the row's of bounds (rows), each of 0 or more, and rounded to T; NaN stays NaN.
// The bias' gradient is the sum over its parts, of
//   bias_parts[p, v] = sum of the g_v of the p-th kBiasPartRows rows, before they are rounded,
// (biases, PartsOfBias(rows of each), W). logits_cotangents may be logits where T is Real.
template <typename T, typename Real>
void EntriesBackwardBiased(int64_t rows, const EntriesOptions& options, const Real* logits,
                           const RowBiases<Real>& biases, const RowLabels& labels,
                           const Real* bounds, const Real* maxima, const Real* log_sums,
                           const EntriesCotangents<Real>& cotangents, T* logits_cotangents,
                           Real* bias_parts, const ParallelFor& parallel_for);

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_ROWS_ENTRIES_H_
