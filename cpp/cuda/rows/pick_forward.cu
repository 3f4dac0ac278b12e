// Forward of the row kernels: for each row x of V logits
//
//   maximum        = max_v x_v
//   log_sum        = log sum_v exp(x_v - maximum)
//   blank_log_prob = (x_blank - maximum) - log_sum
//   label_log_prob = (x_label - maximum) - log_sum
//
// Pointers (Acc is float, or double for double):
//   logits (rows, V) of T    labels: int32, by row or by column (core/row_label.h)
//   blank_log_probs, label_log_probs, maxima, log_sums (rows) of Acc
//
// The maximum and the log of the sum stay apart, and every exponent is as good as the difference
// x_v - maximum (ScaledMaximum): with logits near 1e4 the last place of maximum + log_sum is 1e-3,
// while the difference is exact there. In a row of nothing but -inf the maximum is 0: inf - inf
// then occurs only in a row that holds +inf, whose sum is to be NaN.
//
// The forward is bound by reading the logits. Two kernels share the rows; the figures are shares of
// the copy bandwidth by the logits' bytes alone (H100 80GB, 2026-11):
//
//   PickForwardTileKernel (pick_forward_tile.cuh) has rows of V <= 512. A block takes a tile of
//     whole rows, copied to shared memory in granules of 16 bytes; then 1 to 16 lanes take each
//     row, with the row in registers. Rows this short waste the ends of their memory sectors when
//     read one by one: float V = 28 gets 88 % from tiles, 69 % from rows.
//   PickForwardRowsKernel (pick_forward_rows.cuh) has every other row. 2 to 32 lanes or a block
//     take each row, straight from global memory in one pass with a running maximum: 98 % to 105 %
//     for rows of 2 KB and more. It takes logits of any alignment.
//
// PickForwardDoubleKernel, a warp for each row, is a plain kernel for the type of accuracy.
#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/pick.h"
#include "cuda/rows/pick_forward_rows.cuh"
#include "cuda/rows/pick_forward_tile.cuh"
#include "cuda/rows/row_labels.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

// Double is here for accuracy: a warp takes a row, and reads it once for the maximum and once, from
// the caches unless it is long, for the sum. Its block of kRowsThreads was not tuned.
__global__ void __launch_bounds__(kRowsThreads)
    PickForwardDoubleKernel(const double* __restrict__ logits, DeviceRowLabels labels,
                            RowResults<double> results, int64_t rows, int32_t V, int32_t blank) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * (kRowsThreads / kWarpSize);
  const int64_t row = first_row + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int32_t label = RowLabelRun(labels, first_row).Label(threadIdx.x / kWarpSize);
  if (IsPaddingRow(label, V)) {
    if (lane == 0) StorePaddingRow(results, row);
    return;
  }
  const double* row_logits = logits + row * V;
  double maximum = kMinusInfinity<double>;
  for (uint32_t v = lane; v < static_cast<uint32_t>(V); v += kWarpSize) {
    maximum = fmax(maximum, row_logits[v]);
  }
  const double reference = ExponentReference(MaxOverLanes<kWarpSize>(maximum));
  double sum = 0;
  for (uint32_t v = lane; v < static_cast<uint32_t>(V); v += kWarpSize) {
    sum += exp(row_logits[v] - reference);
  }
  sum = SumOverLanes<kWarpSize>(sum);
  if (lane == 0) {
    StoreRow(results, row, reference, sum, 0., row_logits[blank],
             row_logits[label == kNoLabel ? blank : label], label);
  }
}

cudaError_t LaunchPickForwardDouble(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                                    const double* logits, const DeviceRowLabels& labels,
                                    const RowResults<double>& results) {
  PickForwardDoubleKernel<<<CountBlocks(rows, kRowsThreads / kWarpSize), kRowsThreads, 0, stream>>>(
      logits, labels, results, rows, V, blank);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t PickForward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                        const T* logits, const RowLabels& row_labels,
                        typename Accumulator<T>::Type* blank_log_probs,
                        typename Accumulator<T>::Type* label_log_probs,
                        typename Accumulator<T>::Type* maxima,
                        typename Accumulator<T>::Type* log_sums) {
  if (rows < 0 || V < 1 || blank < 0 || blank >= V) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const DeviceRowLabels labels(row_labels);
  const RowResults<typename Accumulator<T>::Type> results{blank_log_probs, label_log_probs, maxima,
                                                          log_sums};
  if constexpr (sizeof(T) == sizeof(double)) {
    return LaunchPickForwardDouble(stream, rows, V, blank, logits, labels, results);
  } else if (V <= kTileMaxV && IsGranuleAligned(logits)) {
    return DispatchTile<T>(stream, rows, V, blank, logits, labels, results);
  } else {
    return DispatchRows<T>(stream, rows, V, blank, logits, labels, results);
  }
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
