// Forward of a transducer's joint network, and the entries of its logits, without the logits ever
// being stored:
//
//   logits[n, t, u, :] = dropout(activation(encoder[n / K, t, :] + predictor[n, u, :])) kernel +
//   bias
//
// then, for each of these rows, what EntriesForward (cuda/rows/entries.h) computes.
#ifndef JAX_RNNT_CUDA_JOINT_FORWARD_H_
#define JAX_RNNT_CUDA_JOINT_FORWARD_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/entries.h"
#include "cuda/joint/inputs.h"
#include "cuda/joint/shape.h"
#include "cuda/joint/target.h"

namespace jax_rnnt::cuda {

// Instantiated for T = __nv_bfloat16 and __half. Enqueues one kernel, allocates nothing,
// synchronises nothing and gives the same bits for the same inputs. The activations are rounded to
// T, products are summed in float32.
//   target    of the packed kernel, and of a capability whose kernels the GPU runs
//   options   of rows of W logits; its tokens are shape.V
//   inputs    cell (n, t, u) is padding if t >= frames[n] or labels[n, u] is neither kNoLabel nor
//   in
//             [0, V), as core/row_label.h has it by column
//   packed    as JointPack wrote them for H and W
//   results   each (N, T, U), written throughout
// Other pointers need no more than their type's alignment; an H that is a multiple of 8 with
// encoder and predictor aligned to 16 bytes is faster.
template <typename T>
cudaError_t JointForward(cudaStream_t stream, const JointTarget& target, const JointShape& shape,
                         Activation activation, const EntriesOptions& options,
                         const JointInputs<T>& inputs, const JointPacked& packed,
                         const EntriesResults<float>& results);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_FORWARD_H_
