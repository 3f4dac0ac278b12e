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

namespace jax_rnnt::cuda {

// kGelu is the approximation with tanh. All are computed in float32.
enum class Activation { kNone, kTanh, kRelu, kSilu, kGelu };

struct JointShape {
  int32_t N;  // sequences
  int32_t T;  // frames
  int32_t U;  // columns: labels and one
  int32_t H;  // width of the joint network
  int32_t V;  // vocabulary, the blank included
};

// Bytes of `kernel` and `bias` in the order in which the kernels over tiles read them; zeros where
// they take no such sizes: both must be positive, V below 2^24, and H up to 1408, as shared memory
// must hold a tile's activations.
struct JointPackedBytes {
  int64_t kernel;
  int64_t bias;
};
JointPackedBytes PackedJointBytes(int32_t H, int32_t V);

// The functions are instantiated for T = __nv_bfloat16 and __half. Each enqueues one kernel,
// allocates nothing, synchronises nothing and gives the same bits for the same inputs.

//   kernel (H, V)    bias (V) or null
//   packed_kernel, packed_bias  as many bytes as PackedJointBytes says, aligned to 128
template <typename T>
cudaError_t JointPack(cudaStream_t stream, int32_t H, int32_t V, const T* kernel, const T* bias,
                      void* packed_kernel, float* packed_bias);

// The activations are rounded to T, products are summed in float32.
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
