// Gradients of the joint network's inputs over a list of tiles. With i, j a cell of tile r, and
// frame t and column u of sequence n,
//
//   d[r, i, j] = activation'(encoder[n / K, t] + predictor[n, u]) dropout(hidden_gradients[r, i,
//   j]) encoder_parts[r, i]   = sum_j d[r, i, j] predictor_parts[r, j] = sum_i d[r, i, j]
//
// in float32, for each of the H numbers of a row. d is 0 for cells of padding. What dropout
// multiplies by comes before the sums in these equations and after them in the kernel.
//
// Pointers (T is float, __nv_bfloat16 or __half):
//   encoder (N / K, T, H), predictor (N, U, H), hidden_gradients (R, 16, 8, H) of T
//   labels (N, U), frames (N), sequences (N), tiles (R) of int32, seed (2) of uint32
//   encoder_parts (R, 16, H), predictor_parts (R, 8, H) of float
//
// The kernel is bound by the bytes of hidden_gradients, which are read once, and by exponentials. A
// block takes kBlockGranules granules of 16 bytes of every row of a tile. A thread takes one of
// them for kThreadFrames frames, column by column: its sums over columns stay in registers, those
// over its frames go to shared memory, where the block adds them up.
#include <cstdint>
#include <limits>

#include "core/row_label.h"
#include "cuda/joint/activation.cuh"
#include "cuda/joint/dropout.cuh"
#include "cuda/joint/hidden.h"
#include "cuda/joint/list.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {
namespace {

// 16 granules, 256 bytes of a row, are whole lines of memory and divide H = 512, 640 and 1024.
constexpr int kBlockGranules = 16;
constexpr int kThreadFrames = 2;
constexpr int kFrameGroups = kListedFrames / kThreadFrames;
constexpr int kHiddenThreads = kBlockGranules * kFrameGroups;
// The number of columns whose loads a thread has under way at once: 4 granules of hidden_gradients.
constexpr int kColumnsAtOnce = 2;
// Blocks asked for on a multiprocessor. Shared memory, of which a block takes 32 KB for 16-bit
// types, holds 6 of them. Loads of single elements and dropout take more registers than 6 blocks
// leave.
constexpr int HiddenBlocks(bool has_granules, bool has_dropout) {
  return ResidentBlocks(kHiddenThreads, !has_granules ? 4 : has_dropout ? 5 : 6);
}

template <typename T>
struct HiddenArguments {
  JointShape shape;
  Activation activation;
  TileGrid grid;
  uint32_t row_blocks;  // of a tile's rows
  JointInputs<T> inputs;
  DropoutArguments dropout;
  const int32_t* tiles;
  const T* hidden_gradients;
  float* encoder_parts;
  float* predictor_parts;
};

// The granule at `source`. Elements from `count` (any number) on are beyond the row: they are not
// read and become zeros.
template <bool kHasGranules, typename T>
__device__ __forceinline__ uint4 LoadRowGranule(const T* source, int count) {
  if constexpr (kHasGranules) {
    return count > 0 ? __ldg(reinterpret_cast<const uint4*>(source)) : make_uint4(0, 0, 0, 0);
  } else {
    float values[Granule<T>::kElements];
#pragma unroll
    for (int i = 0; i < Granule<T>::kElements; ++i) {
      values[i] = i < count ? ToAccumulator(source[i]) : 0.f;
    }
    return Granule<T>::Pack(values);
  }
}

// Stores the first `count` (any number) of four numbers to `target`; the others are beyond the row.
template <bool kHasGranules>
__device__ __forceinline__ void StoreFour(float* target, int count, float4 values) {
  if constexpr (kHasGranules) {
    if (count > 0) *reinterpret_cast<float4*>(target) = values;
  } else {
    if (count > 0) target[0] = values.x;
    if (count > 1) target[1] = values.y;
    if (count > 2) target[2] = values.z;
    if (count > 3) target[3] = values.w;
  }
}

template <typename T, bool kHasGranules, bool kHasDropout>
__global__ void __launch_bounds__(kHiddenThreads, HiddenBlocks(kHasGranules, kHasDropout))
    JointHiddenKernel(const HiddenArguments<T> arguments) {
  constexpr int kElements = Granule<T>::kElements;
  constexpr int kFours = kElements / 4;
  // The sums over each group of frames, for each column: the first four elements of every granule,
  // then the others.
  __shared__ float4 sums[kFrameGroups][kListedColumns][kFours][kBlockGranules];
  const JointShape& shape = arguments.shape;
  const JointInputs<T>& inputs = arguments.inputs;
  const int64_t H = shape.H;
  const uint32_t r = blockIdx.x / arguments.row_blocks;
  const int first_h =
      static_cast<int>((blockIdx.x - r * arguments.row_blocks) * (kBlockGranules * kElements));
  const int granule = threadIdx.x % kBlockGranules;
  const int group = threadIdx.x / kBlockGranules;
  const int h = first_h + granule * kElements;
  const int count = shape.H - h;

  const uint32_t number = __ldg(arguments.tiles + r);
  int32_t n = 0, first_frame = 0, first_column = 0;
  int frames_left = 0;  // of this thread's, any number
  bool is_column = false;
  if (number < arguments.grid.numbers) {
    const uint32_t block = number / arguments.grid.column_blocks;
    n = static_cast<int32_t>(block / arguments.grid.frame_blocks);
    first_frame = static_cast<int32_t>(block % arguments.grid.frame_blocks) * kListedFrames +
                  group * kThreadFrames;
    first_column = static_cast<int32_t>(number % arguments.grid.column_blocks) * kListedColumns;
    frames_left = max(0, min(__ldg(inputs.frames + n), shape.T)) - first_frame;
    const int32_t u = first_column + threadIdx.x % kListedColumns;
    is_column =
        u < shape.U &&
        !IsPaddingRow(__ldg(inputs.labels + static_cast<int64_t>(n) * shape.U + u), shape.V);
  }
  // Bit j: column j is not padding. The bits of further lanes repeat it.
  const unsigned int columns = __ballot_sync(kAllLanes, is_column);

  const Dropout<kHasDropout> dropout(arguments.dropout, n);
  const T* predictor =
      inputs.predictor + (static_cast<int64_t>(n) * shape.U + first_column) * H + h;
  const T* gradients =
      arguments.hidden_gradients +
      (static_cast<int64_t>(r) * kListedFrames + group * kThreadFrames) * kListedColumns * H + h;
  float encoder[kThreadFrames][kElements];
  float encoder_sums[kThreadFrames][kElements];
#pragma unroll
  for (int i = 0; i < kThreadFrames; ++i) {
    const T* source =
        inputs.encoder + (static_cast<int64_t>(n / shape.K) * shape.T + first_frame + i) * H + h;
    Granule<T>::Unpack(LoadRowGranule<kHasGranules>(source, i < frames_left ? count : 0),
                       encoder[i]);
#pragma unroll
    for (int k = 0; k < kElements; ++k) encoder_sums[i][k] = 0.f;
  }

  // One loop for each activation: chosen inside it, for every granule, the choice took
  // 9 % of the time.
  DispatchActivation(arguments.activation, [&](auto tag) {
#pragma unroll 1
    for (int first = 0; first < kListedColumns; first += kColumnsAtOnce) {
      uint4 loaded[kColumnsAtOnce][kThreadFrames + 1];
#pragma unroll
      for (int j = 0; j < kColumnsAtOnce; ++j) {
        const int column = first + j;
        const int column_count = (columns >> column & 1) != 0 && frames_left > 0 ? count : 0;
#pragma unroll
        for (int i = 0; i < kThreadFrames; ++i) {
          loaded[j][i] = LoadRowGranule<kHasGranules>(gradients + (i * kListedColumns + column) * H,
                                                      i < frames_left ? column_count : 0);
        }
        loaded[j][kThreadFrames] =
            LoadRowGranule<kHasGranules>(predictor + column * H, column_count);
      }
#pragma unroll
      for (int j = 0; j < kColumnsAtOnce; ++j) {
        const int column = first + j;
        float column_sums[kElements] = {};
        if ((columns >> column & 1) != 0) {
#pragma unroll
          for (int i = 0; i < kThreadFrames; ++i) {
            if (i >= frames_left) continue;
            float slopes[kElements], values[kElements];
            Granule<T>::Unpack(loaded[j][kThreadFrames], slopes);
#pragma unroll
            for (int k = 0; k < kElements; ++k) slopes[k] += encoder[i][k];
            Differentiate<decltype(tag)::value>(slopes);
            Granule<T>::Unpack(loaded[j][i], values);
            bool is_kept[kElements];
            if constexpr (kHasDropout) {
              dropout.KeptUnits(h, first_frame + i, first_column + column, is_kept);
            }
#pragma unroll
            for (int k = 0; k < kElements; ++k) {
              // A slope of 0 stops a gradient that has overflowed its dtype, as relu's select does.
              const bool has_slope = slopes[k] != 0.f && (!kHasDropout || is_kept[k]);
              const float d = has_slope ? __fmul_rn(slopes[k], values[k]) : 0.f;
              encoder_sums[i][k] += d;
              column_sums[k] = i == 0 ? d : column_sums[k] + d;
            }
          }
        }
#pragma unroll
        for (int k = 0; kHasDropout && k < kElements; ++k) column_sums[k] *= dropout.Scale();
#pragma unroll
        for (int four = 0; four < kFours; ++four) {
          sums[group][column][four][granule] =
              make_float4(column_sums[4 * four], column_sums[4 * four + 1],
                          column_sums[4 * four + 2], column_sums[4 * four + 3]);
        }
      }
    }
  });

#pragma unroll
  for (int i = 0; i < kThreadFrames; ++i) {
    float* target = arguments.encoder_parts +
                    (static_cast<int64_t>(r) * kListedFrames + group * kThreadFrames + i) * H + h;
#pragma unroll
    for (int k = 0; kHasDropout && k < kElements; ++k) encoder_sums[i][k] *= dropout.Scale();
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
      StoreFour<kHasGranules>(
          target + 4 * four, count - 4 * four,
          make_float4(encoder_sums[i][4 * four], encoder_sums[i][4 * four + 1],
                      encoder_sums[i][4 * four + 2], encoder_sums[i][4 * four + 3]));
    }
  }

