// JointGradients (cuda/joint/gradients.h) by mma.sync, for compute capability 8.0 and up. It
// computes what cuda/joint/wgmma/gradients.cu does, from the same pointers but for packed_kernel
// and packed_bias, which are as cuda/joint/mma/pack.cu has them:
//
//   g_v = c_sum exp((logit_v - maximum) - log_sum) [v in C] + sum_i c_i [v = v_i]
//
// A block takes a tile of the list with two groups of 64 cells, or half of one with one group,
// whose logits come chunk by chunk as products.cuh says, the forward's bit for bit. They are turned
// into gradients where they are, in registers, rounded and stored (gradient_epilogue.cuh). The
// numbers of a row that this takes wait in shared memory, behind the activations: of four rows'
// products a thread has registers for the logits alone.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/row_label.h"
#include "cuda/joint/activation_blocks.cuh"
#include "cuda/joint/gradient_epilogue.cuh"
#include "cuda/joint/gradient_rows.cuh"
#include "cuda/joint/launch_blocks.cuh"
#include "cuda/joint/mma/products.cuh"
#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"

namespace jax_rnnt::cuda {
namespace {

static_assert(sizeof(RowCotangents) == kCellBytes);
// A warp's rows are all of its group's: two frames a product.
static_assert(BiasParts(JointProducts::kMma) * kGroupFrames == kListedFrames);
static_assert(2 * kGroupProducts == kGroupFrames);

template <typename T, int kGroups, bool kHasDropout>
__global__ void __launch_bounds__(kGroups* kGroupThreads, 1)
    JointGradientsKernel(const __grid_constant__ GradientsArguments<T> arguments) {
  constexpr int kTileFrames = kGroups * kGroupFrames;
  constexpr int kTileCells = kGroups * kGroupCells;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ __align__(128) unsigned char shared[];
  const ListedTile listed = TileOfBlock(arguments, kTileFrames);
  const Tile tile = listed.tile;
  const bool has_cell = listed.is_tile && HasCell(inputs, tile);
  // Whether any thread's column has a cell reaches all threads.
  if (!__syncthreads_or(has_cell)) {
    StoreZeroTile<kTileCells>(arguments);
    return;
  }

  const int group = threadIdx.x / kGroupThreads;
  unsigned char* lines = shared + group * kGroupBlockBytes;
  float4* rows =
      reinterpret_cast<float4*>(shared + inputs.plan.depth_blocks * (kGroups * kGroupBlockBytes));
  // A group's first threads load a row each; the group sees them after the barrier before the
  // products.
  if (threadIdx.x % kGroupThreads < kGroupCells) {
    const int row = group * kGroupCells + threadIdx.x % kGroupThreads;
    const int frame = row / kTileColumns, column = row % kTileColumns;
    const int32_t label = ColumnLabel(inputs, tile, column);
    RowCotangents numbers;
    if (label != kPaddingRow && tile.first_frame + frame < ReadFrames(inputs, tile.n)) {
      numbers = LoadRow(arguments, CellRow(inputs, tile, frame, column), label);
    }
    rows[row] = make_float4(numbers.maximum, numbers.scale, numbers.blank, numbers.label);
  }

  const int32_t label = ColumnLabel(inputs, tile, AccumulatorCellColumn(threadIdx.x));
  const auto own = [&](int product, int i) -> RowCotangents {
    const float4 numbers =
        rows[(ProductFrame()(product) + i) * kTileColumns + AccumulatorCellColumn(ReadThread())];
    return {numbers.x, numbers.y, numbers.z, numbers.w};
  };
  const auto activations = [&] {
    return ActivationBlocks<T, kGroupThreads, kFramesAtOnce, true, kHasDropout>(
        inputs, tile, group, lines, kGroups * kGroupBlockBytes,
        {ResultsOfBlock<kTileCells>(arguments).activations, arguments.has_activation_granules});
  };
  const GradientEpilogue<T, kGroups> epilogue(arguments, label, ReadBound(arguments, tile));
  MultiplyChunks<T, kGroups>(inputs, arguments.options.entries.width, group, lines, activations,
                             [&](int32_t first_v, GroupLogits& logits) {
                               epilogue(first_v, ProductFrame(), own, logits);
                             });
}

template <typename T, int kGroups>
cudaError_t Launch(cudaStream_t stream, unsigned int blocks,
                   const GradientsArguments<T>& arguments) {
  const auto kernel = arguments.inputs.dropout.threshold == 0
                          ? JointGradientsKernel<T, kGroups, false>
                          : JointGradientsKernel<T, kGroups, true>;
  return LaunchBlocks(stream, kernel, blocks, kGroups * kGroupThreads, arguments);
}

}  // namespace

template <typename T>
cudaError_t LaunchMmaGradients(cudaStream_t stream, unsigned int blocks,
                               const GradientsArguments<T>& arguments) {
  return arguments.inputs.plan.groups == 2 ? Launch<T, 2>(stream, blocks, arguments)
                                           : Launch<T, 1>(stream, blocks, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                          \
  template cudaError_t LaunchMmaGradients<T>(cudaStream_t, unsigned int, \
                                             const GradientsArguments<T>&)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
