// Gradients of the joint network's logits over a list of tiles. For every cell (n, t, u) of a tile
// that is not padding, with x = activation(encoder[n, t] + predictor[n, u]) rounded to T:
//
//   logit_v   = sum_h x_h kernel[h, v] + bias_v
//   g_v       = c_blank [v = blank] + c_label [v = label] - (c_blank + c_label) softmax_v
//   softmax_v = exp((logit_v - maximum) - log_sum)
//
// Pointers (T is __nv_bfloat16 or __half):
//   encoder (N, T, H), predictor (N, U, H) of T    packed_kernel, packed_bias as the forward's
//   labels (N, U), frames (N), tiles (R) of int32
//   maxima, log_sums, blank_cotangents, label_cotangents (N, T, U) of float
//   logits_gradients (R, 16, 8, V), activations (R, 16, 8, H) of T
//   bias_parts (R, 8, V) of float or null
//
// Which cotangents count as 0 and which rows become zeros is as in PickBackward.
//
// A block takes a tile of the list, or half of one where H is above 704, whose logits come chunk by
// chunk as cuda/joint/tile.cuh says. They are turned into gradients where they are, in registers,
// rounded and stored: a thread has eight neighbouring columns at a time, a quad 64 bytes of a row.
//
//   - The logits are the forward's bit for bit, products and sums being the same: so is softmax_v
//     what the forward's log-probabilities say.
//   - The activations go to both memories as they are computed, during the first chunk.
//   - The bias's gradient, a sum over all cells, would take another pass over the gradients. Here
//     each warp sums its 16 rows, 56 shuffles a chunk, and stores 1 / 8 as many bytes.
//   - Entries without a tile, and tiles of padding, are zeros that a block writes and leaves.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>

#include "core/row_label.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

static_assert(kListedColumns == kTileColumns && kListedFrames == 2 * kWarpgroupFrames);

template <typename T>
struct GradientsArguments {
  TileInputs<T> inputs;
  int32_t blank;
  TileGrid grid;
  bool has_gradient_granules;    // rows of logits_gradients and bias_parts are whole granules at
                                 // aligned addresses
  bool has_activation_granules;  // and those of activations
  const float* maxima;
  const float* log_sums;
  const float* blank_cotangents;
  const float* label_cotangents;
  const int32_t* tiles;
  T* logits_gradients;
  T* activations;
  float* bias_parts;
};

// --------------------------------------------------------------------------------------- Epilogue

// What the gradient of a row takes besides its logits; a log_sum of +inf where it is all zeros.
struct RowCotangents {
  float maximum = 0.f;
  float log_sum = -kMinusInfinity<float>;
  float blank = 0.f;
  float label = 0.f;
};

__device__ __forceinline__ bool IsActive(const RowCotangents& row) {
  return row.log_sum < -kMinusInfinity<float> && (row.blank != 0.f || row.label != 0.f);
}

// `label` is the row's.
template <typename T>
__device__ __forceinline__ RowCotangents LoadRow(const GradientsArguments<T>& arguments,
                                                 int64_t cell, int32_t label) {
  RowCotangents row;
  row.maximum = __ldg(arguments.maxima + cell);
  row.log_sum = __ldg(arguments.log_sums + cell);
  row.blank = __ldg(arguments.blank_cotangents + cell);
  if (label != kNoLabel) row.label = __ldg(arguments.label_cotangents + cell);
  return row;
}

// Turns a thread's logits of two rows of one label into gradients and stores them.
template <typename T>
class GradientEpilogue {
 public:
  // Row i of the thread's goes to gradients + i kTileColumns V, sums over the warp's rows to
  // bias_part, if that is not null.
  __device__ __forceinline__ GradientEpilogue(const GradientsArguments<T>& arguments, int32_t label,
                                              const RowCotangents (&rows)[2], T* gradients,
                                              float* bias_part)
      : arguments_(arguments),
        label_(label),
        rows_{rows[0], rows[1]},
        gradients_(gradients),
        bias_part_(bias_part) {}

  __device__ __forceinline__ void operator()(int32_t first_v, float (&logits)[kWgmmaAccumulators]) {
    Turn<0>(logits);
    Turn<1>(logits);
    const bool is_active[2] = {IsActive(rows_[0]), IsActive(rows_[1])};
    AddAt(arguments_.blank, first_v, is_active[0] ? rows_[0].blank : 0.f,
          is_active[1] ? rows_[1].blank : 0.f, logits);
    AddAt(label_, first_v, is_active[0] ? rows_[0].label : 0.f, is_active[1] ? rows_[1].label : 0.f,
          logits);
    arguments_.has_gradient_granules ? Store<true>(first_v, logits) : Store<false>(first_v, logits);
    if (bias_part_ != nullptr) StoreSums(first_v, logits);
    // Rows and columns made branches; the products that follow take whole warps.
    __syncwarp();
  }

