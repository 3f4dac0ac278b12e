// What JointForward's blocks take in: the kernel's arguments, a block's tile, and what is stored of
// cells besides single logits.
#ifndef JAX_RNNT_CUDA_JOINT_FORWARD_TILES_CUH_
#define JAX_RNNT_CUDA_JOINT_FORWARD_TILES_CUH_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

template <typename T>
struct ForwardArguments {
  TileInputs<T> inputs;
  ChunkOptions options;
  uint32_t frame_tiles;   // of a sequence
  uint32_t column_tiles;  // of a sequence
  EntriesResults<float> results;
};

// Enqueue the kernel of either instruction, `tiles` blocks of it.
template <typename T>
cudaError_t LaunchWgmmaForward(cudaStream_t stream, unsigned int tiles,
                               const ForwardArguments<T>& arguments);
template <typename T>
cudaError_t LaunchMmaForward(cudaStream_t stream, unsigned int tiles,
                             const ForwardArguments<T>& arguments);

// The tile of a block of kTileFrames frames.
template <int kTileFrames, typename T>
__device__ __forceinline__ Tile TileOfBlock(const ForwardArguments<T>& arguments) {
  const uint32_t line = blockIdx.x / arguments.frame_tiles;
  const uint32_t n = line / arguments.column_tiles;
  return {static_cast<int32_t>(n),
          static_cast<int32_t>((blockIdx.x - line * arguments.frame_tiles) * kTileFrames),
          static_cast<int32_t>((line - n * arguments.column_tiles) * kTileColumns)};
}

// Stores a tile that is nothing but padding, by all threads of the block: a cell each.
template <int kTileFrames, typename T>
__device__ __forceinline__ void StorePaddingTile(const ForwardArguments<T>& arguments,
                                                 const Tile& tile) {
  const int column = threadIdx.x % kTileColumns;
  const int frame = threadIdx.x / kTileColumns;
  if (frame < kTileFrames && tile.first_frame + frame < arguments.inputs.shape.T &&
      tile.first_column + column < arguments.inputs.shape.U) {
    const EntriesResults<float>& results = arguments.results;
    const int64_t cell = CellRow(arguments.inputs, tile, frame, column);
    results.maxima[cell] = results.log_sums[cell] = 0.f;
    results.blank_logits[cell] = results.label_logits[cell] = kMinusInfinity<float>;
    for (int i = 0; i < arguments.options.entries.pick_count; ++i) {
      results.pick_logits[i][cell] = kMinusInfinity<float>;
    }
  }
}

// A row while its columns pass: their maximum, and the sum of their exponentials over a base that
// goes with the maximum. The base is 2^scaled, `scaled` being the maximum times log2(e), rounded:
// changes of the base are then exact in the exponent. Of a large maximum, which is subtracted from
// the logits, it is e^maximum.
struct JointRow {
  float maximum = kMinusInfinity<float>;
  float sum = 0.f;
};

// The factor of a row's sum when its maximum rises. It is 0 where there was none: the sum was 0 or
// NaN, which lasts. Without a branch: the chains of instructions of several rows are side by side.
__device__ __forceinline__ float BaseFactor(float maximum, float new_maximum) {
  const float reference = ExponentReference(new_maximum);
  return Exp2(IsLargeMaximum(reference)
                  ? __fmul_rn(maximum - reference, kLog2E)
                  : __fmul_rn(maximum, kLog2E) - __fmul_rn(reference, kLog2E));
}

__device__ __forceinline__ JointRow Merge(const JointRow& a, const JointRow& b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  return {maximum, a.sum * BaseFactor(a.maximum, maximum) + b.sum * BaseFactor(b.maximum, maximum)};
}

// The row whose columns kLanes neighbouring lanes share, in all of these lanes.
template <int kLanes>
__device__ __forceinline__ JointRow MergeOverLanes(const JointRow& row) {
  const float maximum = MaxOverLanes<kLanes>(row.maximum);
  return {maximum, SumOverLanes<kLanes>(row.sum * BaseFactor(row.maximum, maximum))};
}

// Stores what a cell has besides single logits: the sum, and the logit of a label that is none.
__device__ __forceinline__ void StoreCell(const EntriesResults<float>& results, int64_t cell,
                                          int32_t label, bool is_real, const JointRow& row) {
  if (is_real) {
    const float reference = ExponentReference(row.maximum);
    StoreSum(results.maxima, results.log_sums, cell, reference, row.sum,
             -__fmul_rn(ScaleForSum(reference).residual, kLn2));
  } else {
    results.maxima[cell] = results.log_sums[cell] = 0.f;
  }
  if (label == kNoLabel || label == kPaddingRow) {
    results.label_logits[cell] = kMinusInfinity<float>;
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_FORWARD_TILES_CUH_
