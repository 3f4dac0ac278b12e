// Gradients of the joint network's logits over a list of tiles. For every cell (n, t, u) of a tile
// that is not padding, with x = dropout(activation(encoder[n / K, t] + predictor[n, u])) rounded to
// T, C the core of the row, and c_i, v_i the cotangents and columns of its entries:
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
//   bias_parts (R, 8, W) of float or null
//
// Which cotangents count as 0 and which rows become zeros is as in EntriesBackward
// (cuda/rows/entries.h).
//
// A block takes a tile of the list, or half of one where H is above 704, whose logits come chunk by
// chunk as cuda/joint/tile.cuh says. The logits are turned into gradients where they are, in
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
#include <limits>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/joint/activation_blocks.cuh"
#include "cuda/joint/gradient_epilogue.cuh"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/plan.cuh"
#include "cuda/joint/products.cuh"
#include "cuda/joint/run_tile.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {
namespace {

static_assert(kListedColumns == kTileColumns && kListedFrames == 2 * kWarpgroupFrames);

// Stores `count` zeros, a multiple of 8, by all threads of the block.
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

template <typename T, int kWarpgroups, bool kHasDropout>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointGradientsKernel(const __grid_constant__ GradientsArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kWarpgroupFrames;
  constexpr int kTileRows = kTileFrames * kTileColumns;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ unsigned char shared[];
  const int32_t W = arguments.options.entries.width;
  const int32_t H = inputs.shape.H;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  T* gradients = arguments.logits_gradients + first_row * W;
  T* activation_rows = arguments.activations + first_row * H;
  // Each part is of the 16 rows of a warp.
  constexpr int kPartRows = kListedCells / kBiasParts;
  float* bias_parts =
      arguments.bias_parts == nullptr ? nullptr : arguments.bias_parts + first_row / kPartRows * W;

  const ListedTile listed = TileOfBlock(arguments, kTileFrames);
  const Tile tile = listed.tile;
  const bool has_cell = listed.is_tile && HasCell(inputs, tile);
  // Whether any thread's column has a cell reaches all threads.
  if (!__syncthreads_or(has_cell)) {
    StoreZeros(gradients, static_cast<int64_t>(kTileRows) * W, arguments.has_gradient_granules);
    StoreZeros(activation_rows, static_cast<int64_t>(kTileRows) * H,
               arguments.has_activation_granules);
    if (bias_parts != nullptr) {
      StoreZeros(bias_parts, static_cast<int64_t>(kTileRows / kPartRows) * W,
                 arguments.has_gradient_granules);
    }
    return;
  }

  RunTile<T, kWarpgroups>(
      inputs, shared,
      [&](const SliceRing& ring, int warpgroup, unsigned char* lines, int block_bytes) {
        const int32_t label = ColumnLabel(inputs, tile, AccumulatorCellColumn(threadIdx.x));
        const CellPair cells = FindCells(inputs, tile, label);
        RowCotangents rows[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (i < cells.real) {
            rows[i] = LoadRow(arguments, cells.first + i * inputs.shape.U, label);
          }
        }

        const auto activations = [&] {
          return ActivationBlocks<T, true, kHasDropout>(
              inputs, tile, warpgroup, lines, block_bytes,
              {activation_rows, arguments.has_activation_granules});
        };
        GradientEpilogue<T, kWarpgroups> epilogue(arguments, label, rows,
                                                  ReadBound(arguments, tile));
        MultiplySlices(inputs, ring, lines, block_bytes, activations, epilogue);
      });
}

template <typename T, int kWarpgroups>
cudaError_t LaunchTiles(cudaStream_t stream, const JointPlan& plan, int64_t R,
                        const GradientsArguments<T>& arguments) {
  constexpr int64_t kBlocksPerTile = kListedFrames / (kWarpgroups * kWarpgroupFrames);
  if (R > std::numeric_limits<int32_t>::max() / kBlocksPerTile) return cudaErrorInvalidValue;
  const auto kernel = arguments.inputs.dropout.threshold == 0
                          ? JointGradientsKernel<T, kWarpgroups, false>
                          : JointGradientsKernel<T, kWarpgroups, true>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned int>(R * kBlocksPerTile), JointThreads(kWarpgroups),
           plan.shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace

bool JointGradientsFits(const JointShape& shape, int32_t W) {
  return shape.IsValid() && MakePlan(shape.H, W).warpgroups > 0 && MakeTileGrid(shape).numbers > 0;
}

template <typename T>
cudaError_t JointGradients(cudaStream_t stream, const JointShape& shape, Activation activation,
                           const EntriesOptions& options, int64_t R, const JointInputs<T>& inputs,
                           const JointPacked& packed, const int32_t* tiles, const float* bounds,
                           const float* maxima, const float* log_sums,
                           const EntriesCotangents<float>& cotangents, T* logits_gradients,
                           T* activations, float* bias_parts) {
  if (!options.IsValid() || options.tokens != shape.V || !IsValid(inputs.dropout) ||
      !JointGradientsFits(shape, options.width) || R < 0) {
    return cudaErrorInvalidValue;
  }
  if (R == 0) return cudaSuccess;
  const JointPlan plan = MakePlan(shape.H, options.width);
  const GradientsArguments<T> arguments{
      MakeTileInputs(shape, plan, activation, inputs, packed),
      MakeChunkOptions(options),
      MakeTileGrid(shape),
      options.width % 8 == 0 && IsGranuleAligned(logits_gradients) && IsGranuleAligned(bias_parts),
      shape.H % 8 == 0 && IsGranuleAligned(activations),
      tiles,
      bounds,
      maxima,
      log_sums,
      cotangents,
      logits_gradients,
      activations,
      bias_parts};
  return plan.warpgroups == 2 ? LaunchTiles<T, 2>(stream, plan, R, arguments)
                              : LaunchTiles<T, 1>(stream, plan, R, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                              \
  template cudaError_t JointGradients<T>(                                                    \
      cudaStream_t, const JointShape&, Activation, const EntriesOptions&, int64_t,           \
      const JointInputs<T>&, const JointPacked&, const int32_t*, const float*, const float*, \
      const float*, const EntriesCotangents<float>&, T*, T*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
