// ForwardRowsKernel: the forward of rows of any length at any alignment (forward.cuh has the choice
// between the kernels, and says what a Rule is).
#ifndef JAX_RNNT_CUDA_ROWS_FORWARD_ROWS_CUH_
#define JAX_RNNT_CUDA_ROWS_FORWARD_ROWS_CUH_

#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/bias.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/left_out.cuh"
#include "cuda/rows/row_labels.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

constexpr int kRowsThreads = 128;

// Threads of a block, and blocks asked for on a multiprocessor. A block that takes one row waits
// for its label, its row and its other warps in turn, while only other blocks keep the memory busy.
// Blocks of up to 256 threads are therefore held to 32 registers a thread, with which a
// multiprocessor is full of them. A bias takes more.
constexpr int RowsThreads(int lanes) { return lanes > kWarpSize ? lanes : kRowsThreads; }
constexpr int RowsBlocks(int lanes, bool has_bias) {
  const bool is_full = !has_bias && lanes > kWarpSize && lanes <= 256;
  return is_full ? ResidentBlocks(lanes, 2048 / lanes) : 0;  // 0: the compiler decides
}

__device__ __forceinline__ void AddElement(float logit, PartialRow* part) {
  const float maximum = fmaxf(part->maximum, logit);
  part->sum = fmaf(part->sum, RescaleFactor(part->maximum, maximum),
                   Exp(logit - ExponentReference(maximum)));
  part->maximum = maximum;
}

template <typename T, int kBatch>
__device__ __forceinline__ void AddGranules(uint4 (&granules)[kBatch],
                                            typename Granule<T>::Maximum batch_maximum,
                                            PartialRow* part) {
  constexpr int kElements = Granule<T>::kElements;
  const float maximum = fmaxf(part->maximum, Granule<T>::Reduce(batch_maximum));
  const float reference = ExponentReference(maximum);
  const ScaledMaximum scaled = ScaleForSum(reference);
  if (IsLargeMaximum(reference)) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      granules[k] = Granule<T>::Subtract(granules[k], reference);
    }
  }
  float sums[2] = {0.f, 0.f};
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    float values[kElements];
    Granule<T>::Unpack(granules[k], values);
#pragma unroll
    for (int j = 0; j < kElements; ++j) sums[j % 2] += ScaledExp(values[j], scaled.scaled);
  }
  part->sum = fmaf(part->sum, RescaleFactor(part->maximum, maximum),
                   (sums[0] + sums[1]) * Exp2(-scaled.residual));
  part->maximum = maximum;
}

// This lane's share of the row at `row`: every kLanes-th granule, kBatch of them in flight. The row
// may start at any element. Its first and last granule hold elements of neighbouring rows, which
// are masked, as are columns left out. A granule that leaves the tensor [tensor_begin, tensor_end)
// is not loaded: lane 0 takes the row's elements in it one by one.
template <typename T, int kLanes, int kBatch, typename LeftOut, typename Bias>
__device__ __forceinline__ PartialRow SumShareOfRow(const T* row, const T* tensor_begin,
                                                    const T* tensor_end, uint32_t V, uint32_t lane,
                                                    const LeftOut& left_out, const Bias& bias) {
  using G = Granule<T>;
  constexpr uint32_t kElements = G::kElements;
  const uint32_t skipped =
      static_cast<uint32_t>((reinterpret_cast<uintptr_t>(row) % kGranuleBytes) / sizeof(T));
  const T* aligned_row = row - skipped;
  const uint32_t granules = (skipped + V + kElements - 1) / kElements;
  const uint32_t begin = aligned_row < tensor_begin ? 1 : 0;
  const bool passes_end = aligned_row + static_cast<int64_t>(granules) * kElements > tensor_end;
  const uint32_t end = granules - (passes_end ? 1 : 0);

  // This comes before the loop: after it, what it needs would be kept in 8 registers meanwhile.
  PartialRow part;
  if (lane == 0 && (begin != 0 || passes_end)) {
    const uint32_t head = begin != 0 ? min(kElements - skipped, V) : 0;
#pragma unroll 1
    for (uint32_t column = 0; column < head; ++column) {
      if (!left_out.Has(column)) AddElement(bias.Add(ToAccumulator(row[column]), column), &part);
    }
    if (passes_end) {
#pragma unroll 1
      for (uint32_t column = max(head, end * kElements > skipped ? end * kElements - skipped : 0);
           column < V; ++column) {
        if (!left_out.Has(column)) AddElement(bias.Add(ToAccumulator(row[column]), column), &part);
      }
    }
  }
// Unrolled, this loop takes 96 to 227 registers, not 32 to 48.
#pragma unroll 1
  for (uint32_t first = lane; first < end; first += kLanes * kBatch) {
    uint4 batch[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const uint32_t index = first + k * kLanes;
      batch[k] = index >= begin && index < end
                     ? __ldg(reinterpret_cast<const uint4*>(aligned_row) + index)
                     : G::MinusInfinities();
    }
    bias.template AddToGranules<kLanes>(first, skipped, begin, end, V, batch);
    left_out.template Mask<T, kLanes>(first, skipped, batch);
    typename G::Maximum batch_maximum = G::LowestMaximum();
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const uint32_t index = first + k * kLanes;
      if (index == 0 || index == granules - 1) {
        batch[k] = G::MaskColumns(batch[k], index * kElements - skipped, V);
      }
      batch_maximum = G::Max(batch_maximum, batch[k]);
    }
    AddGranules<T>(batch, batch_maximum, &part);
  }
  return part;
}

