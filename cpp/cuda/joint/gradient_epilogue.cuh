// The epilogue of the gradients, which takes a chunk's logits from registers. Here the gradient of
// a padded cell becomes zero: its row is not active.
#ifndef JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_
#define JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_

#include <cstdint>

#include "core/row_label.h"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/list.h"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/memory/partial_granule.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

template <typename T>
struct GradientsArguments {
  TileInputs<T> inputs;
  int32_t blank;
  TileGrid grid;
  bool has_gradient_granules;    // rows of logits_gradients and bias_parts are whole granules at
                                 // aligned addresses
  bool has_activation_granules;  // so are rows of activations
  const float* maxima;
  const float* log_sums;
  const float* blank_cotangents;
  const float* label_cotangents;
  const int32_t* tiles;
  T* logits_gradients;
  T* activations;
  float* bias_parts;
};

// The numbers that a row's gradient takes besides its logits. A log_sum of +inf marks a row of
// zeros, which a padded cell is.
struct RowCotangents {
  float maximum = 0.f;
  float log_sum = -kMinusInfinity<float>;
  float blank = 0.f;
  float label = 0.f;
};

__device__ __forceinline__ bool IsActive(const RowCotangents& row) {
  return row.log_sum < -kMinusInfinity<float> && (row.blank != 0.f || row.label != 0.f);
}

// The numbers of a cell whose label is `label`.
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

// Turns a thread's logits of two rows, which have one label, into gradients, and stores them.
template <typename T>
class GradientEpilogue {
 public:
  // Row i of the thread's two goes to gradients + i * kTileColumns * V, and the sums over the
  // warp's rows to bias_part, if that is not null.
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
    // The warp's lanes, parted by rows and columns, meet: the products that follow take whole
    // warps.
    __syncwarp();
  }

 private:
  // Replaces the logits of a row by -(c_blank + c_label) softmax_v; by 0 in a row that is not
  // active.
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

  // Adds one number for each of the two rows to the gradients of column v, if the thread has it.
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

  // Stores the gradients' sums over the warp's rows. Each exchange halves the columns that a lane
  // has, until lane l has the eight from 8 l on.
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

  // Of 2 kCount sums a lane keeps those below kCount, or the others where its bit kCount / 2 is
  // set, and adds to them those of the lane that differs in this bit.
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

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_GRADIENT_EPILOGUE_CUH_
