// Forward of the joint network and the log-softmax behind it. For every cell (n, t, u) that is not
// padding, with x = activation(encoder[n, t] + predictor[n, u]) of H numbers rounded to T:
//
//   logit_v        = sum_h x_h kernel[h, v] + bias_v
//   maximum        = max_v logit_v
//   log_sum        = log sum_v exp(logit_v - maximum)
//   blank_log_prob = (logit_blank - maximum) - log_sum
//   label_log_prob = (logit_label - maximum) - log_sum
//
// Pointers (T is __nv_bfloat16 or __half):
//   encoder (N, T, H)    predictor (N, U, H)    kernel (H, V)    bias (V) or null, of T
//   labels (N, U), frames (N) of int32
//   packed_kernel (V chunks, H slices, 256, kSliceDepth) of T, packed_bias (V chunks, 256) of float
//   blank_log_probs, label_log_probs, maxima, log_sums (N, T, U) of float
//
// A block takes a tile of cells, whose logits come chunk by chunk as cuda/joint/tile.cuh says; they
// add to the running maxima and sums of their rows and are forgotten.
//
//   - Two rows of a thread's accumulators are two frames of one column: they share their label.
//   - A block per tile, not one per multiprocessor: lengths differ, tiles of padding leave at once,
//     and the hardware hands out the rest. The price is the start of each tile, whose first loads
//     nothing hides.
//   - Nothing is atomic and no order varies: the same inputs give the same bits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>

#include "core/row_label.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename T>
struct ForwardArguments {
  TileInputs<T> inputs;
  int32_t blank;
  uint32_t frame_tiles;   // of a sequence
  uint32_t column_tiles;  // of a sequence
  RowResults<float> results;
};

// ---------------------------------------------------------------------------------------- Packing

// A block per slice of a chunk, a thread per column: kernel rows are read along V, and each column
// becomes a line, swizzled as the products want it. Zeros beyond H and V, biases of -inf beyond V.
template <typename T>
__global__ void __launch_bounds__(kWgmmaColumns)
    PackColumns(const T* __restrict__ kernel, const T* __restrict__ bias, int32_t H, int32_t V,
                unsigned char* __restrict__ packed_kernel, float* __restrict__ packed_bias) {
  const int slices = gridDim.x;
  const int slice = blockIdx.x;
  const int line = threadIdx.x;
  const int64_t v = static_cast<int64_t>(blockIdx.y) * kWgmmaColumns + ColumnOfLine(line);
  unsigned char* target =
      packed_kernel + ((static_cast<int64_t>(blockIdx.y) * slices + slice) * kWgmmaColumns + line) *
                          kSliceLineBytes;
#pragma unroll
  for (int chunk = 0; chunk < kSliceLineBytes / kGranuleBytes; ++chunk) {
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t h = static_cast<int64_t>(slice) * kSliceDepth + chunk * 8 + i;
      values[i] = h < H && v < V ? ToAccumulator(kernel[h * V + v]) : 0.f;
    }
    reinterpret_cast<uint4*>(target)[SwizzledChunk<kSliceLineBytes>(line, chunk)] =
        Granule<T>::Pack(values);
  }
  if (slice == 0) {
    packed_bias[static_cast<int64_t>(blockIdx.y) * kWgmmaColumns + line] =
        v >= V            ? kMinusInfinity<float>
        : bias == nullptr ? 0.f
                          : ToAccumulator(bias[v]);
  }
}

// ------------------------------------------------------------------------------------------ Tiles

template <int kTileFrames, typename T>
__device__ __forceinline__ Tile TileAt(uint32_t index, const ForwardArguments<T>& arguments) {
  const uint32_t line = index / arguments.frame_tiles;
  const uint32_t n = line / arguments.column_tiles;
  return {static_cast<int32_t>(n),
          static_cast<int32_t>((index - line * arguments.frame_tiles) * kTileFrames),
          static_cast<int32_t>((line - n * arguments.column_tiles) * kTileColumns)};
}

template <int kTileFrames, typename T>
__device__ __forceinline__ void StorePaddingTile(const ForwardArguments<T>& arguments,
                                                 const Tile& tile) {
  const int column = threadIdx.x % kTileColumns;
  const int frame = threadIdx.x / kTileColumns;
  if (frame < kTileFrames && tile.first_frame + frame < arguments.inputs.shape.T &&
      tile.first_column + column < arguments.inputs.shape.U) {
    StorePaddingRow(arguments.results, CellRow(arguments.inputs, tile, frame, column));
  }
}

// --------------------------------------------------------------------------------------- Epilogue