  // The sums of all groups of frames become visible to all threads.
  __syncthreads();
  constexpr int kRowFours = kFours * kBlockGranules;
  for (int i = threadIdx.x; i < kListedColumns * kRowFours; i += kHiddenThreads) {
    const int column = i / kRowFours;
    // Neighbouring threads store neighbouring fours.
    const int four = i % kFours;
    const int four_granule = i % kRowFours / kFours;
    float4 total = sums[0][column][four][four_granule];
#pragma unroll
    for (int k = 1; k < kFrameGroups; ++k) {
      const float4 part = sums[k][column][four][four_granule];
      total.x += part.x;
      total.y += part.y;
      total.z += part.z;
      total.w += part.w;
    }
    const int four_h = first_h + four_granule * kElements + 4 * four;
    StoreFour<kHasGranules>(arguments.predictor_parts +
                                (static_cast<int64_t>(r) * kListedColumns + column) * H + four_h,
                            shape.H - four_h, total);
  }
}

}  // namespace

template <typename T>
cudaError_t JointHidden(cudaStream_t stream, const JointShape& shape, Activation activation,
                        int64_t R, const JointInputs<T>& inputs, const int32_t* tiles,
                        const T* hidden_gradients, float* encoder_parts, float* predictor_parts) {
  if (!shape.IsValid() || !IsValid(inputs.dropout) || R < 0) return cudaErrorInvalidValue;
  if (R == 0) return cudaSuccess;
  constexpr int kElements = Granule<T>::kElements;
  constexpr int64_t kBlockElements = kBlockGranules * kElements;
  const int64_t row_blocks = (shape.H + kBlockElements - 1) / kBlockElements;
  const TileGrid grid = MakeTileGrid(shape);
  if (grid.numbers == 0 || R > std::numeric_limits<int32_t>::max() / row_blocks) {
    return cudaErrorInvalidValue;
  }
  const HiddenArguments<T> arguments{shape,         activation,
                                     grid,          static_cast<uint32_t>(row_blocks),
                                     inputs,        MakeDropoutArguments(inputs.dropout),
                                     tiles,         hidden_gradients,
                                     encoder_parts, predictor_parts};
  const bool has_granules = shape.H % kElements == 0 && IsGranuleAligned(inputs.encoder) &&
                            IsGranuleAligned(inputs.predictor) &&
                            IsGranuleAligned(hidden_gradients) && IsGranuleAligned(encoder_parts) &&
                            IsGranuleAligned(predictor_parts);
  const bool has_dropout = inputs.dropout.threshold != 0;
  const auto kernel =
      has_granules
          ? (has_dropout ? JointHiddenKernel<T, true, true> : JointHiddenKernel<T, true, false>)
          : (has_dropout ? JointHiddenKernel<T, false, true> : JointHiddenKernel<T, false, false>);
  kernel<<<static_cast<unsigned int>(R * row_blocks), kHiddenThreads, 0, stream>>>(arguments);
  return cudaGetLastError();
}

#define JAX_RNNT_INSTANTIATE(T)                                                                \
  template cudaError_t JointHidden<T>(cudaStream_t, const JointShape&, Activation, int64_t,    \
                                      const JointInputs<T>&, const int32_t*, const T*, float*, \
                                      float*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
