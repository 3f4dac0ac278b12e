// Forward of the joint network, and the entries of its logits. For every cell (n, t, u) that is not
// padding, with x = dropout(activation(encoder[n / K, t] + predictor[n, u])) of H numbers rounded
// to T and C the core of the row (core/entries.h):
//
//   logit_v       = sum_h x_h kernel[h, v] + bias_v
//   maximum       = max_{v in C} logit_v
//   log_sum       = log sum_{v in C} exp(logit_v - maximum)
//   blank_logit, label_logit and pick_logits: single logits
//
// Pointers (T is __nv_bfloat16 or __half):
//   encoder (N / K, T, H), predictor (N, U, H) of T
//   labels (N, U), frames (N), sequences (N) of int32, seed (2) of uint32
//   packed_kernel, packed_bias as cuda/joint/pack.cu has them
//   maxima, log_sums, blank_logits, label_logits, pick_logits[i] (N, T, U) of float
//
// A block takes a tile of cells, whose logits come chunk by chunk as cuda/joint/tile.cuh says. A
// chunk's logits add to the running maxima and sums of their rows and are forgotten
// (entries_epilogue.cuh).
//
//   - Two rows of a thread's accumulators are two frames of one column: they share their label.
//   - What is not in the core becomes -inf once single logits have been taken: the sum itself knows
//     no options.
//   - A block per tile, not one per multiprocessor: lengths differ, tiles of padding leave at once,
//     and the hardware hands out the rest. The price is the start of each tile, whose first loads
//     nothing hides.
//   - Dropout has a kernel of its own: as a branch among the activations it made those without it 3
//   %
//     slower. At a rate of 0.2 the kernel takes 7 % longer than the one without.
//   - Nothing is atomic and no order varies: the same inputs give the same bits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/joint/activation_blocks.cuh"
#include "cuda/joint/entries_epilogue.cuh"
#include "cuda/joint/forward.h"
#include "cuda/joint/plan.cuh"
#include "cuda/joint/products.cuh"
#include "cuda/joint/run_tile.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename T>
struct ForwardArguments {
  TileInputs<T> inputs;
  ChunkOptions options;
  uint32_t frame_tiles;   // of a sequence
  uint32_t column_tiles;  // of a sequence
  EntriesResults<float> results;
};

template <int kTileFrames, typename T>
__device__ __forceinline__ Tile TileAt(uint32_t index, const ForwardArguments<T>& arguments) {
  const uint32_t line = index / arguments.frame_tiles;
  const uint32_t n = line / arguments.column_tiles;
  return {static_cast<int32_t>(n),
          static_cast<int32_t>((index - line * arguments.frame_tiles) * kTileFrames),
          static_cast<int32_t>((line - n * arguments.column_tiles) * kTileColumns)};
}

// Stores what a padding row has besides its picks.
__device__ __forceinline__ void StorePaddingCell(const EntriesResults<float>& results,
                                                 int64_t cell) {
  results.maxima[cell] = results.log_sums[cell] = 0.f;
  results.blank_logits[cell] = results.label_logits[cell] = kMinusInfinity<float>;
}

template <int kTileFrames, typename T>
__device__ __forceinline__ void StorePaddingTile(const ForwardArguments<T>& arguments,
                                                 const Tile& tile) {
  const int column = threadIdx.x % kTileColumns;
  const int frame = threadIdx.x / kTileColumns;
  if (frame < kTileFrames && tile.first_frame + frame < arguments.inputs.shape.T &&
      tile.first_column + column < arguments.inputs.shape.U) {
    const int64_t cell = CellRow(arguments.inputs, tile, frame, column);
    StorePaddingCell(arguments.results, cell);
    for (int i = 0; i < arguments.options.entries.pick_count; ++i) {
      arguments.results.pick_logits[i][cell] = kMinusInfinity<float>;
    }
  }
}