// The log-softmax of a thread's two rows, over the columns whose logits the thread has; a quad has
// all of them.
class LogSoftmaxEpilogue {
 public:
  // `label` is both rows'; kPaddingRow and kNoLabel match no column.
  __device__ __forceinline__ LogSoftmaxEpilogue(int32_t V, int32_t blank, int32_t label)
      : V_(V), blank_(blank), label_(label) {}

  __device__ __forceinline__ void operator()(int32_t first_v, float (&logits)[kWgmmaAccumulators]) {
    const int32_t left = V_ - first_v - FirstLaneColumn();
    if (V_ - first_v < kWgmmaColumns) {
#pragma unroll
      for (int i = 0; i < kWgmmaAccumulators; ++i) {
        if (AccumulatorColumn(i) >= left) logits[i] = kMinusInfinity<float>;
      }
    }
    Pick(blank_, first_v, logits, blank_logits_);
    Pick(label_, first_v, logits, label_logits_);
    Add<0>(logits);
    Add<1>(logits);
    // Labels and large maxima made branches; the products that follow take whole warps.
    __syncwarp();
  }

  // Row `row` of the thread's two, merged over the quad, in all of its lanes.
  __device__ __forceinline__ PartialRow Merge(int row) const {
    PartialRow merged;
    const PartialRow part = parts_[row];
    merged.maximum = MaxOverLanes<4>(part.maximum);
    merged.sum = SumOverLanes<4>(part.sum * RescaleFactor(part.maximum, merged.maximum));
    return merged;
  }
  // A NaN may be lost here, but not from the sum.
  __device__ __forceinline__ float BlankLogit(int row) const {
    return MaxOverLanes<4>(blank_logits_[row]);
  }
  __device__ __forceinline__ float LabelLogit(int row) const {
    return MaxOverLanes<4>(label_logits_[row]);
  }

 private:
  // Keeps the logits of column v if the thread has it.
  static __device__ __forceinline__ void Pick(int32_t v, int32_t first_v,
                                              const float (&logits)[kWgmmaAccumulators],
                                              float (&picked)[2]) {
    const AccumulatorPlace place = PlaceOf(v, first_v);
    if (!place.is_here) return;
#pragma unroll
    for (int j = 0; j < kWgmmaColumns / 8; ++j) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float logit = place.is_odd ? logits[4 * j + 2 * row + 1] : logits[4 * j + 2 * row];
        picked[row] = place.group == j ? logit : picked[row];
      }
    }
  }

  template <int kRow>
  __device__ __forceinline__ void Add(float (&logits)[kWgmmaAccumulators]) {
    PartialRow& part = parts_[kRow];
    float maxima[2] = {part.maximum, kMinusInfinity<float>};
#pragma unroll
    for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
      maxima[0] = fmaxf(maxima[0], logits[i]);
      maxima[1] = fmaxf(maxima[1], logits[i + 1]);
    }
    const float maximum = fmaxf(maxima[0], maxima[1]);
    const float reference = ExponentReference(maximum);
    const ScaledMaximum scaled = ScaleForSum(reference);
    if (IsLargeMaximum(reference)) {
#pragma unroll
      for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
        logits[i] -= reference;
        logits[i + 1] -= reference;
      }
    }
    float sums[2] = {0.f, 0.f};
#pragma unroll
    for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
      sums[0] += ScaledExp(logits[i], scaled.scaled);
      sums[1] += ScaledExp(logits[i + 1], scaled.scaled);
    }
    part.sum = fmaf(part.sum, RescaleFactor(part.maximum, maximum),
                    (sums[0] + sums[1]) * Exp2(-scaled.residual));
    part.maximum = maximum;
  }

  int32_t V_;
  int32_t blank_;
  int32_t label_;
  PartialRow parts_[2];
  float blank_logits_[2] = {kMinusInfinity<float>, kMinusInfinity<float>};
  float label_logits_[2] = {kMinusInfinity<float>, kMinusInfinity<float>};
};

// ----------------------------------------------------------------------------------------- Kernel

