// Forward of a transducer's joint network with the loss's log-softmax behind it, without the logits
// ever being stored:
//
//   logits[n, t, u, :] = activation(encoder[n, t, :] + predictor[n, u, :]) kernel + bias
//
// then, for each of these rows, what PickForward (cuda/rows/pick.h) computes. Needs a GPU of
// compute capability 9.0 and code compiled for sm_90a.
#ifndef JAX_RNNT_CUDA_JOINT_FORWARD_H_
#define JAX_RNNT_CUDA_JOINT_FORWARD_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/joint/shape.h"

namespace jax_rnnt::cuda {

// Instantiated for T = __nv_bfloat16 and __half. Enqueues one kernel, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs. The activations are rounded to
// T, products are summed in float32.
//   encoder   (N, T, H)      predictor  (N, U, H)
//   packed_kernel, packed_bias  as JointPack wrote them
//   labels    (N, U)         cell (n, t, u) is padding if t >= frames[n] or labels[n, u] is neither
//   frames    (N)              kNoLabel nor in [0, V), as core/row_label.h has it by column
//   blank_log_probs, label_log_probs, maxima, log_sums   (N, T, U), written throughout
// Other pointers need no more than their type's alignment; an H that is a multiple of 8 with
// encoder and predictor aligned to 16 bytes is faster.
template <typename T>
cudaError_t JointForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                         int32_t blank, const T* encoder, const T* predictor,
                         const void* packed_kernel, const float* packed_bias, const int32_t* labels,
                         const int32_t* frames, float* blank_log_probs, float* label_log_probs,
                         float* maxima, float* log_sums);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_FORWARD_H_
