// The lattice on CUDA: costs and arc posteriors from the arcs' log-probabilities.
#ifndef JAX_RNNT_CUDA_LATTICE_H_
#define JAX_RNNT_CUDA_LATTICE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/lattice_layout.h"
#include "core/scaled.h"

namespace jax_rnnt::cuda {

// Both functions are instantiated for Real = float and double. They enqueue kernels on `stream`,
// allocate nothing, synchronise nothing and give the same bits for the same inputs. Nothing beyond
// a sequence's lengths is read, whatever the lengths.
//   blank_log_probs, label_log_probs   `cells` arcs in nats, laid out as `layout` says
//   costs                              (sequences), nats
// `layout` holds device pointers.

// boundaries: scratch, (sequences, T, 2), compact (cells); used only where U passes one block's
// columns.
template <typename Real>
cudaError_t LatticeCost(cudaStream_t stream, const LatticeLayout& layout,
                        const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                        Scaled<Real>* boundaries);

// blank_posteriors, label_posteriors   (cells): the probability that the alignment takes the arc;
//                                      exact zeros beyond the lengths
// alphas, betas                        (cells), scratch
// totals                               (sequences), scratch
template <typename Real>
cudaError_t LatticePosteriors(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                              const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                              Real* blank_posteriors, Real* label_posteriors, Scaled<Real>* alphas,
                              Scaled<Real>* betas, Scaled<Real>* totals);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_H_
