// The forward's epilogue, which takes a chunk's logits from registers.
#ifndef JAX_RNNT_CUDA_JOINT_ENTRIES_EPILOGUE_CUH_
#define JAX_RNNT_CUDA_JOINT_ENTRIES_EPILOGUE_CUH_

#include <cstdint>

#include "core/entries.h"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/forward_tiles.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// Takes chunks of logits of kPairs pairs of rows. A pair is two frames of one column, the same for
// all pairs of a thread, and so has one label. Sums over the core stay with the thread, over the
// columns that it has: the four lanes of a quad have all columns of a chunk among them. Single
// logits are taken as they come, each in one chunk of the row by one lane.
//
// What few chunks need is behind branches that are taken for all pairs at once: no branch of theirs
// parts the exponentials of different pairs.
template <typename T>
class EntriesEpilogue {
 public:
  // `label` is the label of the thread's column; kPaddingRow and kNoLabel match no logit.
  __device__ __forceinline__ EntriesEpilogue(const ForwardArguments<T>& arguments, const Tile& tile,
                                             int32_t label)
      : arguments_(arguments), tile_(tile), label_(label) {}

  // frame(pair) is the tile's first frame of a pair.
  template <typename Frame, int kPairs, int kAccumulators>
  __device__ __forceinline__ void operator()(int32_t first_v, const Frame& frame,
                                             float (&logits)[kPairs][kAccumulators],
                                             JointRow (&rows)[kPairs][2]) const {
    const EntriesResults<float>& results = arguments_.results;
    (*this)(first_v, frame, logits, rows, CellsOf<Frame>{*this, frame, results.blank_logits},
            CellsOf<Frame>{*this, frame, results.label_logits});
  }

  // Likewise, with the logits of the blank and of the label going to blank(pair, picked) and
  // label(pair, picked), by the thread that has those of the pair.
  template <typename Frame, typename Blank, typename Label, int kPairs, int kAccumulators>
  __device__ __forceinline__ void operator()(int32_t first_v, const Frame& frame,
                                             float (&logits)[kPairs][kAccumulators],
                                             JointRow (&rows)[kPairs][2], const Blank& blank,
                                             const Label& label) const {
    const EntriesOptions& options = arguments_.options.entries;
    const EntriesResults<float>& results = arguments_.results;
    Take(options.blank, first_v, logits, blank);
    Take(label_, first_v, logits, label);
    if (!IsPlainChunk<kAccumulators>(arguments_.options, first_v)) {
#pragma unroll 1
      for (int i = 0; i < options.pick_count; ++i) {
        Take(options.picks[i], first_v, logits,
             CellsOf<Frame>{*this, frame, results.pick_logits[i]});
      }
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        ReplaceLeftOut(options, label_, first_v, kMinusInfinity<float>, logits[pair]);
      }
    }
    Add(logits, rows);
    // The warp's lanes, parted by labels and large maxima, meet: the products that follow take
    // whole warps.
    __syncwarp();
  }

 private:
  // Calls take(pair, picked) with the logits of column v, if they are in the chunk.
  template <typename Taken, int kPairs, int kAccumulators>
  static __device__ __forceinline__ void Take(int32_t v, int32_t first_v,
                                              const float (&logits)[kPairs][kAccumulators],
                                              const Taken& take) {
    if (!PlaceOf<kChunkColumns<kAccumulators>>(v, first_v).is_here) return;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      float picked[2] = {};
      TakeAt(v, first_v, logits[pair], picked);
      take(pair, picked);
    }
  }

  // Stores logits to the places of their rows in `target`.
  template <typename Frame>
  struct CellsOf {
    __device__ __forceinline__ void operator()(int pair, const float (&picked)[2]) const {
      const TileInputs<T>& inputs = epilogue.arguments_.inputs;
      const CellPair cells = FindCells(inputs, epilogue.tile_, frame(pair), epilogue.label_);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i < cells.stored) {
          target[cells.first + i * inputs.shape.U] =
              i < cells.real ? picked[i] : kMinusInfinity<float>;
        }
      }
    }

    const EntriesEpilogue& epilogue;
    const Frame& frame;
    float* target;
  };

  // The larger of a row's maximum and those of its logits.
  template <int kRow, int kAccumulators>
  static __device__ __forceinline__ float NewMaximum(const float (&logits)[kAccumulators],
                                                     float maximum) {
    float maxima[2] = {maximum, kMinusInfinity<float>};
#pragma unroll
    for (int k = 2 * kRow; k < kAccumulators; k += 4) {
      maxima[0] = fmaxf(maxima[0], logits[k]);
      maxima[1] = fmaxf(maxima[1], logits[k + 1]);
    }
    return fmaxf(maxima[0], maxima[1]);
  }

  // Adds a row's exponentials over 2^scaled to `factor` times its sum until now.
  template <int kRow, int kAccumulators>
  static __device__ __forceinline__ float NewSum(const float (&logits)[kAccumulators], float scaled,
                                                 float factor, float sum) {
    float sums[2] = {__fmul_rn(sum, factor), 0.f};
#pragma unroll
    for (int k = 2 * kRow; k < kAccumulators; k += 4) {
      sums[0] += ScaledExp(logits[k], scaled);
      sums[1] += ScaledExp(logits[k + 1], scaled);
    }
    return sums[0] + sums[1];
  }

  // Rows whose maxima are neither -inf nor large, as nearly all are, take no branch: one row's
  // exponentials then hide behind another's.
  template <int kPairs, int kAccumulators>
  static __device__ __forceinline__ void Add(float (&logits)[kPairs][kAccumulators],
                                             JointRow (&rows)[kPairs][2]) {
    float maxima[kPairs][2];
    float magnitude = 0.f;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      maxima[pair][0] = NewMaximum<0>(logits[pair], rows[pair][0].maximum);
      maxima[pair][1] = NewMaximum<1>(logits[pair], rows[pair][1].maximum);
      magnitude = fmaxf(magnitude, fmaxf(fabsf(maxima[pair][0]), fabsf(maxima[pair][1])));
    }
    if (IsLargeMaximum(magnitude)) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        AddAny<0>(logits[pair], maxima[pair][0], rows[pair][0]);
        AddAny<1>(logits[pair], maxima[pair][1], rows[pair][1]);
      }
      return;
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        JointRow& row = rows[pair][i];
        const float scaled = __fmul_rn(maxima[pair][i], kLog2E);
        const float factor = Exp2(__fmul_rn(row.maximum, kLog2E) - scaled);
        row.sum = i == 0 ? NewSum<0>(logits[pair], scaled, factor, row.sum)
                         : NewSum<1>(logits[pair], scaled, factor, row.sum);
        row.maximum = maxima[pair][i];
      }
    }
  }

  // Likewise one row, whatever its maximum.
  template <int kRow, int kAccumulators>
  static __device__ __forceinline__ void AddAny(float (&logits)[kAccumulators], float maximum,
                                                JointRow& row) {
    const float reference = ExponentReference(maximum);
    float scaled = __fmul_rn(reference, kLog2E);
    if (IsLargeMaximum(reference)) {
#pragma unroll
      for (int k = 2 * kRow; k < kAccumulators; k += 4) {
        logits[k] -= reference;
        logits[k + 1] -= reference;
      }
      scaled = 0.f;
    }
    row.sum = NewSum<kRow>(logits, scaled, BaseFactor(row.maximum, maximum), row.sum);
    row.maximum = maximum;
  }

  const ForwardArguments<T>& arguments_;
  const Tile& tile_;
  int32_t label_;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_ENTRIES_EPILOGUE_CUH_
