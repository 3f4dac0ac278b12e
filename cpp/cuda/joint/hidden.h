// Gradients of the joint network's inputs over a list of tiles, from those of its activations:
//
//   d[n, t, u] = activation'(encoder[n / K, t] + predictor[n, u]) dropout(hidden_gradients[n, t,
//   u])
//
// summed over each tile's columns for the encoder and over its frames for the predictor.
#ifndef JAX_RNNT_CUDA_JOINT_HIDDEN_H_
#define JAX_RNNT_CUDA_JOINT_HIDDEN_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/joint/inputs.h"
#include "cuda/joint/list.h"
#include "cuda/joint/shape.h"

namespace jax_rnnt::cuda {

// Instantiated for T = float, __nv_bfloat16 and __half, for any GPU and any H. Enqueues one kernel,
// allocates nothing, synchronises nothing and gives the same bits for the same inputs: sums are of
// float32, in one order.
//   inputs            cell (n, t, u) is padding if t >= frames[n] or labels[n, u] is neither
//                     kNoLabel nor in [0, V); its d is 0 and its inputs are not read. d is 0 as
//                     well where the slope is, or the unit is dropped, whatever the gradient
//   tiles             (R)              numbers as cuda/joint/list.h has them
//   hidden_gradients  (R, 16, 8, H)
//   encoder_parts     (R, 16, H)       sums over the columns, written throughout
//   predictor_parts   (R, 8, H)        sums over the frames, written throughout
// Rows that are whole granules of 16 bytes at aligned addresses are faster.
template <typename T>
cudaError_t JointHidden(cudaStream_t stream, const JointShape& shape, Activation activation,
                        int64_t R, const JointInputs<T>& inputs, const int32_t* tiles,
                        const T* hidden_gradients, float* encoder_parts, float* predictor_parts);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_HIDDEN_H_