template <typename T, int kWarpgroups, bool kHasDropout>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointForwardKernel(const __grid_constant__ ForwardArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kWarpgroupFrames;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ unsigned char shared[];
  const Tile tile = TileAt<kTileFrames>(blockIdx.x, arguments);
  // Whether any thread's column has a cell reaches all threads.
  if (!__syncthreads_or(HasCell(inputs, tile))) {
    StorePaddingTile<kTileFrames>(arguments, tile);
    return;
  }

  RunTile<T, kWarpgroups>(
      inputs, shared,
      [&](const SliceRing& ring, int warpgroup, unsigned char* lines, int block_bytes) {
        const int32_t label = ColumnLabel(inputs, tile, AccumulatorCellColumn(threadIdx.x));

        const auto activations = [&] {
          return ActivationBlocks<T, false, kHasDropout>(inputs, tile, warpgroup, lines,
                                                         block_bytes);
        };
        EntriesEpilogue<T> epilogue(inputs, arguments.options, arguments.results, tile, label);
        MultiplySlices(inputs, ring, lines, block_bytes, activations, epilogue);

        const PartialRow parts[2] = {epilogue.Merge(0), epilogue.Merge(1)};
        const float blank_logits[2] = {epilogue.BlankLogit(0), epilogue.BlankLogit(1)};
        const float label_logits[2] = {epilogue.LabelLogit(0), epilogue.LabelLogit(1)};
        // A quad has two rows; its first two lanes store one each.
        const int row = threadIdx.x % 4;
        const CellPair cells = FindCells(inputs, tile, label);
        if (row >= min(2, cells.stored)) return;
        const int64_t cell = cells.first + row * inputs.shape.U;
        const EntriesResults<float>& results = arguments.results;
        if (row >= cells.real) {
          StorePaddingCell(results, cell);
        } else {
          StoreSum(results.maxima, results.log_sums, cell,
                   ExponentReference(row == 0 ? parts[0].maximum : parts[1].maximum),
                   row == 0 ? parts[0].sum : parts[1].sum, 0.f);
          results.blank_logits[cell] = row == 0 ? blank_logits[0] : blank_logits[1];
          results.label_logits[cell] = row == 0 ? label_logits[0] : label_logits[1];
        }
      });
}

template <typename T, int kWarpgroups>
cudaError_t LaunchTiles(cudaStream_t stream, const JointPlan& plan, ForwardArguments<T> arguments) {
  const JointShape& shape = arguments.inputs.shape;
  constexpr int64_t kTileFrames = kWarpgroups * kWarpgroupFrames;
  const int64_t frame_tiles = RoundUp(shape.T, kTileFrames) / kTileFrames;
  const int64_t column_tiles = RoundUp(shape.U, kTileColumns) / kTileColumns;
  constexpr int64_t kMaxTiles = std::numeric_limits<int32_t>::max();
  if (frame_tiles * column_tiles > kMaxTiles / shape.N) return cudaErrorInvalidValue;
  const int64_t tiles = shape.N * frame_tiles * column_tiles;
  arguments.frame_tiles = static_cast<uint32_t>(frame_tiles);
  arguments.column_tiles = static_cast<uint32_t>(column_tiles);
  const auto kernel = arguments.inputs.dropout.threshold == 0
                          ? JointForwardKernel<T, kWarpgroups, false>
                          : JointForwardKernel<T, kWarpgroups, true>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned int>(tiles), JointThreads(kWarpgroups), plan.shared_bytes,
           stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t JointForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                         const EntriesOptions& options, const JointInputs<T>& inputs,
                         const JointPacked& packed, const EntriesResults<float>& results) {
  if (!shape.IsValid() || !options.IsValid() || options.tokens != shape.V ||
      !IsValid(inputs.dropout)) {
    return cudaErrorInvalidValue;
  }
  const JointPlan plan = MakePlan(shape.H, options.width);
  if (plan.warpgroups == 0) return cudaErrorInvalidValue;
  const ForwardArguments<T> arguments{MakeTileInputs(shape, plan, activation, inputs, packed),
                                      MakeChunkOptions(options), 0, 0, results};
  return plan.warpgroups == 2 ? LaunchTiles<T, 2>(stream, plan, arguments)
                              : LaunchTiles<T, 1>(stream, plan, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                      \
  template cudaError_t JointForward<T>(cudaStream_t, const JointShape&, Activation,  \
                                       const EntriesOptions&, const JointInputs<T>&, \
                                       const JointPacked&, const EntriesResults<float>&)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
