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
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/memory/partial_granule.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// Turns a thread's logits of two rows, which have one label, into gradients, and stores them.
// Through a chunk's products, the accumulators leave few registers for anything else: what the
// epilogue can find anew, its tile and the places of its rows, it does not keep.
template <typename T, int kGroups>
class GradientEpilogue {
 public:
  __device__ __forceinline__ GradientEpilogue(const GradientsArguments<T>& arguments, int32_t label,
                                              float bound)
      : arguments_(arguments),
        label_(label),
        plain_columns_(bound < -kMinusInfinity<float> ? 0 : arguments.options.plain_columns) {}

  // Of pairs of rows as EntriesEpilogue takes them: frame(pair) is the tile's first frame of a
  // pair, cotangents(pair, i) the RowCotangents of its row i.
  template <typename Frame, typename Cotangents, int kPairs, int kAccumulators>
  __device__ __forceinline__ void operator()(int32_t first_v, const Frame& frame,
                                             const Cotangents& cotangents,
                                             float (&logits)[kPairs][kAccumulators]) const {
    TurnAll(cotangents, logits);
    const EntriesOptions& options = arguments_.options.entries;
    const bool is_plain = first_v + kChunkColumns<kAccumulators> <= plain_columns_;
    if (!is_plain) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        ReplaceLeftOut(options, label_, first_v, 0.f, logits[pair]);
      }
    }
    if (PlaceOf<kChunkColumns<kAccumulators>>(options.blank, first_v).is_here) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        AddAt(options.blank, first_v, cotangents(pair, 0).blank, cotangents(pair, 1).blank,
              logits[pair]);
      }
    }
    if (PlaceOf<kChunkColumns<kAccumulators>>(label_, first_v).is_here) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        AddAt(label_, first_v, cotangents(pair, 0).label, cotangents(pair, 1).label, logits[pair]);
      }
    }
    if (!is_plain) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        if (options.pick_count > 0) AddPicks(first_v, frame(pair), logits[pair]);
        Clamp(logits[pair]);
      }
    }
    arguments_.has_gradient_granules ? StoreAll<true>(first_v, frame, logits)
                                     : StoreAll<false>(first_v, frame, logits);
    // The warp's lanes, parted by rows and columns, meet: the products that follow take whole
    // warps.
    __syncwarp();
  }

 private:
  static constexpr int kTileFrames = kGroups * kGroupFrames;

  // The block's first among all rows of the list's tiles.
  static __device__ __forceinline__ int64_t FirstRow() {
    return static_cast<int64_t>(blockIdx.x) * (kTileFrames * kTileColumns);
  }

  // Turns the logits of all pairs. Of several pairs, rows whose maxima are not large, as nearly all
  // are, take no branch: one pair's exponentials then hide behind another's.
  template <typename Cotangents, int kPairs, int kAccumulators>
  static __device__ __forceinline__ void TurnAll(const Cotangents& cotangents,
                                                 float (&logits)[kPairs][kAccumulators]) {
    if constexpr (kPairs > 1) {
      float magnitude = 0.f;
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i) {
        const RowCotangents row = cotangents(i / 2, i % 2);
        // A row without exponentials takes the branch as well.
        magnitude = fmaxf(magnitude, row.scale == 0.f ? kLargeMaximum : fabsf(row.maximum));
      }
      if (!IsLargeMaximum(magnitude)) {
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          const RowCotangents first = cotangents(pair, 0), second = cotangents(pair, 1);
          Exponentials(first, second, __fmul_rn(first.maximum, kLog2E),
                       __fmul_rn(second.maximum, kLog2E), logits[pair]);
        }
        return;
      }
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      Turn(cotangents(pair, 0), cotangents(pair, 1), logits[pair]);
    }
  }

  template <int kAccumulators>
  static __device__ __forceinline__ void Exponentials(const RowCotangents& first,
                                                      const RowCotangents& second,
                                                      float first_scaled, float second_scaled,
                                                      float (&logits)[kAccumulators]) {
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) {
      logits[i] = i / 2 % 2 == 0 ? first.scale * ScaledExp(logits[i], first_scaled)
                                 : second.scale * ScaledExp(logits[i], second_scaled);
    }
  }

  // Replaces the logits of two rows by c_sum softmax_v; by 0 in a row without this term.
  template <int kAccumulators>
  static __device__ __forceinline__ void Turn(const RowCotangents& first,
                                              const RowCotangents& second,
                                              float (&logits)[kAccumulators]) {
    float scaled[2] = {__fmul_rn(first.maximum, kLog2E), __fmul_rn(second.maximum, kLog2E)};
    const bool has_large = IsLargeMaximum(first.maximum) || IsLargeMaximum(second.maximum);
    if (has_large) {
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) {
        const RowCotangents& row = i / 2 % 2 == 0 ? first : second;
        if (IsLargeMaximum(row.maximum)) {
          logits[i] -= row.maximum;
          scaled[i / 2 % 2] = 0.f;
        }
      }
    }
    Exponentials(first, second, scaled[0], scaled[1], logits);
    if (first.scale == 0.f || second.scale == 0.f) {
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) {
        const RowCotangents& row = i / 2 % 2 == 0 ? first : second;
        if (row.scale == 0.f) logits[i] = 0.f;
      }
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
  __device__ __forceinline__ void AddPicks(int32_t first_v, int frame,
                                           float (&logits)[kAccumulators]) const {
    constexpr int kColumns = kChunkColumns<kAccumulators>;
    constexpr int kLanePicks = kMaxPicks / 4;
    const EntriesOptions& options = arguments_.options.entries;
    const int lane = threadIdx.x % 4;
    const CellPair cells =
        FindCells(arguments_.inputs, TileOfBlock(arguments_, kTileFrames).tile, frame, label_);
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

  template <bool kHasGranules, typename Frame, int kPairs, int kAccumulators>
  __device__ __forceinline__ void StoreAll(int32_t first_v, const Frame& frame,
                                           const float (&logits)[kPairs][kAccumulators]) const {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      Store<kHasGranules>(first_v, frame(pair), logits[pair]);
    }
    if (arguments_.bias_parts != nullptr) StoreSums(first_v, frame(0), logits);
  }

  template <bool kHasGranules, int kAccumulators>
  __device__ __forceinline__ void Store(int32_t first_v, int frame,
                                        const float (&logits)[kAccumulators]) const {
    const int32_t lane_v = first_v + FirstLaneColumn();
    const int32_t W = arguments_.options.entries.width;
    // The first of the thread's rows; the other is kTileColumns rows behind it.
    const int64_t row_of_tile = frame * kTileColumns + AccumulatorCellColumn(ReadThread());
    T* gradients = arguments_.logits_gradients + (FirstRow() + row_of_tile) * W;
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

  // Stores the gradients' sums over the rows of the warp, whose first frame is `frame`. Each
  // exchange halves the columns that a lane has, until of a chunk of 256 lane l has the eight from
  // 8 l on, of 32 one.
  template <int kPairs, int kAccumulators>
  __device__ __forceinline__ void StoreSums(int32_t first_v, int frame,
                                            const float (&logits)[kPairs][kAccumulators]) const {
    constexpr int kSums = kAccumulators / 2;
    constexpr int kLaneSums = kSums / 8;
    static_assert(kLaneSums == 8 || kLaneSums == 1);
    float sums[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int accumulator = i / 2 * 4 + i % 2;
      sums[i] = logits[0][accumulator] + logits[0][accumulator + 2];
#pragma unroll
      for (int pair = 1; pair < kPairs; ++pair) {
        sums[i] += logits[pair][accumulator] + logits[pair][accumulator + 2];
      }
    }
    const int lane = threadIdx.x % kWarpSize;
    KeepHalf<kSums / 2, 16>(lane, sums);
    KeepHalf<kSums / 4, 8>(lane, sums);
    KeepHalf<kSums / 8, 4>(lane, sums);
    const int32_t W = arguments_.options.entries.width;
    const int32_t v = first_v + (kLaneSums == 8 ? 8 * lane : FirstLaneColumn() + lane / 4);
    constexpr int kPartFrames = 2 * kPairs;
    const int64_t part = FirstRow() / (kPartFrames * kTileColumns) + frame / kPartFrames;
    float* target = arguments_.bias_parts + part * W + v;
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
  int32_t plain_columns_;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_
