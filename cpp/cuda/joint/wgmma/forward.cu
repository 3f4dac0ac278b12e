// JointForward (cuda/joint/forward.h) by wgmma. For every cell (n, t, u) that is not padding, with
// x = dropout(activation(encoder[n / K, t] + predictor[n, u])) of H numbers rounded to T and C the
// core of the row (core/entries.h):
//
//   logit_v       = sum_h x_h kernel[h, v] + bias_v
//   maximum       = max_{v in C} logit_v
//   log_sum       = log sum_{v in C} exp(logit_v - maximum)
//   blank_logit, label_logit and pick_logits: single logits
//
// Pointers (T is __nv_bfloat16 or __half):
//   encoder (N / K, T, H), predictor (N, U, H) of T
//   labels (N, U), frames (N), sequences (N) of int32, seed (2) of uint32
//   packed_kernel, packed_bias as cuda/joint/wgmma/pack.cu has them
//   maxima, log_sums, blank_logits, label_logits, pick_logits[i] (N, T, U) of float
//
// A block takes a tile of cells, whose logits come chunk by chunk as run_tile.cuh says. A chunk's
// logits add to the running maxima and sums of their rows and are forgotten (entries_epilogue.cuh).
//
//   - Two rows of a thread's accumulators are two frames of one column: they share their label.
//   - What is not in the core becomes -inf once single logits have been taken: the sum itself knows
//     no options.
//   - Dropout has a kernel of its own: as a branch among the activations it made those without it
//     3 % slower. At a rate of 0.2 the kernel takes 8 to 11 % longer than the one without.
//   - Nothing is atomic and no order varies: the same inputs give the same bits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/joint/activation_blocks.cuh"
#include "cuda/joint/entries_epilogue.cuh"
#include "cuda/joint/forward_tiles.cuh"
#include "cuda/joint/launch_blocks.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma/products.cuh"
#include "cuda/joint/wgmma/run_tile.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename T, int kWarpgroups, bool kHasDropout>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointForwardKernel(const __grid_constant__ ForwardArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kGroupFrames;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ unsigned char shared[];
  const Tile tile = TileOfBlock<kTileFrames>(arguments);
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
          return ActivationBlocks<T, kWarpgroupThreads, 1, false, kHasDropout>(
              inputs, tile, warpgroup, lines, block_bytes);
        };
        const EntriesEpilogue<T> entries(arguments, tile, label);
        JointRow parts[1][2];
        MultiplySlices(
            inputs, ring, warpgroup, lines, block_bytes, activations,
            [&](int32_t first_v, auto& logits) { entries(first_v, WarpFrame(), logits, parts); });

        const JointRow rows[2] = {MergeOverLanes<4>(parts[0][0]), MergeOverLanes<4>(parts[0][1])};
        // A quad has two rows; its first two lanes store one each.
        const int row = threadIdx.x % 4;
        const CellPair cells = FindCells(inputs, tile, WarpFrame()(), label);
        if (row >= min(2, cells.stored)) return;
        StoreCell(
            arguments.results, cells.first + row * inputs.shape.U, label, row < cells.real,
            {row == 0 ? rows[0].maximum : rows[1].maximum, row == 0 ? rows[0].sum : rows[1].sum});
      });
}

template <typename T, int kWarpgroups>
cudaError_t Launch(cudaStream_t stream, unsigned int tiles, const ForwardArguments<T>& arguments) {
  const auto kernel = arguments.inputs.dropout.threshold == 0
                          ? JointForwardKernel<T, kWarpgroups, false>
                          : JointForwardKernel<T, kWarpgroups, true>;
  return LaunchBlocks(stream, kernel, tiles, JointThreads(kWarpgroups), arguments);
}

}  // namespace

template <typename T>
cudaError_t LaunchWgmmaForward(cudaStream_t stream, unsigned int tiles,
                               const ForwardArguments<T>& arguments) {
  return arguments.inputs.plan.groups == 2 ? Launch<T, 2>(stream, tiles, arguments)
                                           : Launch<T, 1>(stream, tiles, arguments);
}

#define JAX_RNNT_INSTANTIATE(T) \
  template cudaError_t LaunchWgmmaForward<T>(cudaStream_t, unsigned int, const ForwardArguments<T>&)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