 private:
  // -(c_blank + c_label) softmax_v in place of the logits of a row.
  template <int kRow>
  __device__ __forceinline__ void Turn(float (&logits)[kWgmmaAccumulators]) const {
    const RowCotangents& row = rows_[kRow];
    if (!IsActive(row)) {
#pragma unroll
      for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) logits[i] = logits[i + 1] = 0.f;
      return;
    }
    if (IsLargeMaximum(row.maximum)) {
#pragma unroll
      for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
        logits[i] -= row.maximum;
        logits[i + 1] -= row.maximum;
      }
    }
    const ScaledMaximum scaled = ScaleForSum(row.maximum);
    const float scale = -(row.blank + row.label) * expf(-fmaf(scaled.residual, kLn2, row.log_sum));
#pragma unroll
    for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
      logits[i] = scale * ScaledExp(logits[i], scaled.scaled);
      logits[i + 1] = scale * ScaledExp(logits[i + 1], scaled.scaled);
    }
  }

  // Adds a number for each row to the gradients of column v if the thread has it.
  static __device__ __forceinline__ void AddAt(int32_t v, int32_t first_v, float first,
                                               float second, float (&logits)[kWgmmaAccumulators]) {
    const AccumulatorPlace place = PlaceOf(v, first_v);
    if (!place.is_here) return;
#pragma unroll
    for (int j = 0; j < kWgmmaColumns / 8; ++j) {
      const bool is_even = place.group == j && !place.is_odd;
      const bool is_odd = place.group == j && place.is_odd;
      if (is_even) logits[4 * j] += first;
      if (is_odd) logits[4 * j + 1] += first;
      if (is_even) logits[4 * j + 2] += second;
      if (is_odd) logits[4 * j + 3] += second;
    }
  }

  template <bool kHasGranules>
  __device__ __forceinline__ void Store(int32_t first_v,
                                        const float (&logits)[kWgmmaAccumulators]) const {
    const int32_t lane_v = first_v + FirstLaneColumn();
    const int32_t V = arguments_.inputs.shape.V;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      T* target = gradients_ + static_cast<int64_t>(row * kTileColumns) * V + lane_v;
#pragma unroll
      for (int i = 2 * row; i < kWgmmaAccumulators; i += 16) {
        float values[8];
#pragma unroll
        for (int k = 0; k < 8; ++k) values[k] = logits[i + k / 2 * 4 + k % 2];
        const int column = AccumulatorColumn(i);
        StoreGranule<kHasGranules>(target + column, V - lane_v - column, Granule<T>::Pack(values));
      }
    }
  }

  // The gradients' sums over the warp's rows, which are lost. A lane's columns are halved with each
  // exchange, until lane l has the eight from 8 l on.
  __device__ __forceinline__ void StoreSums(int32_t first_v,
                                            const float (&logits)[kWgmmaAccumulators]) const {
    float sums[kWgmmaAccumulators / 2];
#pragma unroll
    for (int i = 0; i < kWgmmaAccumulators / 2; ++i) {
      const int accumulator = i / 2 * 4 + i % 2;
      sums[i] = logits[accumulator] + logits[accumulator + 2];
    }
    const int lane = threadIdx.x % kWarpSize;
    KeepHalf<32>(lane, sums);
    KeepHalf<16>(lane, sums);
    KeepHalf<8>(lane, sums);
    const int32_t V = arguments_.inputs.shape.V;
    const int32_t v = first_v + 8 * lane;
    float* target = bias_part_ + v;
    if (arguments_.has_gradient_granules) {
      if (v < V) {
        reinterpret_cast<float4*>(target)[0] = make_float4(sums[0], sums[1], sums[2], sums[3]);
        reinterpret_cast<float4*>(target)[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (v + k < V) target[k] = sums[k];
      }
    }
  }

  // Of 2 kCount sums: those below kCount, or the others where the lane's bit kCount / 2 is set,
  // added to those of the lane that differs in this bit.
  template <int kCount>
  static __device__ __forceinline__ void KeepHalf(int lane, float (&sums)[kWgmmaAccumulators / 2]) {
    const bool is_upper = (lane & kCount / 2) != 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float kept = is_upper ? sums[kCount + i] : sums[i];
      const float given = is_upper ? sums[i] : sums[kCount + i];
      sums[i] = kept + __shfl_xor_sync(kAllLanes, given, kCount / 2);
    }
  }

  const GradientsArguments<T>& arguments_;
  int32_t label_;
  RowCotangents rows_[2];
  T* gradients_;
  float* bias_part_;
};

// ----------------------------------------------------------------------------------------- Kernel

// `count`, a multiple of 8, zeros by all threads of the block.
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

