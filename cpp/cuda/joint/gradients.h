// Gradients of the joint network's logits over a list of tiles, and the activations that the
// products behind them need:
//
//   activations = activation(encoder[n, t] + predictor[n, u])
//   logits      = activations kernel + bias
//   g_v         = c_blank [v = blank] + c_label [v = label] - (c_blank + c_label) softmax_v
//
// with softmax_v and the rows of zeros as PickBackward (cuda/rows/pick.h) has them. The logits are
// computed again and never stored. Needs a GPU of compute capability 9.0 and code compiled for
// sm_90a.
#ifndef JAX_RNNT_CUDA_JOINT_GRADIENTS_H_
#define JAX_RNNT_CUDA_JOINT_GRADIENTS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/joint/list.h"
#include "cuda/joint/shape.h"

namespace jax_rnnt::cuda {

// Whether JointGradients takes the shape: what PackedJointBytes says, and fewer than 2^31 tiles.
bool JointGradientsFits(const JointShape& shape);

// Rows of partial sums of the bias's gradient that a tile has.
inline constexpr int kBiasParts = 8;

// Instantiated for T = __nv_bfloat16 and __half. Enqueues one kernel, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs.
//   encoder   (N, T, H)      predictor  (N, U, H)
//   packed_kernel, packed_bias  as JointPack wrote them
//   labels    (N, U)         cell (n, t, u) is padding if t >= frames[n] or labels[n, u] is neither
//   frames    (N)              kNoLabel nor in [0, V); its gradients and activations are zeros
//   maxima, log_sums                    (N, T, U), as JointForward wrote them
//   blank_cotangents, label_cotangents  (N, T, U)
//   tiles             (R)           numbers as cuda/joint/list.h has them
//   logits_gradients  (R, 16, 8, V) written throughout, rounded to T
//   activations       (R, 16, 8, H) written throughout, rounded to T
//   bias_parts        (R, 8, V) of float or null: sums of the gradients over two frames each, taken
//                     before they are rounded; their sum is the bias's gradient
// Where V is a multiple of 8 and logits_gradients (and bias_parts) are aligned to 16 bytes, they
// are written 16 bytes at a time; so are the activations by H.
template <typename T>
cudaError_t JointGradients(cudaStream_t stream, const JointShape& shape, Activation activation,
                           int32_t blank, int64_t R, const T* encoder, const T* predictor,
                           const void* packed_kernel, const float* packed_bias,
                           const int32_t* labels, const int32_t* frames, const float* maxima,
                           const float* log_sums, const float* blank_cotangents,
                           const float* label_cotangents, const int32_t* tiles, T* logits_gradients,
                           T* activations, float* bias_parts);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_GRADIENTS_H_