template <typename T, int kWarpgroups>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointForwardKernel(const __grid_constant__ ForwardArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kWarpgroupFrames;
  const TileInputs<T>& inputs = arguments.inputs;
  extern __shared__ unsigned char shared[];
  const Tile tile = TileAt<kTileFrames>(blockIdx.x, arguments);
  // The answers for all columns reach all threads.
  if (!__syncthreads_or(HasCell(inputs, tile))) {
    StorePaddingTile<kTileFrames>(arguments, tile);
    return;
  }

  RunTile<T, kWarpgroups>(
      inputs, shared,
      [&](const SliceRing& ring, int warpgroup, unsigned char* lines, int block_bytes) {
        // A quad has two rows; its first two lanes store one each.
        const int row = threadIdx.x % 4;
        const int frame = threadIdx.x / kWarpSize * 2 + row;
        const int column = threadIdx.x % kWarpSize / 4;
        const int64_t cell = CellRow(inputs, tile, frame, column);
        const int32_t label = ColumnLabel(inputs, tile, column);
        const bool is_stored = row < 2 && tile.first_frame + frame < inputs.shape.T &&
                               tile.first_column + column < inputs.shape.U;
        const bool is_padding =
            label == kPaddingRow || tile.first_frame + frame >= ReadFrames(inputs, tile.n);

        const auto activations = [&] {
          return ActivationBlocks<T, false>(inputs, tile, warpgroup, lines, block_bytes);
        };
        LogSoftmaxEpilogue epilogue(inputs.shape.V, arguments.blank, label);
        MultiplySlices(inputs, ring, lines, block_bytes, activations, epilogue);

        const PartialRow parts[2] = {epilogue.Merge(0), epilogue.Merge(1)};
        const float blank_logits[2] = {epilogue.BlankLogit(0), epilogue.BlankLogit(1)};
        const float label_logits[2] = {epilogue.LabelLogit(0), epilogue.LabelLogit(1)};
        if (!is_stored) return;
        if (is_padding) {
          StorePaddingRow(arguments.results, cell);
        } else {
          StoreRow(arguments.results, cell,
                   ExponentReference(row == 0 ? parts[0].maximum : parts[1].maximum),
                   row == 0 ? parts[0].sum : parts[1].sum, 0.f,
                   row == 0 ? blank_logits[0] : blank_logits[1],
                   row == 0 ? label_logits[0] : label_logits[1], label);
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
  const auto kernel = JointForwardKernel<T, kWarpgroups>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned int>(tiles), JointThreads(kWarpgroups), plan.shared_bytes,
           stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace

// Chunks are the packing grid's second dimension.
constexpr int kMaxChunks = 65535;

JointPackedBytes PackedJointBytes(int32_t H, int32_t V) {
  const JointPlan plan = MakePlan({1, 1, 1, H, V});
  if (plan.warpgroups == 0 || plan.chunks > kMaxChunks) return {0, 0};
  const int64_t lines = RoundUp(V, kWgmmaColumns);
  return {lines * RoundUp(H, kBlockDepth) * 2, lines * static_cast<int64_t>(sizeof(float))};
}

template <typename T>
cudaError_t JointPack(cudaStream_t stream, int32_t H, int32_t V, const T* kernel, const T* bias,
                      void* packed_kernel, float* packed_bias) {
  const JointPlan plan = MakePlan({1, 1, 1, H, V});
  if (plan.warpgroups == 0 || plan.chunks > kMaxChunks) return cudaErrorInvalidValue;
  PackColumns<T>
      <<<dim3(plan.depth_blocks * kSlicesPerBlock, plan.chunks), kWgmmaColumns, 0, stream>>>(
          kernel, bias, H, V, static_cast<unsigned char*>(packed_kernel), packed_bias);
  return cudaGetLastError();
}

template <typename T>
cudaError_t JointForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                         int32_t blank, const T* encoder, const T* predictor,
                         const void* packed_kernel, const float* packed_bias, const int32_t* labels,
                         const int32_t* frames, float* blank_log_probs, float* label_log_probs,
                         float* maxima, float* log_sums) {
  const JointPlan plan = MakePlan(shape);
  if (plan.warpgroups == 0 || blank < 0 || blank >= shape.V) return cudaErrorInvalidValue;
  const ForwardArguments<T> arguments{MakeTileInputs(shape, plan, activation, encoder, predictor,
                                                     labels, frames, packed_kernel, packed_bias),
                                      blank,
                                      0,
                                      0,
                                      {blank_log_probs, label_log_probs, maxima, log_sums}};
  return plan.warpgroups == 2 ? LaunchTiles<T, 2>(stream, plan, arguments)
                              : LaunchTiles<T, 1>(stream, plan, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                \
  template cudaError_t JointPack<T>(cudaStream_t, int32_t, int32_t, const T*, const T*, void*, \
                                    float*);                                                   \
  template cudaError_t JointForward<T>(                                                        \
      cudaStream_t, const JointShape&, Activation, int32_t, const T*, const T*, const void*,   \
      const float*, const int32_t*, const int32_t*, float*, float*, float*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
