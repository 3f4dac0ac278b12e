// Gradients of the joint network's logits over a list of tiles, and the activations that the
// products behind them need:
//
//   activations = dropout(activation(encoder[n / K, t] + predictor[n, u]))
//   logits      = activations kernel + bias
//   g_v         = c_sum exp((logit_v - maximum) - log_sum) [v in C] + sum_i c_i [v = v_i]
//
// as EntriesBackward (cuda/rows/entries.h) has it, clamped to [-bounds[n], bounds[n]]. The logits
// are computed again and never stored.
#ifndef JAX_RNNT_CUDA_JOINT_GRADIENTS_H_
#define JAX_RNNT_CUDA_JOINT_GRADIENTS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/entries.h"
#include "core/host_device.h"
#include "cuda/joint/inputs.h"
#include "cuda/joint/list.h"
#include "cuda/joint/shape.h"
#include "cuda/joint/target.h"

namespace jax_rnnt::cuda {

// Whether JointGradients takes the shape with W columns of the kernel: what PackedJointBytes says,
// and fewer than 2^31 tiles.
bool JointGradientsFits(const JointTarget& target, const JointShape& shape, int32_t W);

// Sums of the bias's gradient that a tile has: of the cells whose gradients of a column one warp
// has. By mma.sync, sums of 16 cells took up to 1 ms of 10 at (16, 400, 100, 640, 4096) (H100).
JAX_RNNT_HOST_DEVICE constexpr int BiasParts(JointProducts products) {
  return products == JointProducts::kMma ? 2 : 8;
}

// Instantiated for T = __nv_bfloat16 and __half. Enqueues one kernel, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs.
//   target, options, inputs, packed   as JointForward takes them; the gradients and activations of
//                             cells of padding are zeros
//   tiles             (R)     numbers as cuda/joint/list.h has them
//   bounds            (N)     of the gradients' magnitudes, before bias_parts are taken and before
//                             they are rounded; +inf for no clamp. NaN stays NaN
//   maxima, log_sums          (N, T, U), as JointForward wrote them
//   cotangents                each (N, T, U)
//   logits_gradients  (R, 16, 8, W) written throughout, rounded to T
//   activations       (R, 16, 8, H) written throughout, rounded to T
//   bias_parts        (R, BiasParts, W) of float or null: sums of the gradients over 16 / BiasParts
//                     frames each, taken before they are rounded; their sum is the bias's gradient
// Where W is a multiple of 8 and logits_gradients (and bias_parts) are aligned to 16 bytes, they
// are written 16 bytes at a time; so are the activations by H. Where W is a multiple of 16, rows of
// gradients are whole sectors of memory: W = 1032 took 6 % longer than 1040 (H100).
template <typename T>
cudaError_t JointGradients(cudaStream_t stream, const JointTarget& target, const JointShape& shape,
                           Activation activation, const EntriesOptions& options, int64_t R,
                           const JointInputs<T>& inputs, const JointPacked& packed,
                           const int32_t* tiles, const float* bounds, const float* maxima,
                           const float* log_sums, const EntriesCotangents<float>& cotangents,
                           T* logits_gradients, T* activations, float* bias_parts);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_GRADIENTS_H_
