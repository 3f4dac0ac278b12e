// Rows on CPU: two entries of each row's log-softmax, and the gradient back.
#ifndef JAX_RNNT_CPU_ROWS_PICK_H_
#define JAX_RNNT_CPU_ROWS_PICK_H_

#include <cstdint>

#include "core/half.h"
#include "core/row_label.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// For each row x of logits (rows, V), labelled as core/row_label.h says, in nats:
//   m = max_v x_v,  log_sum = log sum_v exp(x_v - m)
//   blank_log_prob = (x_blank - m) - log_sum,  label_log_prob = (x_label - m) - log_sum
// A padding row is not read: m = log_sum = 0, both log-probabilities -inf. A row of nothing but
// -inf has m = 0, log_sum = +inf and both -inf; NaN or +inf in a row makes log_sum and both NaN.
// Where the row has no label, its label_log_prob is -inf. The normaliser is kept as its two terms,
// m and log_sum: rounded to one float32 it would cost a row near 1e4 three digits. T is float,
// BFloat16, Float16 (Real float) or double (Real double).
template <typename T, typename Real>
void PickForward(int64_t rows, int64_t V, int64_t blank, const T* logits, const RowLabels& labels,
                 Real* blank_log_probs, Real* label_log_probs, Real* maxima, Real* log_sums,
                 const ParallelFor& parallel_for);

// With c the cotangents of the two log-probabilities,
//   g_v = c_blank [v = blank] + c_label [v = label] - exp((x_v - m) - log_sum) (c_blank + c_label).
// A row whose cotangents are both zero, whose log_sum is not finite, or which is padding, is
// written as zeros and not read. logits_cotangents may be logits.
template <typename T, typename Real>
void PickBackward(int64_t rows, int64_t V, int64_t blank, const T* logits, const RowLabels& labels,
                  const Real* maxima, const Real* log_sums, const Real* blank_cotangents,
                  const Real* label_cotangents, T* logits_cotangents,
                  const ParallelFor& parallel_for);

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_ROWS_PICK_H_
