// JointGradients (cuda/joint/gradients.h) by wgmma. For every cell (n, t, u) of a tile that is not
// padding, with x = dropout(activation(encoder[n / K, t] + predictor[n, u])) rounded to T, C the
// core of the row, and c_i, v_i the cotangents and columns of its entries:
//
//   logit_v = sum_h x_h kernel[h, v] + bias_v
//   g_v     = c_sum exp((logit_v - maximum) - log_sum) [v in C] + sum_i c_i [v = v_i]
//
// clamped to [-bounds[n], bounds[n]]; NaN stays NaN.
//
// Pointers (T is __nv_bfloat16 or __half):
//   encoder (N / K, T, H), predictor (N, U, H) of T    packed_kernel, packed_bias as the forward's
//   labels (N, U), frames (N), sequences (N), tiles (R) of int32, seed (2) of uint32
//   bounds (N), maxima, log_sums and each of the cotangents (N, T, U) of float
//   logits_gradients (R, 16, 8, W), activations (R, 16, 8, H) of T
//   bias_parts (R, BiasParts, W) of float or null
//
// Which cotangents count as 0 and which rows become zeros is as in EntriesBackward
// (cuda/rows/entries.h).
//
// A block takes a tile of the list, or half of one where H is above 704, whose logits come chunk by
// chunk as run_tile.cuh says. The logits are turned into gradients where they are, in
// registers, rounded and stored (gradient_epilogue.cuh): a thread has eight neighbouring columns at
// a time, a quad 64 bytes of a row.
//
//   - The logits are the forward's bit for bit, products and sums being the same: the exponentials
//     sum to what the forward's sums say.
//   - The activations go to shared and to global memory as they are computed, in the first chunk.
//   - What is not needed by nearly all chunks, picks, left out columns and the clamp, is behind one
//     branch, and the epilogue finds its tile and rows anew: a few spilled registers, which wait
//     for the gradients' stores before them, took 7 % of the time.
//   - The bias's gradient, a sum over all cells, would take another pass over the gradients. Here
//     each warp sums its 16 rows, 56 shuffles a chunk, and stores 1 / 8 as many bytes.
//   - Entries without a tile, and tiles of padding, are zeros that a block writes and leaves.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/joint/activation_blocks.cuh"
#include "cuda/joint/gradient_epilogue.cuh"
#include "cuda/joint/gradient_rows.cuh"
#include "cuda/joint/launch_blocks.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma/products.cuh"
#include "cuda/joint/wgmma/run_tile.cuh"

namespace jax_rnnt::cuda {
namespace {

// A warp's rows are of two frames.
static_assert(BiasParts(JointProducts::kWgmma) * 2 == kListedFrames);

template <typename T, int kWarpgroups, bool kHasDropout>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointGradientsKernel(const __grid_constant__ GradientsArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kGroupFrames;
  constexpr int kTileRows = kTileFrames * kTileColumns;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ unsigned char shared[];
  const ListedTile listed = TileOfBlock(arguments, kTileFrames);
  const Tile tile = listed.tile;
  const bool has_cell = listed.is_tile && HasCell(inputs, tile);
  // Whether any thread's column has a cell reaches all threads.
  if (!__syncthreads_or(has_cell)) {
    StoreZeroTile<kTileRows>(arguments);
    return;
  }

  RunTile<T, kWarpgroups>(
      inputs, shared,
      [&](const SliceRing& ring, int warpgroup, unsigned char* lines, int block_bytes) {
        const int32_t label = ColumnLabel(inputs, tile, AccumulatorCellColumn(threadIdx.x));
        const CellPair cells = FindCells(inputs, tile, WarpFrame()(), label);
        RowCotangents rows[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (i < cells.real) {
            rows[i] = LoadRow(arguments, cells.first + i * inputs.shape.U, label);
          }
        }

        const auto own = [&](int, int i) -> const RowCotangents& { return rows[i]; };
        const auto activations = [&] {
          return ActivationBlocks<T, kWarpgroupThreads, 1, true, kHasDropout>(
              inputs, tile, warpgroup, lines, block_bytes,
              {ResultsOfBlock<kTileRows>(arguments).activations,
               arguments.has_activation_granules});
        };
        const GradientEpilogue<T, kWarpgroups> epilogue(arguments, label,
                                                        ReadBound(arguments, tile));
        MultiplySlices(
            inputs, ring, warpgroup, lines, block_bytes, activations,
            [&](int32_t first_v, auto& logits) { epilogue(first_v, WarpFrame(), own, logits); });
      });
}

template <typename T, int kWarpgroups>
cudaError_t Launch(cudaStream_t stream, unsigned int blocks,
                   const GradientsArguments<T>& arguments) {
  const auto kernel = arguments.inputs.dropout.threshold == 0
                          ? JointGradientsKernel<T, kWarpgroups, false>
                          : JointGradientsKernel<T, kWarpgroups, true>;
  return LaunchBlocks(stream, kernel, blocks, JointThreads(kWarpgroups), arguments);
}

}  // namespace

template <typename T>
cudaError_t LaunchWgmmaGradients(cudaStream_t stream, unsigned int blocks,
                                 const GradientsArguments<T>& arguments) {
  return arguments.inputs.plan.groups == 2 ? Launch<T, 2>(stream, blocks, arguments)
                                           : Launch<T, 1>(stream, blocks, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                            \
  template cudaError_t LaunchWgmmaGradients<T>(cudaStream_t, unsigned int, \
                                               const GradientsArguments<T>&)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
