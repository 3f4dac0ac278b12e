// The row kernels of the loss. PickForward takes a log-softmax over each row of V logits and keeps
// two entries of it, the blank's and the row's own label's. PickBackward goes back from the
// cotangents of the two to the cotangents of the row's logits. Rows know nothing of lattices;
// core/row_label.h says what a row's label means.
//
//   pick.h, entries.h        the functions: log_softmax_pick's, and those of all other rows
//   pick_forward.cu,         what the forward takes of a row
//   entries_forward.cu
//   forward.cuh              the choice among the forward's kernels
//   forward_tile.cuh         rows of up to 512 logits, by tiles of whole rows
//   forward_rows.cuh         every other row
//   left_out.cuh             columns that a row's sum leaves out
//   pick_backward.cu,        the backward's equations, and what its kernels do to a row
//   entries_backward.cu
//   backward.cuh             the backward's kernels
//   row_cotangents.cuh       a granule of logits turned into cotangents; which rows become zeros:
//   entry_cotangents.cuh     log_softmax_pick's rows, and all others
//   row_labels.cuh           labels by row and by column, as kernels read them
//   row_sums.cuh             a row's running maximum and sum, and what is stored of it
//   exponents.cuh            exponentials relative to a maximum
//   accumulator.h            the type in which rows are summed
#ifndef JAX_RNNT_CUDA_ROWS_PICK_H_
#define JAX_RNNT_CUDA_ROWS_PICK_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/row_label.h"
#include "cuda/rows/accumulator.h"

namespace jax_rnnt::cuda {

// Both functions are instantiated for T = float, __nv_bfloat16, __half and double. They enqueue one
// kernel at most, allocate nothing, synchronise nothing and give the same bits for the same inputs.
// Any labels may stand in `labels`; `blank` outside [0, V) or V < 1 is cudaErrorInvalidValue.
// Pointers need no more than their type's alignment; logits aligned to 16 bytes are faster.

// For each row x of logits:
//   maximum         = max_v x_v                       (0 if every x_v is -inf)
//   log_sum         = log sum_v exp(x_v - maximum)    (+inf if every x_v is -inf), nats
//   blank_log_prob  = (x_blank - maximum) - log_sum
//   label_log_prob  = (x_label - maximum) - log_sum   (-inf for kNoLabel)
// A padding row is not read: maximum = log_sum = 0, both log-probabilities -inf.
// NaN or +inf among the logits makes log_sum and the log-probabilities NaN.
//   logits           (rows, V)
//   labels           of as many rows, in either form
//   blank_log_probs, label_log_probs, maxima, log_sums   (rows), written throughout
template <typename T>
cudaError_t PickForward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                        const T* logits, const RowLabels& labels,
                        typename Accumulator<T>::Type* blank_log_probs,
                        typename Accumulator<T>::Type* label_log_probs,
                        typename Accumulator<T>::Type* maxima,
                        typename Accumulator<T>::Type* log_sums);

// For each row x of logits, with c_label = 0 where the label is kNoLabel:
//   g_v = c_blank [v = blank] + c_label [v = label] - (c_blank + c_label) softmax_v
//   softmax_v = exp((x_v - maximum) - log_sum)
// Rows whose two cotangents are zero, rows whose log_sum is not finite and padding rows become
// zeros, whatever their logits.
//   logits                              (rows, V)
//   labels                              of as many rows, in either form
//   maxima, log_sums                    (rows), as PickForward wrote them
//   blank_cotangents, label_cotangents  (rows)
//   logits_cotangents                   (rows, V), written throughout; may be `logits` itself
template <typename T>
cudaError_t PickBackward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                         const T* logits, const RowLabels& labels,
                         const typename Accumulator<T>::Type* maxima,
                         const typename Accumulator<T>::Type* log_sums,
                         const typename Accumulator<T>::Type* blank_cotangents,
                         const typename Accumulator<T>::Type* label_cotangents,
                         T* logits_cotangents);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_PICK_H_
