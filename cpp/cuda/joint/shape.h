// The sizes and the activation of a joint network, as its kernels take them.
#ifndef JAX_RNNT_CUDA_JOINT_SHAPE_H_
#define JAX_RNNT_CUDA_JOINT_SHAPE_H_

#include <cstdint>

namespace jax_rnnt::cuda {

// kGelu is the approximation with tanh. All activations are computed in float32.
enum class Activation { kNone, kTanh, kRelu, kSilu, kGelu };

struct JointShape {
  int32_t N;  // sequences
  int32_t T;  // frames
  int32_t U;  // columns: the most labels, and one
  int32_t H;  // width of the joint network
  int32_t V;  // vocabulary, the blank included
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_SHAPE_H_
