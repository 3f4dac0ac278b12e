// The tiles of JointForward's kernels: cuda/joint/forward.h says what these compute.
//
// A block per tile, not one per multiprocessor: lengths differ, tiles of padding leave at once, and
// the hardware hands out the rest. The price is the start of each tile, whose first loads nothing
// hides.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <limits>

#include "core/entries.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/forward_tiles.cuh"
#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"

namespace jax_rnnt::cuda {

template <typename T>
cudaError_t JointForward(cudaStream_t stream, const JointTarget& target, const JointShape& shape,
                         Activation activation, const EntriesOptions& options,
                         const JointInputs<T>& inputs, const JointPacked& packed,
                         const EntriesResults<float>& results) {
  if (!shape.IsValid() || !options.IsValid() || options.tokens != shape.V ||
      !IsValid(inputs.dropout)) {
    return cudaErrorInvalidValue;
  }
  const JointPlan plan = MakePlan(target, shape.H, options.width);
  if (plan.groups == 0) return cudaErrorInvalidValue;
  const int64_t frame_tiles = DivideUp(shape.T, plan.groups * kGroupFrames);
  const int64_t column_tiles = DivideUp(shape.U, kTileColumns);
  constexpr int64_t kMaxTiles = std::numeric_limits<int32_t>::max();
  if (frame_tiles * column_tiles > kMaxTiles / shape.N) return cudaErrorInvalidValue;
  const ForwardArguments<T> arguments{MakeTileInputs(shape, plan, activation, inputs, packed),
                                      MakeChunkOptions(options), static_cast<uint32_t>(frame_tiles),
                                      static_cast<uint32_t>(column_tiles), results};
  const unsigned int tiles = static_cast<unsigned int>(shape.N * frame_tiles * column_tiles);
  return plan.products == JointProducts::kWgmma ? LaunchWgmmaForward(stream, tiles, arguments)
                                                : LaunchMmaForward(stream, tiles, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                  \
  template cudaError_t JointForward<T>(cudaStream_t, const JointTarget&, const JointShape&,      \
                                       Activation, const EntriesOptions&, const JointInputs<T>&, \
                                       const JointPacked&, const EntriesResults<float>&)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
