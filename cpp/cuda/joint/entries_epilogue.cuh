// The forward's epilogue, which takes a chunk's logits from registers.
#ifndef JAX_RNNT_CUDA_JOINT_ENTRIES_EPILOGUE_CUH_
#define JAX_RNNT_CUDA_JOINT_ENTRIES_EPILOGUE_CUH_

#include <cstdint>

#include "core/entries.h"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// The sum over the core and the entries of a thread's two rows, over the columns that the thread
// has. The four lanes of a quad have all columns among them.
template <typename T>
class EntriesEpilogue {
 public:
  // `label` is the label of both rows; kPaddingRow and kNoLabel match no column. The logits of
  // picks are stored as they come.
  __device__ __forceinline__ EntriesEpilogue(const TileInputs<T>& inputs,
                                             const ChunkOptions& options,
                                             const EntriesResults<float>& results, const Tile& tile,
                                             int32_t label)
      : inputs_(inputs), options_(options), results_(results), tile_(tile), label_(label) {}

  template <int kAccumulators>
  __device__ __forceinline__ void operator()(int32_t first_v, float (&logits)[kAccumulators]) {
    TakeAt(options_.entries.blank, first_v, logits, blank_logits_);
    TakeAt(label_, first_v, logits, label_logits_);
    if (!IsPlainChunk<kAccumulators>(options_, first_v)) {
      if (options_.entries.pick_count > 0) StorePicks(first_v, logits);
      ReplaceLeftOut(options_.entries, label_, first_v, kMinusInfinity<float>, logits);
    }
    Add<0>(logits);
    Add<1>(logits);
    // The warp's lanes, parted by labels and large maxima, meet: the products that follow take
    // whole warps.
    __syncwarp();
  }

  // The sum of row `row` of the thread's two, merged over the quad, in all of its lanes.
  __device__ __forceinline__ PartialRow Merge(int row) const {
    PartialRow merged;
    const PartialRow part = parts_[row];
    merged.maximum = MaxOverLanes<4>(part.maximum);
    merged.sum = SumOverLanes<4>(part.sum * RescaleFactor(part.maximum, merged.maximum));
    return merged;
  }
  // The logits of the blank and of the row's label, in all lanes of the quad.
  __device__ __forceinline__ float BlankLogit(int row) const {
    return __shfl_sync(kAllLanes, blank_logits_[row], LaneOfColumn(options_.entries.blank), 4);
  }
  __device__ __forceinline__ float LabelLogit(int row) const {
    return __shfl_sync(kAllLanes, label_logits_[row], LaneOfColumn(label_), 4);
  }

 private:
  // Stores the logits of the picks that are in the chunk: each is in one chunk of the row.
  template <int kAccumulators>
  __device__ __forceinline__ void StorePicks(int32_t first_v,
                                             const float (&logits)[kAccumulators]) const {
    const EntriesOptions& options = options_.entries;
    const CellPair cells = FindCells(inputs_, tile_, label_);
#pragma unroll 1
    for (int i = 0; i < options.pick_count; ++i) {
      const int32_t v = options.picks[i];
      if (!HasColumn<kChunkColumns<kAccumulators>>(v, first_v)) continue;
      float picked[2] = {};
      TakeAt(v, first_v, logits, picked);
      if (threadIdx.x % 4 != LaneOfColumn(v)) continue;
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        if (row < cells.stored) {
          results_.pick_logits[i][cells.first + row * inputs_.shape.U] =
              row < cells.real ? picked[row] : kMinusInfinity<float>;
        }
      }
    }
  }

  template <int kRow, int kAccumulators>
  __device__ __forceinline__ void Add(float (&logits)[kAccumulators]) {
    PartialRow& part = parts_[kRow];
    float maxima[2] = {part.maximum, kMinusInfinity<float>};
#pragma unroll
    for (int i = 2 * kRow; i < kAccumulators; i += 4) {
      maxima[0] = fmaxf(maxima[0], logits[i]);
      maxima[1] = fmaxf(maxima[1], logits[i + 1]);
    }
    const float maximum = fmaxf(maxima[0], maxima[1]);
    const float reference = ExponentReference(maximum);
    const ScaledMaximum scaled = ScaleForSum(reference);
    if (IsLargeMaximum(reference)) {
#pragma unroll
      for (int i = 2 * kRow; i < kAccumulators; i += 4) {
        logits[i] -= reference;
        logits[i + 1] -= reference;
      }
    }
    float sums[2] = {0.f, 0.f};
#pragma unroll
    for (int i = 2 * kRow; i < kAccumulators; i += 4) {
      sums[0] += ScaledExp(logits[i], scaled.scaled);
      sums[1] += ScaledExp(logits[i + 1], scaled.scaled);
    }
    part.sum = fmaf(part.sum, RescaleFactor(part.maximum, maximum),
                    (sums[0] + sums[1]) * Exp2(-scaled.residual));
    part.maximum = maximum;
  }

  const TileInputs<T>& inputs_;
  const ChunkOptions& options_;
  const EntriesResults<float>& results_;
  const Tile& tile_;
  int32_t label_;
  PartialRow parts_[2];
  float blank_logits_[2] = {kMinusInfinity<float>, kMinusInfinity<float>};
  float label_logits_[2] = {kMinusInfinity<float>, kMinusInfinity<float>};
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_ENTRIES_EPILOGUE_CUH_
