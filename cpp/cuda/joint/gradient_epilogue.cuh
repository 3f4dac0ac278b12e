// The epilogue of the gradients, which takes a chunk's logits from registers. Here the gradient of
// a padded cell becomes zero: all of its row's cotangents are.
#ifndef JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_
#define JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_

#include <cstdint>

#include "core/entries.h"
#include "cuda/joint/activation.cuh"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/gradient_rows.cuh"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/memory/partial_granule.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// Turns a thread's logits of two rows, which have one label, into gradients, and stores them.
// Through a chunk's products, the accumulators leave few registers for anything else: what the
// epilogue can find anew, its tile and the places of its rows, it does not keep.
template <typename T, int kWarpgroups>
class GradientEpilogue {
 public:
  __device__ __forceinline__ GradientEpilogue(const GradientsArguments<T>& arguments, int32_t label,
                                              const RowCotangents (&rows)[2], float bound)
      : arguments_(arguments),
        label_(label),
        rows_{rows[0], rows[1]},
        plain_columns_(bound < -kMinusInfinity<float> ? 0 : arguments.options.plain_columns) {}

  template <int kAccumulators>
  __device__ __forceinline__ void operator()(int32_t first_v, float (&logits)[kAccumulators]) {
    Turn<0>(logits);
    Turn<1>(logits);
    const EntriesOptions& options = arguments_.options.entries;
    const bool is_plain = first_v + kChunkColumns<kAccumulators> <= plain_columns_;
    if (!is_plain) ReplaceLeftOut(options, label_, first_v, 0.f, logits);
    AddAt(options.blank, first_v, rows_[0].blank, rows_[1].blank, logits);
    AddAt(label_, first_v, rows_[0].label, rows_[1].label, logits);
    if (!is_plain) {
      if (options.pick_count > 0) AddPicks(first_v, logits);
      Clamp(logits);
    }
    arguments_.has_gradient_granules ? Store<true>(first_v, logits) : Store<false>(first_v, logits);
    if (arguments_.bias_parts != nullptr) StoreSums(first_v, logits);
    // The warp's lanes, parted by rows and columns, meet: the products that follow take whole
    // warps.
    __syncwarp();
  }

 private:
  static constexpr int kTileFrames = kWarpgroups * kWarpgroupFrames;

  // The block's first among all rows of the list's tiles.
  static __device__ __forceinline__ int64_t FirstRow() {
    return static_cast<int64_t>(blockIdx.x) * (kTileFrames * kTileColumns);
  }

  // Replaces the logits of a row by c_sum softmax_v; by 0 in a row without this term.
  template <int kRow, int kAccumulators>
  __device__ __forceinline__ void Turn(float (&logits)[kAccumulators]) const {
    const RowCotangents& row = rows_[kRow];
    if (row.scale == 0.f) {
#pragma unroll
      for (int i = 2 * kRow; i < kAccumulators; i += 4) logits[i] = logits[i + 1] = 0.f;
      return;
    }
    if (IsLargeMaximum(row.maximum)) {
#pragma unroll
      for (int i = 2 * kRow; i < kAccumulators; i += 4) {
        logits[i] -= row.maximum;
        logits[i + 1] -= row.maximum;
      }
    }
    const float scaled = ScaleForSum(row.maximum).scaled;
#pragma unroll
    for (int i = 2 * kRow; i < kAccumulators; i += 4) {
      logits[i] = row.scale * ScaledExp(logits[i], scaled);
      logits[i + 1] = row.scale * ScaledExp(logits[i + 1], scaled);
    }
  }

  template <int kAccumulators>
  __device__ __forceinline__ void Clamp(float (&logits)[kAccumulators]) const {
    const float bound = ReadBound(arguments_, TileOfBlock(arguments_, kTileFrames).tile);
    if (!(bound < -kMinusInfinity<float>)) return;
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) {
      logits[i] = MinOrNan(MaxOrNan(logits[i], -bound), bound);
    }
  }

  // Adds one number for each of the two rows to the gradients of column v, if the thread has it.
  template <int kAccumulators>
  static __device__ __forceinline__ void AddAt(int32_t v, int32_t first_v, float first,
                                               float second, float (&logits)[kAccumulators]) {
    UpdateAt(v, first_v, logits,
             [&](int row, float* number) { *number += row == 0 ? first : second; });
  }

  // Adds the cotangents of the picks that are in the chunk. A lane of a quad loads those of every
  // fourth pick, so that all loads start together.
  template <int kAccumulators>
  __device__ __forceinline__ void AddPicks(int32_t first_v, float (&logits)[kAccumulators]) const {
    constexpr int kColumns = kChunkColumns<kAccumulators>;
    constexpr int kLanePicks = kMaxPicks / 4;
    const EntriesOptions& options = arguments_.options.entries;
    const int lane = threadIdx.x % 4;
    const CellPair cells =
        FindCells(arguments_.inputs, TileOfBlock(arguments_, kTileFrames).tile, label_);
    float loaded[kLanePicks][2];
#pragma unroll
    for (int k = 0; k < kLanePicks; ++k) {
      const int i = 4 * k + lane;
      const bool is_here = i < options.pick_count && HasColumn<kColumns>(options.picks[i], first_v);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        loaded[k][row] = is_here && row < cells.real
                             ? __ldg(arguments_.cotangents.picks[i] + cells.first +
                                     row * arguments_.inputs.shape.U)
                             : 0.f;
      }
    }
