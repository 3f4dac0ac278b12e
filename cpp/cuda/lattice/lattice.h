// The lattice on CUDA: costs from the arcs' log-probabilities, and the arcs' cotangents from the
// costs'.
#ifndef JAX_RNNT_CUDA_LATTICE_LATTICE_H_
#define JAX_RNNT_CUDA_LATTICE_LATTICE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/lattice_layout.h"
#include "core/scaled.h"

namespace jax_rnnt::cuda {

// All functions are instantiated for Real = float and double. They enqueue kernels on `stream`,
// allocate nothing, synchronise nothing and give the same bits for the same inputs. Nothing beyond
// a sequence's lengths is read, whatever the lengths.
//   blank_log_probs, label_log_probs   `cells` arcs in nats, laid out as `layout` says
//   costs                              (sequences), nats
//   boundaries                         scratch: (sequences, T, 2), compact (cells); used only where
//                                      U passes one block's columns
// `layout` holds device pointers; its sequences have fewer than 2^28 columns.

// cuts: scratch, (sequences, 2, U), compact (cells).
template <typename Real>
cudaError_t LatticeCost(cudaStream_t stream, const LatticeLayout& layout,
                        const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                        Scaled<Real>* cuts, Scaled<Real>* boundaries);

// The same costs, and what LatticeBackward needs:
//   values   (cells): alphas of the first half of a sequence's frames and betas of the other
//   totals   (sequences): P(labels | frames)
template <typename Real>
cudaError_t LatticeForward(cudaStream_t stream, const LatticeLayout& layout,
                           const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                           Scaled<Real>* values, Scaled<Real>* totals, Scaled<Real>* boundaries);

//   cotangents                           (sequences), of the costs
//   blank_cotangents, label_cotangents   (cells): minus the probability that the alignment takes
//                                        the arc, times its sequence's cotangent; exact zeros
//                                        beyond the lengths
template <typename Real>
cudaError_t LatticeBackward(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                            const Real* blank_log_probs, const Real* label_log_probs,
                            const Scaled<Real>* values, const Scaled<Real>* totals,
                            const Real* cotangents, Real* blank_cotangents, Real* label_cotangents,
                            Scaled<Real>* boundaries);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_LATTICE_H_
