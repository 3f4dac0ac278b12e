// Forward of log_softmax_pick: for each row x of V logits
//
//   maximum        = max_v x_v
//   log_sum        = log sum_v exp(x_v - maximum)
//   blank_log_prob = (x_blank - maximum) - log_sum
//   label_log_prob = (x_label - maximum) - log_sum
//
// The kernels are those of forward.cuh.
#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/bias.cuh"
#include "cuda/rows/forward.cuh"
#include "cuda/rows/left_out.cuh"
#include "cuda/rows/pick.h"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

// A row's first lane keeps the logits of the blank and of the label, and stores all.
template <typename Acc>
struct PickRule {
  using Results = RowResults<Acc>;
  using Bias = NoBias;
  struct Kept {
    Acc blank_logit = 0;
    Acc label_logit = 0;
  };
  static constexpr int kStoringLanes = 1;

  __host__ __device__ __forceinline__ int32_t Width(int32_t V) const { return V; }
  __device__ __forceinline__ NothingLeftOut LeftOutOf(int32_t) const { return {}; }
  __device__ __forceinline__ Bias BiasOf(int64_t) const { return {}; }

  template <typename T>
  __device__ __forceinline__ void Keep(const Results&, const T* logits, int32_t label, int lane,
                                       Kept* kept) const {
    if (lane == 0) {
      kept->blank_logit = ToAccumulator(logits[blank]);
      kept->label_logit = ToAccumulator(logits[label == kNoLabel ? blank : label]);
    }
  }

  template <int kLanes, typename T>
  __device__ __forceinline__ void Store(const Results& results, int64_t row, Acc reference, Acc sum,
                                        Acc log_scale, const Kept& kept, const T*, int32_t label,
                                        int) const {
    StoreRow(results, row, reference, sum, log_scale, kept.blank_logit, kept.label_logit, label);
  }

  template <int kLanes>
  __device__ __forceinline__ void StorePadding(const Results& results, int64_t row, int) const {
    StorePaddingRow(results, row);
  }

  template <typename T>
  __device__ __forceinline__ void TakeFromTile(const Results&, int64_t, unsigned char*, uint32_t,
                                               const int32_t*, int) const {}

  template <typename T>
  __device__ __forceinline__ void StoreFromTile(const Results& results, int64_t row, Acc reference,
                                                Acc sum, Acc log_scale, const T* logits,
                                                int32_t label) const {
    StoreRow(results, row, reference, sum, log_scale, ToAccumulator(logits[blank]),
             ToAccumulator(logits[label == kNoLabel ? blank : label]), label);
  }

  __device__ __forceinline__ void StorePaddingFromTile(const Results& results, int64_t row) const {
    StorePaddingRow(results, row);
  }

  int32_t blank;
};

}  // namespace

template <typename T>
cudaError_t PickForward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                        const T* logits, const RowLabels& labels,
                        typename Accumulator<T>::Type* blank_log_probs,
                        typename Accumulator<T>::Type* label_log_probs,
                        typename Accumulator<T>::Type* maxima,
                        typename Accumulator<T>::Type* log_sums) {
  if (rows < 0 || V < 1 || blank < 0 || blank >= V) return cudaErrorInvalidValue;
  using Acc = typename Accumulator<T>::Type;
  return Forward<T>(stream, rows, V, logits, labels,
                    RowResults<Acc>{blank_log_probs, label_log_probs, maxima, log_sums},
                    PickRule<Acc>{blank});
}

#define JAX_RNNT_INSTANTIATE(T)                                                                   \
  template cudaError_t PickForward<T>(                                                            \
      cudaStream_t, int64_t, int32_t, int32_t, const T*, const RowLabels&, Accumulator<T>::Type*, \
      Accumulator<T>::Type*, Accumulator<T>::Type*, Accumulator<T>::Type*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
