// The forward's epilogue, which takes a chunk's logits from registers.
#ifndef JAX_RNNT_CUDA_JOINT_LOG_SOFTMAX_EPILOGUE_CUH_
#define JAX_RNNT_CUDA_JOINT_LOG_SOFTMAX_EPILOGUE_CUH_

#include <cstdint>

#include "cuda/joint/columns.cuh"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// The log-softmax of a thread's two rows over the columns that the thread has. The four lanes of a
// quad have all columns among them.
class LogSoftmaxEpilogue {
 public:
  // `label` is the label of both rows; kPaddingRow and kNoLabel match no column.
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
  // The maximum over lanes may lose a NaN; the row's sum keeps it.
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

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_LOG_SOFTMAX_EPILOGUE_CUH_
