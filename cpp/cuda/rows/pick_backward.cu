// Backward of log_softmax_pick: for each row x of V logits
//
//   g_v = c_blank [v = blank] + c_label [v = label] - (c_blank + c_label) softmax_v
//   softmax_v = exp((x_v - maximum) - log_sum)
//
// c_label counts as 0 where the label is kNoLabel. Both cotangents count as 0 in a padding row and
// where log_sum is not finite (a row of nothing but -inf, or one with NaN or +inf). A row whose
// cotangents are both 0 is inactive: zeros are written for it, and a granule that holds elements of
// inactive rows alone is not read. The exponent is as good as that of the exact x_v - maximum at
// any offset of the logits (ScaledMaximum). The kernels are those of backward.cuh.
#include <cstddef>
#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/backward.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/pick.h"
#include "cuda/rows/row_cotangents.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename Acc>
struct PickRule {
  using Arrays = RowArrays<Acc>;

  // The cotangents of the blank and of the label are added where the logits are turned into theirs.
  struct NoMarks {
    __device__ __forceinline__ bool HasAny() const { return false; }
  };

  template <int kBlockElements>
  class Block {
   public:
    static size_t Bytes(int row_capacity) { return row_capacity * kBlockRowBytes; }

    __device__ __forceinline__ Block(const PickRule& rule, unsigned char* shared, int row_capacity)
        : blank_(rule.blank) {
      rows_.parameters = reinterpret_cast<RowParameters*>(shared);
      rows_.labels = reinterpret_cast<int32_t*>(rows_.parameters + row_capacity);
      rows_.large_maxima = reinterpret_cast<float*>(rows_.labels + row_capacity);
    }

    __device__ __forceinline__ bool Load(const Arrays& arrays, int64_t first_row, uint32_t,
                                         uint32_t row_count, int32_t V) const {
      return LoadRows(arrays, first_row, row_count, V, rows_);
    }

    template <int kElements, bool kShortRows>
    __device__ __forceinline__ bool NeedsLogits(uint32_t row_count, uint32_t row, uint32_t column,
                                                uint32_t V) const {
      return IsAnyActive<kElements, kShortRows>(rows_, row_count, row, column, V);
    }

    template <bool kBranches, int kElements>
    __device__ __forceinline__ void ToCotangents(bool has_large, uint32_t row, uint32_t column,
                                                 uint32_t V, float (&values)[kElements]) const {
      cuda::ToCotangents<kElements, kBranches>(rows_, has_large, row, column, blank_, V, values);
    }

    template <int kElements>
    __device__ __forceinline__ void ToCotangentsInShortRows(uint32_t row_count, uint32_t row,
                                                            uint32_t column, uint32_t V,
                                                            float (&values)[kElements]) const {
      cuda::ToCotangentsInShortRows<kElements>(rows_, row_count, row, column, blank_, V, values);
    }

    template <int kElements>
    __device__ __forceinline__ NoMarks MarksOf(uint32_t) const {
      return {};
    }

    template <int kElements>
    __device__ __forceinline__ void AddMarked(NoMarks, uint32_t, float (&)[kElements]) const {}

   private:
    BlockRows rows_;
    uint32_t blank_;
  };

  int32_t ShortestRow(int32_t V) const { return V; }

  template <typename T>
  __device__ __forceinline__ Acc ElementCotangent(const Arrays& arrays, const T* logit, int64_t row,
                                                  int32_t column, int32_t V) const {
    const int32_t label = RowLabelRun(arrays.labels, row).Label(0);
    Acc blank_cotangent = 0;
    Acc label_cotangent = 0;
    const Acc log_sum = __ldg(arrays.log_sums + row);
    if (IsUsableRow(label, V, log_sum)) {
      blank_cotangent = __ldg(arrays.blank_cotangents + row);
      if (label != kNoLabel) label_cotangent = __ldg(arrays.label_cotangents + row);
    }
    Acc cotangent = 0;
    if (blank_cotangent != 0 || label_cotangent != 0) {
      cotangent = -(blank_cotangent + label_cotangent) *
                  Softmax(ToAccumulator(*logit), __ldg(arrays.maxima + row), log_sum);
      if (column == blank) cotangent += blank_cotangent;
      if (column == label) cotangent += label_cotangent;
    }
    return cotangent;
  }

  int32_t blank;
};

}  // namespace

template <typename T>
cudaError_t PickBackward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                         const T* logits, const RowLabels& labels,
                         const typename Accumulator<T>::Type* maxima,
                         const typename Accumulator<T>::Type* log_sums,
                         const typename Accumulator<T>::Type* blank_cotangents,
                         const typename Accumulator<T>::Type* label_cotangents,
                         T* logits_cotangents) {
  if (rows < 0 || V < 1 || blank < 0 || blank >= V) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  using Acc = typename Accumulator<T>::Type;
  const RowArrays<Acc> arrays{DeviceRowLabels(labels), maxima, log_sums, blank_cotangents,
                              label_cotangents};
  return Backward<T>(stream, rows, V, logits, arrays, PickRule<Acc>{blank}, logits_cotangents);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                  \
  template cudaError_t PickBackward<T>(cudaStream_t, int64_t, int32_t, int32_t, const T*,        \
                                       const RowLabels&, const Accumulator<T>::Type*,            \
                                       const Accumulator<T>::Type*, const Accumulator<T>::Type*, \
                                       const Accumulator<T>::Type*, T*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
