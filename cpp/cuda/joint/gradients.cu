// The tiles of JointGradients' kernels: cuda/joint/gradients.h says what these compute. A block
// takes a tile of the list, or half of one where shared memory does not hold the activations of a
// whole one.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>

#include "core/entries.h"
#include "cuda/joint/gradient_rows.cuh"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"

namespace jax_rnnt::cuda {

static_assert(kListedColumns == kTileColumns && kListedFrames == 2 * kGroupFrames);

bool JointGradientsFits(const JointTarget& target, const JointShape& shape, int32_t W) {
  return shape.IsValid() && MakePlan(target, shape.H, W).groups > 0 &&
         MakeTileGrid(shape).numbers > 0;
}

template <typename T>
cudaError_t JointGradients(cudaStream_t stream, const JointTarget& target, const JointShape& shape,
                           Activation activation, const EntriesOptions& options, int64_t R,
                           const JointInputs<T>& inputs, const JointPacked& packed,
                           const int32_t* tiles, const float* bounds, const float* maxima,
                           const float* log_sums, const EntriesCotangents<float>& cotangents,
                           T* logits_gradients, T* activations, float* bias_parts) {
  if (!options.IsValid() || options.tokens != shape.V || !IsValid(inputs.dropout) ||
      !JointGradientsFits(target, shape, options.width) || R < 0) {
    return cudaErrorInvalidValue;
  }
  if (R == 0) return cudaSuccess;
  const JointPlan plan = MakePlan(target, shape.H, options.width);
  const int64_t blocks_per_tile = kListedFrames / (plan.groups * kGroupFrames);
  if (R > std::numeric_limits<int32_t>::max() / blocks_per_tile) return cudaErrorInvalidValue;
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
  const unsigned int blocks = static_cast<unsigned int>(R * blocks_per_tile);
  return plan.products == JointProducts::kWgmma ? LaunchWgmmaGradients(stream, blocks, arguments)
                                                : LaunchMmaGradients(stream, blocks, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                               \
  template cudaError_t JointGradients<T>(                                                     \
      cudaStream_t, const JointTarget&, const JointShape&, Activation, const EntriesOptions&, \
      int64_t, const JointInputs<T>&, const JointPacked&, const int32_t*, const float*,       \
      const float*, const float*, const EntriesCotangents<float>&, T*, T*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