#pragma unroll 1
    for (int i = 0; i < options.pick_count; ++i) {
      const float first = __shfl_sync(kAllLanes, loaded[0][0], i % 4, 4);
      const float second = __shfl_sync(kAllLanes, loaded[0][1], i % 4, 4);
      if (HasColumn<kColumns>(options.picks[i], first_v)) {
        AddAt(options.picks[i], first_v, first, second, logits);
      }
      __syncwarp();
      if (i % 4 != 3) continue;
#pragma unroll
      for (int k = 1; k < kLanePicks; ++k) {
        loaded[k - 1][0] = loaded[k][0];
        loaded[k - 1][1] = loaded[k][1];
      }
    }
  }

  template <bool kHasGranules, int kAccumulators>
  __device__ __forceinline__ void Store(int32_t first_v,
                                        const float (&logits)[kAccumulators]) const {
    const int32_t lane_v = first_v + FirstLaneColumn();
    const int32_t W = arguments_.options.entries.width;
    // The first of the thread's rows; the other is kTileColumns rows behind it.
    const int thread = ReadThread();
    T* gradients = arguments_.logits_gradients + FirstRow() * W +
                   static_cast<int64_t>(AccumulatorFrame(thread) * kTileColumns +
                                        AccumulatorCellColumn(thread)) *
                       W;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      T* target = gradients + static_cast<int64_t>(row * kTileColumns) * W + lane_v;
#pragma unroll
      for (int i = 2 * row; i < kAccumulators; i += 16) {
        float values[8];
#pragma unroll
        for (int k = 0; k < 8; ++k) values[k] = logits[i + k / 2 * 4 + k % 2];
        const int column = AccumulatorColumn(i);
        StoreGranule<kHasGranules>(target + column, W - lane_v - column, Granule<T>::Pack(values));
      }
    }
  }

  // Stores the gradients' sums over the warp's rows. Each exchange halves the columns that a lane
  // has, until of a chunk of 256 lane l has the eight from 8 l on, of 32 one.
  template <int kAccumulators>
  __device__ __forceinline__ void StoreSums(int32_t first_v,
                                            const float (&logits)[kAccumulators]) const {
    constexpr int kSums = kAccumulators / 2;
    constexpr int kLaneSums = kSums / 8;
    static_assert(kLaneSums == 8 || kLaneSums == 1);
    float sums[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int accumulator = i / 2 * 4 + i % 2;
      sums[i] = logits[accumulator] + logits[accumulator + 2];
    }
    const int lane = threadIdx.x % kWarpSize;
    KeepHalf<kSums / 2, 16>(lane, sums);
    KeepHalf<kSums / 4, 8>(lane, sums);
    KeepHalf<kSums / 8, 4>(lane, sums);
    const int32_t W = arguments_.options.entries.width;
    const int32_t v = first_v + (kLaneSums == 8 ? 8 * lane : FirstLaneColumn() + lane / 4);
    // Each part is of the 16 rows of a warp.
    constexpr int kPartRows = kListedCells / kBiasParts;
    float* target =
        arguments_.bias_parts + (FirstRow() / kPartRows + ReadThread() / kWarpSize) * W + v;
    if (kLaneSums == 8 && arguments_.has_gradient_granules) {
      if (v < W) {
        reinterpret_cast<float4*>(target)[0] = make_float4(sums[0], sums[1], sums[2], sums[3]);
        reinterpret_cast<float4*>(target)[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kLaneSums; ++k) {
        if (v + k < W) target[k] = sums[k];
      }
    }
  }

  // Of 2 kCount sums a lane keeps those below kCount, or the others where its bit kDistance is set,
  // and adds to them those of the lane that differs in this bit.
  template <int kCount, int kDistance, int kSums>
  static __device__ __forceinline__ void KeepHalf(int lane, float (&sums)[kSums]) {
    const bool is_upper = (lane & kDistance) != 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float kept = is_upper ? sums[kCount + i] : sums[i];
      const float given = is_upper ? sums[i] : sums[kCount + i];
      sums[i] = kept + __shfl_xor_sync(kAllLanes, given, kDistance);
    }
  }

  const GradientsArguments<T>& arguments_;
  int32_t label_;
  RowCotangents rows_[2];
  int32_t plain_columns_;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_
