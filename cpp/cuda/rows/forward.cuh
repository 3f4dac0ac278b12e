// The forward of row kernels: each row of logits is reduced to its maximum and the sum of the
// exponentials relative to it, and single logits of it are kept. The sum is over the first V of a
// row's logits; what is stored of a row is up to a Rule.
//
// The maximum and the log of the sum stay apart, and every exponent is as good as the difference
// x_v - maximum (ScaledMaximum): with logits near 1e4 the last place of maximum + log_sum is 1e-3,
// while the difference is exact there. In a row of nothing but -inf the maximum is 0: inf - inf
// then occurs only in a row that holds +inf, whose sum is to be NaN.
//
// The forward is bound by reading the logits. Two kernels share the rows; the figures are shares of
// the copy bandwidth by the logits' bytes alone (H100 80GB, 2026-11):
//
//   ForwardTileKernel (forward_tile.cuh) has rows of up to 512 logits. A block takes a tile of
//     whole rows, copied to shared memory in granules of 16 bytes; then 1 to 16 lanes take each
//     row, with the row in registers. Rows this short waste the ends of their memory sectors when
//     read one by one: 28 floats get 88 % from tiles, 69 % from rows.
//   ForwardRowsKernel (forward_rows.cuh) has every other row. 2 to 32 lanes or a block
//     take each row, straight from global memory in one pass with a running maximum: 98 % to 105 %
//     for rows of 2 KB and more. It takes logits of any alignment.
//
// ForwardDoubleKernel, a warp for each row, is a plain kernel for the type of accuracy.
//
// A Rule is passed to kernels by value:
//   Results                       the arrays that it stores to
//   Width(V)                      the logits from the start of a row to the start of the next
//   LeftOutOf(label)              the columns that a row's sum leaves out (left_out.cuh)
//   Bias, BiasOf(row)             what is added to a row's logits (bias.cuh)
//   Kept, Keep                    the logits that a lane reads of a row before it sums its share
//   kStoringLanes                 the number of a row's lanes that store something of it
//   Store<kLanes>, StorePadding   store what belongs to the row and this of its kLanes lanes
// and where rows lie in shared memory,
//   TakeFromTile                  adds the bias, stores or changes a tile's logits before they are
//                                 summed
//   StoreFromTile                 stores what is left to store of a row, StorePaddingFromTile too
#ifndef JAX_RNNT_CUDA_ROWS_FORWARD_CUH_
#define JAX_RNNT_CUDA_ROWS_FORWARD_CUH_

#include <cstdint>
#include <type_traits>

#include "core/row_label.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/forward_rows.cuh"
#include "cuda/rows/forward_tile.cuh"
#include "cuda/rows/row_labels.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// Double is here for accuracy: a warp takes a row, and reads it once for the maximum and once, from
// the caches unless it is long, for the sum. Its block of kRowsThreads was not tuned.
template <typename Rule>
__global__ void __launch_bounds__(kRowsThreads)
    ForwardDoubleKernel(const double* __restrict__ logits, DeviceRowLabels labels,
                        typename Rule::Results results, int64_t rows, int32_t V, Rule rule) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * (kRowsThreads / kWarpSize);
  const int64_t row = first_row + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int32_t label = RowLabelRun(labels, first_row).Label(threadIdx.x / kWarpSize);
  if (IsPaddingRow(label, V)) {
    if (lane < Rule::kStoringLanes) rule.template StorePadding<kWarpSize>(results, row, lane);
    return;
  }
  const auto row_logits = rule.BiasOf(row).With(logits + row * rule.Width(V));
  const auto left_out = rule.LeftOutOf(label);
  double maximum = kMinusInfinity<double>;
  for (uint32_t v = lane; v < static_cast<uint32_t>(V); v += kWarpSize) {
    if (!left_out.Has(v)) maximum = fmax(maximum, row_logits[v]);
  }
  const double reference = ExponentReference(MaxOverLanes<kWarpSize>(maximum));
  double sum = 0;
  for (uint32_t v = lane; v < static_cast<uint32_t>(V); v += kWarpSize) {
    if (!left_out.Has(v)) sum += exp(row_logits[v] - reference);
  }
  sum = SumOverLanes<kWarpSize>(sum);
  if (lane < Rule::kStoringLanes) {
    typename Rule::Kept kept;
    rule.Keep(results, row_logits, label, lane, &kept);
    rule.template Store<kWarpSize>(results, row, reference, sum, 0., kept, row_logits, label, lane);
  }
}

template <typename T, typename Rule>
cudaError_t Forward(cudaStream_t stream, int64_t rows, int32_t V, const T* logits,
                    const RowLabels& row_labels, const typename Rule::Results& results,
                    const Rule& rule) {
  if (rows == 0) return cudaSuccess;
  const DeviceRowLabels labels(row_labels);
  if constexpr (std::is_same_v<T, double>) {
    ForwardDoubleKernel<<<CountBlocks(rows, kRowsThreads / kWarpSize), kRowsThreads, 0, stream>>>(
        logits, labels, results, rows, V, rule);
    return cudaGetLastError();
  } else if (rule.Width(V) <= kTileMaxWidth && IsGranuleAligned(logits)) {
    return DispatchTile<T>(stream, rows, V, logits, labels, results, rule);
  } else {
    return DispatchRows<T>(stream, rows, V, logits, labels, results, rule);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_FORWARD_CUH_