template <typename T, int kWarpgroups>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointGradientsKernel(const __grid_constant__ GradientsArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kWarpgroupFrames;
  constexpr int kTileRows = kTileFrames * kTileColumns;
  constexpr uint32_t kBlocksPerTile = kListedFrames / kTileFrames;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ unsigned char shared[];
  const int32_t V = inputs.shape.V;
  const int32_t H = inputs.shape.H;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  T* gradients = arguments.logits_gradients + first_row * V;
  T* activation_rows = arguments.activations + first_row * H;
  // A part for the 16 rows of each warp.
  constexpr int kPartRows = kListedCells / kBiasParts;
  float* bias_parts =
      arguments.bias_parts == nullptr ? nullptr : arguments.bias_parts + first_row / kPartRows * V;

  const uint32_t number = __ldg(arguments.tiles + blockIdx.x / kBlocksPerTile);
  Tile tile{0, 0, 0};
  bool has_cell = false;
  if (number < arguments.grid.numbers) {
    const uint32_t block = number / arguments.grid.column_blocks;
    const uint32_t n = block / arguments.grid.frame_blocks;
    tile = {static_cast<int32_t>(n),
            static_cast<int32_t>((block - n * arguments.grid.frame_blocks) * kListedFrames +
                                 blockIdx.x % kBlocksPerTile * kTileFrames),
            static_cast<int32_t>((number - block * arguments.grid.column_blocks) * kTileColumns)};
    has_cell = HasCell(inputs, tile);
  }
  // The answers for all columns reach all threads.
  if (!__syncthreads_or(has_cell)) {
    StoreZeros(gradients, static_cast<int64_t>(kTileRows) * V, arguments.has_gradient_granules);
    StoreZeros(activation_rows, static_cast<int64_t>(kTileRows) * H,
               arguments.has_activation_granules);
    if (bias_parts != nullptr) {
      StoreZeros(bias_parts, static_cast<int64_t>(kTileRows / kPartRows) * V,
                 arguments.has_gradient_granules);
    }
    return;
  }

  RunTile<T, kWarpgroups>(
      inputs, shared,
      [&](const SliceRing& ring, int warpgroup, unsigned char* lines, int block_bytes) {
        // The first of the thread's two frames.
        const int warp = threadIdx.x / kWarpSize;
        const int frame = 2 * warp;
        const int column = threadIdx.x % kWarpSize / 4;
        const int32_t label = ColumnLabel(inputs, tile, column);
        const int32_t frames_left = ReadFrames(inputs, tile.n) - tile.first_frame - frame;
        RowCotangents rows[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (label != kPaddingRow && i < frames_left) {
            rows[i] = LoadRow(arguments, CellRow(inputs, tile, frame + i, column), label);
          }
        }

        const auto activations = [&] {
          return ActivationBlocks<T, true>(inputs, tile, warpgroup, lines, block_bytes,
                                           {activation_rows, arguments.has_activation_granules});
        };
        GradientEpilogue<T> epilogue(
            arguments, label, rows,
            gradients + static_cast<int64_t>(frame * kTileColumns + column) * V,
            bias_parts == nullptr ? nullptr : bias_parts + static_cast<int64_t>(warp) * V);
        MultiplySlices(inputs, ring, lines, block_bytes, activations, epilogue);
      });
}

template <typename T, int kWarpgroups>
cudaError_t LaunchTiles(cudaStream_t stream, const JointPlan& plan, int64_t R,
                        const GradientsArguments<T>& arguments) {
  constexpr int64_t kBlocksPerTile = kListedFrames / (kWarpgroups * kWarpgroupFrames);
  if (R > std::numeric_limits<int32_t>::max() / kBlocksPerTile) return cudaErrorInvalidValue;
  const auto kernel = JointGradientsKernel<T, kWarpgroups>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned int>(R * kBlocksPerTile), JointThreads(kWarpgroups),
           plan.shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace

bool JointGradientsFits(const JointShape& shape) {
  return MakePlan(shape).warpgroups > 0 && MakeTileGrid(shape).numbers > 0;
}

template <typename T>
cudaError_t JointGradients(cudaStream_t stream, const JointShape& shape, Activation activation,
                           int32_t blank, int64_t R, const T* encoder, const T* predictor,
                           const void* packed_kernel, const float* packed_bias,
                           const int32_t* labels, const int32_t* frames, const float* maxima,
                           const float* log_sums, const float* blank_cotangents,
                           const float* label_cotangents, const int32_t* tiles, T* logits_gradients,
                           T* activations, float* bias_parts) {
  if (!JointGradientsFits(shape) || blank < 0 || blank >= shape.V || R < 0) {
    return cudaErrorInvalidValue;
  }
  if (R == 0) return cudaSuccess;
  const JointPlan plan = MakePlan(shape);
  const GradientsArguments<T> arguments{
      MakeTileInputs(shape, plan, activation, encoder, predictor, labels, frames, packed_kernel,
                     packed_bias),
      blank,
      MakeTileGrid(shape),
      shape.V % 8 == 0 && IsGranuleAligned(logits_gradients) && IsGranuleAligned(bias_parts),
      shape.H % 8 == 0 && IsGranuleAligned(activations),
      maxima,
      log_sums,
      blank_cotangents,
      label_cotangents,
      tiles,
      logits_gradients,
      activations,
      bias_parts};
  return plan.warpgroups == 2 ? LaunchTiles<T, 2>(stream, plan, R, arguments)
                              : LaunchTiles<T, 1>(stream, plan, R, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                              \
  template cudaError_t JointGradients<T>(                                                    \
      cudaStream_t, const JointShape&, Activation, int32_t, int64_t, const T*, const T*,     \
      const void*, const float*, const int32_t*, const int32_t*, const float*, const float*, \
      const float*, const float*, const int32_t*, T*, T*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
