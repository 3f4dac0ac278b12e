// The sizes and the activation of a joint network, as its kernels take them.
#ifndef JAX_RNNT_CUDA_JOINT_SHAPE_H_
#define JAX_RNNT_CUDA_JOINT_SHAPE_H_

#include <cstdint>

namespace jax_rnnt::cuda {

// kGelu is the approximation with tanh. All activations are computed in float32.
enum class Activation { kNone, kTanh, kRelu, kSilu, kGelu, kSigmoid };
inline constexpr int kActivations = 6;

struct JointShape {
  int32_t N;      // sequences
  int32_t T;      // frames
  int32_t U;      // columns: the most labels, and one
  int32_t H;      // width of the joint network
  int32_t V;      // symbols, the blank included: what labels are below
  int32_t K = 1;  // sequences that share a row block of the encoder; divides N

  bool IsValid() const {
    return N >= 1 && T >= 1 && U >= 1 && H >= 1 && V >= 1 && K >= 1 && N % K == 0;
  }
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_SHAPE_H_
