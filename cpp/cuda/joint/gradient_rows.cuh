// What JointGradients' blocks take in: the kernel's arguments, a block's tile, a row's cotangents.
#ifndef JAX_RNNT_CUDA_JOINT_GRADIENT_ROWS_CUH_
#define JAX_RNNT_CUDA_JOINT_GRADIENT_ROWS_CUH_

#include <cstdint>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/entry_cotangents.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

template <typename T>
struct GradientsArguments {
  TileInputs<T> inputs;
  ChunkOptions options;
  TileGrid grid;
  bool has_gradient_granules;    // rows of logits_gradients and bias_parts are whole granules at
                                 // aligned addresses
  bool has_activation_granules;  // so are rows of activations
  const int32_t* tiles;
  const float* bounds;
  const float* maxima;
  const float* log_sums;
  EntriesCotangents<float> cotangents;
  T* logits_gradients;
  T* activations;
  float* bias_parts;
};

// Enqueue the kernel of either instruction, plan.groups blocks of it for two groups of frames.
template <typename T>
cudaError_t LaunchWgmmaGradients(cudaStream_t stream, unsigned int blocks,
                                 const GradientsArguments<T>& arguments);
template <typename T>
cudaError_t LaunchMmaGradients(cudaStream_t stream, unsigned int blocks,
                               const GradientsArguments<T>& arguments);

// The tile of a block of `frames` frames, if there is one.
struct ListedTile {
  Tile tile;
  bool is_tile;
};
template <typename T>
__device__ __forceinline__ ListedTile TileOfBlock(const GradientsArguments<T>& arguments,
                                                  int frames) {
  const uint32_t blocks_per_tile = kListedFrames / frames;
  // From one lane, so that the compiler knows the tile to be the same for the whole warp.
  const uint32_t number =
      __shfl_sync(kAllLanes, __ldg(arguments.tiles + blockIdx.x / blocks_per_tile), 0);
  if (number >= arguments.grid.numbers) return {{0, 0, 0}, false};
  const uint32_t block = number / arguments.grid.column_blocks;
  const uint32_t n = block / arguments.grid.frame_blocks;
  return {{static_cast<int32_t>(n),
           static_cast<int32_t>((block - n * arguments.grid.frame_blocks) * kListedFrames +
                                blockIdx.x % blocks_per_tile * frames),
           static_cast<int32_t>((number - block * arguments.grid.column_blocks) * kListedColumns)},
          true};
}

template <typename T>
__device__ __forceinline__ float ReadBound(const GradientsArguments<T>& arguments,
                                           const Tile& tile) {
  return __ldg(arguments.bounds + tile.n);
}

// The numbers that a row's gradient takes besides its logits. All zeros make a row of zeros, which
// a padded cell is.
struct RowCotangents {
  float maximum = 0.f;
  float scale = 0.f;  // of the exponentials relative to the maximum; 0 for a row without them
  float blank = 0.f;
  float label = 0.f;
};

// The numbers of a cell whose label is `label`.
template <typename T>
__device__ __forceinline__ RowCotangents LoadRow(const GradientsArguments<T>& arguments,
                                                 int64_t cell, int32_t label) {
  const EntriesCotangents<float>& cotangents = arguments.cotangents;
  RowCotangents row;
  row.maximum = __ldg(arguments.maxima + cell);
  const float log_sum = __ldg(arguments.log_sums + cell);
  const float sum = __ldg(cotangents.sums + cell);
  row.blank = __ldg(cotangents.blanks + cell);
  if (label != kNoLabel) row.label = __ldg(cotangents.labels + cell);
  if (HasSumTerm(sum, log_sum)) {
    row.scale = sum * expf(-fmaf(ScaleForSum(row.maximum).residual, kLn2, log_sum));
  }
  return row;
}

// Stores `count` zeros by all threads of the block; with granules a multiple of 8.
template <typename Number>
__device__ __forceinline__ void StoreZeros(Number* target, int64_t count, bool has_granules) {
  constexpr int kElements = kGranuleBytes / sizeof(Number);
  if (has_granules) {
    for (int64_t i = threadIdx.x; i < count / kElements; i += blockDim.x) {
      reinterpret_cast<uint4*>(target)[i] = make_uint4(0, 0, 0, 0);
    }
  } else {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) FromAccumulator(0.f, target + i);
  }
}

// The places of a block's results.
template <typename T>
struct BlockResults {
  T* gradients;
  T* activations;
};

// Of a block of kTileRows rows.
template <int kTileRows, typename T>
__device__ __forceinline__ BlockResults<T> ResultsOfBlock(const GradientsArguments<T>& arguments) {
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  const int32_t W = arguments.options.entries.width;
  return {arguments.logits_gradients + first_row * W,
          arguments.activations + first_row * arguments.inputs.shape.H};
}

// Stores the zeros of a block that has no cell but padding.
template <int kTileRows, typename T>
__device__ __forceinline__ void StoreZeroTile(const GradientsArguments<T>& arguments) {
  const BlockResults<T> results = ResultsOfBlock<kTileRows>(arguments);
  const int64_t W = arguments.options.entries.width;
  StoreZeros(results.gradients, kTileRows * W, arguments.has_gradient_granules);
  StoreZeros(results.activations, int64_t{kTileRows} * arguments.inputs.shape.H,
             arguments.has_activation_granules);
  if (arguments.bias_parts != nullptr) {
    const int64_t block_numbers =
        BiasParts(arguments.inputs.plan.products) * kTileRows / kListedCells * W;
    StoreZeros(arguments.bias_parts + blockIdx.x * block_numbers, block_numbers,
               arguments.has_gradient_granules);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_GRADIENT_ROWS_CUH_