template <int kLanes>
__device__ __forceinline__ PartialRow CombineLanes(PartialRow part) {
  PartialRow row;
  row.maximum = MaxOverLanes<kLanes>(part.maximum);
  row.sum = SumOverLanes<kLanes>(part.sum * RescaleFactor(part.maximum, row.maximum));
  return row;
}

// Combines the parts of a block's warps; the result is valid in the first warp alone.
template <int kWarps>
__device__ __forceinline__ PartialRow CombineWarps(PartialRow part) {
  __shared__ float maxima[kWarps];
  __shared__ float sums[kWarps];
  const int lane = threadIdx.x % kWarpSize;
  if (lane == 0) {
    maxima[threadIdx.x / kWarpSize] = part.maximum;
    sums[threadIdx.x / kWarpSize] = part.sum;
  }
  // The warps' parts become visible to the first warp.
  __syncthreads();
  if (threadIdx.x >= kWarpSize) return part;
  PartialRow warp_part;
  if (lane < kWarps) {
    warp_part.maximum = maxima[lane];
    warp_part.sum = sums[lane];
  }
  return CombineLanes<kWarpSize>(warp_part);
}

// kLanes lanes take each row: up to a warp, several rows share a block of kRowsThreads; beyond, a
// block of kLanes threads takes one row.
template <typename T, int kLanes, int kBatch, typename Rule>
__global__ void __launch_bounds__(RowsThreads(kLanes), RowsBlocks(kLanes, Rule::Bias::kIsThere))
    ForwardRowsKernel(const T* __restrict__ logits, DeviceRowLabels labels,
                      typename Rule::Results results, int64_t rows, int32_t V, Rule rule) {
  constexpr bool kIsBlockPerRow = kLanes > kWarpSize;
  constexpr int kRowsPerBlock = kIsBlockPerRow ? 1 : kRowsThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock;
  const uint32_t block_row = threadIdx.x / kLanes;
  const int64_t row = first_row + block_row;
  const RowLabelRun row_labels(labels, first_row);
  const int32_t label = row < rows ? row_labels.Label(block_row) : kPaddingRow;
  const bool is_padding = IsPaddingRow(label, V);

  PartialRow part;
  typename Rule::Kept kept;
  if (!is_padding) {
    const T* row_logits = logits + row * rule.Width(V);
    const typename Rule::Bias bias = rule.BiasOf(row);
    rule.Keep(results, bias.With(row_logits), label, lane, &kept);
    part = SumShareOfRow<T, kLanes, kBatch>(row_logits, logits, logits + rows * rule.Width(V), V,
                                            lane, rule.LeftOutOf(label), bias);
  }
  part = CombineLanes<kIsBlockPerRow ? kWarpSize : kLanes>(part);
  if constexpr (kIsBlockPerRow) part = CombineWarps<kLanes / kWarpSize>(part);
  if (lane < Rule::kStoringLanes && row < rows) {
    if (is_padding) {
      rule.template StorePadding<kLanes>(results, row, lane);
    } else {
      rule.template Store<kLanes>(results, row, ExponentReference(part.maximum), part.sum, 0.f,
                                  kept, rule.BiasOf(row).With(logits + row * rule.Width(V)), label,
                                  lane);
    }
  }
}

template <typename T, int kLanes, int kBatch, typename Rule>
cudaError_t LaunchForwardRows(cudaStream_t stream, int64_t rows, int32_t V, const T* logits,
                              const DeviceRowLabels& labels, const typename Rule::Results& results,
                              const Rule& rule) {
  constexpr int kThreads = RowsThreads(kLanes);
  ForwardRowsKernel<T, kLanes, kBatch>
      <<<CountBlocks(rows, kThreads / kLanes), kThreads, 0, stream>>>(logits, labels, results, rows,
                                                                      V, rule);
  return cudaGetLastError();
}

template <int kLanesValue, int kBatchValue>
struct RowsSplit {
  static constexpr int kLanes = kLanesValue;
  static constexpr int kBatch = kBatchValue;
};

// The number of lanes follows the row's bytes, so that each lane has 4 to 5 granules or loops:
// threads that outnumber the granules leave 13 to 60 % of the bandwidth. 16-bit rows have twice the
// arithmetic in a granule and are bound by instructions up to 1.5 KB, where fewer lanes spend less
// on combining: with the packed maximum, 16 lanes in place of 32 took bfloat16 V = 1024 from 79 to
// 99 %.
template <typename T, typename Rule>
cudaError_t DispatchRows(cudaStream_t stream, int64_t rows, int32_t V, const T* logits,
                         const DeviceRowLabels& labels, const typename Rule::Results& results,
                         const Rule& rule) {
  const int64_t row_bytes = static_cast<int64_t>(V) * sizeof(T);
  const auto launch = [&](auto split) {
    return LaunchForwardRows<T, decltype(split)::kLanes, decltype(split)::kBatch>(
        stream, rows, V, logits, labels, results, rule);
  };
  if (row_bytes <= 512) return launch(RowsSplit<2, 4>());
  if constexpr (sizeof(T) == 2) {
    if (row_bytes <= 1536) return launch(RowsSplit<8, 4>());
  }
  if (row_bytes <= 2560) return launch(RowsSplit<16, 4>());
  if (row_bytes <= 6144) return launch(RowsSplit<32, 4>());
  if (row_bytes <= 12288) return launch(RowsSplit<128, 3>());
  if constexpr (Rule::Bias::kIsThere) {
    // With a bias, 4096 floats come at 2.91 TB/s, and at 2.57 from 256 lanes (2.98 without one).
    if (row_bytes <= 24576) return launch(RowsSplit<128, 4>());
  }
  if (row_bytes <= 49152) return launch(RowsSplit<256, 3>());
  return launch(RowsSplit<512, 4>());
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_FORWARD_ROWS_CUH_
