// JointForward (cuda/joint/forward.h) by mma.sync, for compute capability 8.0 and up. It computes
// what cuda/joint/wgmma/forward.cu does, from the same pointers but for packed_kernel and
// packed_bias, which are as cuda/joint/mma/pack.cu has them:
//
//   logit_v = sum_h x_h kernel[h, v] + bias_v, and of each row a log-sum and single logits
//
// A block takes a tile of one or two groups of 64 cells, whose logits come chunk by chunk as
// products.cuh says. A chunk's logits add to the running maxima and sums of their rows and are
// forgotten (entries_epilogue.cuh). The eight warps of a group have their own columns: at the end
// their sums of a row meet in shared memory, where the logits of blanks and labels, each taken by
// one lane, wait for the rows' threads to store them.
//
//   - Shared memory decides about the groups: 256 bytes for each of H with two of them, 128 with
//     one. (N, T, U, H, V) = (32, 400, 100, 640, 1024) takes 4.7 ms with two and 5.1 with one
//     (H100). A sketch with half of one took 1.65 times as long as with one: where one does not
//     fit, the plain walk over tiles is as fast.
//   - Dropout has a kernel of its own, as with wgmma.
//   - Nothing is atomic and no order varies: the same inputs give the same bits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/row_label.h"
#include "cuda/joint/activation_blocks.cuh"
#include "cuda/joint/entries_epilogue.cuh"
#include "cuda/joint/forward_tiles.cuh"
#include "cuda/joint/launch_blocks.cuh"
#include "cuda/joint/mma/products.cuh"
#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename T, int kGroups, bool kHasDropout>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    JointForwardKernel(const __grid_constant__ ForwardArguments<T> arguments) {
  constexpr int kTileFrames = kGroups * kGroupFrames;
  constexpr int kTileCells = kGroups * kGroupCells;
  const TileInputs<T>& inputs = arguments.inputs;
  static_assert(kGroups * kGroupThreads == 4 * kTileCells && kGroupWarps == 8);
  extern __shared__ __align__(128) unsigned char shared[];
  const Tile tile = TileOfBlock<kTileFrames>(arguments);
  // Whether any thread's column has a cell reaches all threads.
  if (!__syncthreads_or(HasCell(inputs, tile))) {
    StorePaddingTile<kTileFrames>(arguments, tile);
    return;
  }

  const int group = threadIdx.x / kGroupThreads;
  unsigned char* lines = shared + group * kGroupBlockBytes;
  JointRow parts[kGroupProducts][2];
// Written here: as members of an array of arrays they would be zeros (nvcc 13.0).
#pragma unroll
  for (int m = 0; m < kGroupProducts; ++m) parts[m][0] = parts[m][1] = JointRow();
  // The logits of the rows' blanks, then of their labels, behind the activations.
  float* singles =
      reinterpret_cast<float*>(shared + inputs.plan.depth_blocks * (kGroups * kGroupBlockBytes));
  {
    const int32_t label = ColumnLabel(inputs, tile, AccumulatorCellColumn(threadIdx.x));
    const auto keep = [&](float* target) {
      return [target](int pair, const float (&picked)[2]) {
        float* first =
            target + ProductFrame()(pair) * kTileColumns + AccumulatorCellColumn(ReadThread());
        first[0] = picked[0];
        first[kTileColumns] = picked[1];
      };
    };
    const auto activations = [&] {
      return ActivationBlocks<T, kGroupThreads, kFramesAtOnce, false, kHasDropout>(
          inputs, tile, group, lines, kGroups * kGroupBlockBytes);
    };
    const EntriesEpilogue<T> entries(arguments, tile, label);
    MultiplyChunks<T, kGroups>(inputs, arguments.options.entries.width, group, lines, activations,
                               [&](int32_t first_v, GroupLogits& logits) {
                                 entries(first_v, ProductFrame(), logits, parts, keep(singles),
                                         keep(singles + kTileCells));
                               });
  }

  JointRow* rows = reinterpret_cast<JointRow*>(shared);  // (kGroupWarps, kTileCells)
  // All warps have read the activations, whose place their parts of the rows take.
  __syncthreads();
#pragma unroll
  for (int m = 0; m < kGroupProducts; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const JointRow part = MergeOverLanes<4>(parts[m][i]);
      const int row = (ProductFrame()(m) + i) * kTileColumns + threadIdx.x % kWarpSize / 4;
      const int warp = threadIdx.x / kWarpSize % kGroupWarps;
      if (threadIdx.x % 4 == 0) rows[warp * kTileCells + row] = part;
    }
  }
  // The warps' parts become visible to the threads that add them up, four for each row.
  __syncthreads();
  const int cell = threadIdx.x / 4;
  JointRow own[kGroupWarps / 4];
#pragma unroll
  for (int i = 0; i < kGroupWarps / 4; ++i) {
    own[i] = rows[(4 * i + threadIdx.x % 4) * kTileCells + cell];
  }
  const JointRow row = MergeOverLanes<4>(Merge(own[0], own[1]));
  const int frame = cell / kTileColumns, column = cell % kTileColumns;
  const int32_t t = tile.first_frame + frame;
  if (threadIdx.x % 4 != 0 || t >= inputs.shape.T || tile.first_column + column >= inputs.shape.U) {
    return;
  }
  const int32_t label = ColumnLabel(inputs, tile, column);
  const bool is_real = label != kPaddingRow && t < ReadFrames(inputs, tile.n);
  const EntriesResults<float>& results = arguments.results;
  const int64_t cell_row = CellRow(inputs, tile, frame, column);
  results.blank_logits[cell_row] = is_real ? singles[cell] : kMinusInfinity<float>;
  if (label >= 0) {
    results.label_logits[cell_row] = is_real ? singles[kTileCells + cell] : kMinusInfinity<float>;
  }
  StoreCell(results, cell_row, label, is_real, row);
}

template <typename T, int kGroups>
cudaError_t Launch(cudaStream_t stream, unsigned int tiles, const ForwardArguments<T>& arguments) {
  const auto kernel = arguments.inputs.dropout.threshold == 0
                          ? JointForwardKernel<T, kGroups, false>
                          : JointForwardKernel<T, kGroups, true>;
  return LaunchBlocks(stream, kernel, tiles, kGroups * kGroupThreads, arguments);
}

}  // namespace

template <typename T>
cudaError_t LaunchMmaForward(cudaStream_t stream, unsigned int tiles,
                             const ForwardArguments<T>& arguments) {
  return arguments.inputs.plan.groups == 2 ? Launch<T, 2>(stream, tiles, arguments)
                                           : Launch<T, 1>(stream, tiles, arguments);
}

#define JAX_RNNT_INSTANTIATE(T) \
  template cudaError_t LaunchMmaForward<T>(cudaStream_t, unsigned int, const ForwardArguments<T>&)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
