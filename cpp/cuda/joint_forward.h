// Forward of a transducer's joint network with the loss's log-softmax behind it, without the logits
// ever being stored:
//
//   logits[n, t, u, :] = activation(encoder[n, t, :] + predictor[n, u, :]) kernel + bias
//
// then, for each of these rows, what PickForward (cuda/pick.h) computes. Needs a GPU of compute
// capability 9.0 and code compiled for sm_90a.
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

// Whether LaunchJointForward takes the shape: all of its numbers positive, and H up to 1408, as
// shared memory must hold a tile's activations.
bool JointForwardFits(const JointShape& shape);

// Bytes of dynamic shared memory of a block, 0 where the shape does not fit.
int JointForwardSharedBytes(const JointShape& shape);

// Bytes of the two scratch buffers: `kernel` and `bias` as PackJointKernel rearranges them.
struct JointForwardScratch {
  int64_t packed_kernel;
  int64_t packed_bias;
};
JointForwardScratch JointForwardScratchBytes(const JointShape& shape);

// `kernel` and `bias` in the order in which the kernels over tiles read them. The forward calls
// this itself. Instantiated for T = __nv_bfloat16 and __half; enqueues one kernel.
//   kernel (H, V)    bias (V) or null
//   packed_kernel, packed_bias  as many bytes as JointForwardScratchBytes says, aligned to 128
template <typename T>
cudaError_t PackJointKernel(cudaStream_t stream, const JointShape& shape, const T* kernel,
                            const T* bias, void* packed_kernel, float* packed_bias);

// Instantiated for T = __nv_bfloat16 and __half. Enqueues two kernels, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs. The activations are rounded to
// T, products are summed in float32.
//   encoder   (N, T, H)      predictor  (N, U, H)
//   kernel    (H, V)         bias       (V) or null
//   labels    (N, U)         cell (n, t, u) is padding if t >= frames[n] or labels[n, u] is neither
//   frames    (N)              kNoLabel nor in [0, V), as core/row_label.h has it by column
//   packed_kernel, packed_bias  written as PackJointKernel does
//   blank_log_probs, label_log_probs, maxima, log_sums   (N, T, U), written throughout
// Other pointers need no more than their type's alignment; an H that is a multiple of 8 with
// encoder and predictor aligned to 16 bytes is faster.
template <typename T>
cudaError_t LaunchJointForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                               int32_t blank, const T* encoder, const T* predictor, const T* kernel,
                               const T* bias, const int32_t* labels, const int32_t* frames,
                               void* packed_kernel, float* packed_bias, float* blank_log_probs,
                               float* label_log_probs, float* maxima, float* log_sums);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_FORWARD_H_
