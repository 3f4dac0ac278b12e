// Backward of the entries of rows (entries.h has the equations), by the kernels of backward.cuh.
#include <cstdint>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/backward.cuh"
#include "cuda/rows/entries.h"
#include "cuda/rows/entry_cotangents.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename Acc>
struct EntriesRule : CoreColumns {
  using Arrays = EntryCotangentArrays<Acc>;
  template <int kBlockElements>
  using Block = EntryBlock<kBlockElements>;

  // A granule must not reach the end of a second row's tokens.
  int32_t ShortestRow(int32_t) const { return tokens; }

  template <typename T>
  __device__ __forceinline__ Acc ElementCotangent(const Arrays& arrays, const T* logit, int64_t row,
                                                  int32_t column, int32_t) const {
    const int32_t label = RowLabelRun(arrays.labels, row).Label(0);
    if (IsPaddingRow(label, tokens)) return 0;
    const Acc log_sum = __ldg(arrays.log_sums + row);
    const Acc sum_cotangent = __ldg(arrays.sums + row);
    Acc added = 0;
    for (int i = 0; i < arrays.count; ++i) {
      if (column == (i == kLabelEntry ? label : arrays.columns[i])) {
        added += __ldg(arrays.entries[i] + row);
      }
    }
    Acc cotangent = 0;
    if (column < tokens && !IsLeftOut(column, label) && HasSumTerm(sum_cotangent, log_sum)) {
      cotangent =
          sum_cotangent * Softmax(ToAccumulator(*logit), __ldg(arrays.maxima + row), log_sum);
    }
    return cotangent + added;
  }
};

}  // namespace

template <typename T>
cudaError_t EntriesBackward(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                            const T* logits, const RowLabels& labels,
                            const typename Accumulator<T>::Type* maxima,
                            const typename Accumulator<T>::Type* log_sums,
                            const EntriesCotangents<typename Accumulator<T>::Type>& cotangents,
                            T* logits_cotangents) {
  if (rows < 0 || !options.IsValid()) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  using Acc = typename Accumulator<T>::Type;
  const auto arrays = MakeEntryCotangentArrays(options, labels, maxima, log_sums, cotangents);
  const EntriesRule<Acc> rule{
      {options.tokens, options.blank, options.without_blank, options.without_label}};
  return Backward<T>(stream, rows, options.width, logits, arrays, rule, logits_cotangents);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                   \
  template cudaError_t EntriesBackward<T>(cudaStream_t, int64_t, const EntriesOptions&, const T*, \
                                          const RowLabels&, const Accumulator<T>::Type*,          \
                                          const Accumulator<T>::Type*,                            \
                                          const EntriesCotangents<Accumulator<T>::Type>&, T*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
