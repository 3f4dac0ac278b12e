// The row kernels that all other normalisations than log_softmax_pick are made of: EntriesForward
// sums a row's exponentials over its core and copies single logits out of it, EntriesBackward goes
// back from the cotangents of both. core/entries.h says what the options mean, core/row_label.h
// what a row's label does; a label is in [0, tokens).
#ifndef JAX_RNNT_CUDA_ROWS_ENTRIES_H_
#define JAX_RNNT_CUDA_ROWS_ENTRIES_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/rows/accumulator.h"

namespace jax_rnnt::cuda {

// Both functions are instantiated for T = float, __nv_bfloat16, __half and double. They enqueue one
// kernel at most, allocate nothing, synchronise nothing and give the same bits for the same inputs.
// Any labels may stand in `labels`; options that are not valid are cudaErrorInvalidValue. Pointers
// need no more than their type's alignment; logits aligned to 16 bytes are faster.

// For each row x of logits, with C its core:
//   maximum      = max_{v in C} x_v
//   log_sum      = log sum_{v in C} exp(x_v - maximum), nats
//   blank_logit  = x_blank, pick_logits[i] = x_{picks[i]}
//   label_logit  = x_label (-inf for kNoLabel)
// Where C is empty or all of it is -inf: maximum = 0, log_sum = -inf. NaN or +inf in C: maximum =
// 0, log_sum NaN. A padding row is not read: maximum = log_sum = 0, all logits -inf.
//   logits    (rows, W)
//   labels    of as many rows, in either form
//   results   each (rows), written throughout
template <typename T>
cudaError_t EntriesForward(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                           const T* logits, const RowLabels& labels,
                           const EntriesResults<typename Accumulator<T>::Type>& results);

// For each row x of logits, with c_i the cotangents of its entries and v_i their columns:
//   g_v = c_sum exp((x_v - maximum) - log_sum) [v in C] + sum_i c_i [v = v_i]
// The first term is 0, whatever the logits, where c_sum is 0 or log_sum not finite. A row without
// it need not be read. The label's cotangent has no effect where the label is kNoLabel; padding
// rows become zeros.
//   logits              (rows, W)
//   labels              of as many rows, in either form
//   maxima, log_sums    (rows), as EntriesForward wrote them
//   cotangents          each (rows)
//   logits_cotangents   (rows, W), written throughout; may be `logits` itself
template <typename T>
cudaError_t EntriesBackward(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                            const T* logits, const RowLabels& labels,
                            const typename Accumulator<T>::Type* maxima,
                            const typename Accumulator<T>::Type* log_sums,
                            const EntriesCotangents<typename Accumulator<T>::Type>& cotangents,
                            T* logits_cotangents);

// The same of rows whose logits are x + bias, for Real = float and double.
//   biases    (biases, W)
template <typename Real>
cudaError_t EntriesForwardBiased(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                                 const Real* logits, const RowBiases<Real>& biases,
                                 const RowLabels& labels, const EntriesResults<Real>& results);

// The same, with x + bias in place of x; each g_v is then cut to [-bound, bound] of its row, and
// rounded to T. NaN stays NaN. The bias' gradient is the sum over its parts:
//   bias_parts[p, v] = sum of the g_v of the p-th kBiasPartRows rows, before they are rounded
//   biases              (biases, W)
//   bounds              (rows), each of 0 or more
//   logits_cotangents   (rows, W); may be `logits` itself where T is Real
//   bias_parts          (biases, PartsOfBias(rows of each), W), written throughout
template <typename T>
cudaError_t EntriesBackwardBiased(
    cudaStream_t stream, int64_t rows, const EntriesOptions& options,
    const typename Accumulator<T>::Type* logits,
    const RowBiases<typename Accumulator<T>::Type>& biases, const RowLabels& labels,
    const typename Accumulator<T>::Type* bounds, const typename Accumulator<T>::Type* maxima,
    const typename Accumulator<T>::Type* log_sums,
    const EntriesCotangents<typename Accumulator<T>::Type>& cotangents, T* logits_cotangents,
    typename Accumulator<T>::Type* bias_parts);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ENTRIES_H_
