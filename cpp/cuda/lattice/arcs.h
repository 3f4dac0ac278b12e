// Lattices of any topology on CUDA: costs from the arcs' log-weights, and the arcs' cotangents from
// the costs'. core/arcs.h has the recursions.
//
// arcs.cu chooses the kernels: walk.cuh (alpha and beta, of topologies known when they are
// compiled), walk_any.cuh (of any other, and with initial and final weights), posteriors.cuh (the
// cotangents), walk_cotangents.cuh (beta and the cotangents in one, for many sequences); launch.cuh
// gives them their shapes. A walk's warps are walk.cuh (the chain of steps), walk_feeder.cuh and
// walk_writer.cuh; walk_place.cuh, walk_columns.cuh, walk_arguments.cuh, topology.cuh, gate.cuh and
// power.cuh are parts of them.
#ifndef JAX_RNNT_CUDA_LATTICE_ARCS_H_
#define JAX_RNNT_CUDA_LATTICE_ARCS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"

namespace jax_rnnt::cuda {

// All functions are instantiated for Real = float and double. They enqueue kernels on `stream`,
// allocate nothing, synchronise nothing and give the same bits for the same inputs. Nothing beyond
// a sequence's lengths is read, whatever the lengths. `layout` and `arrays` hold device pointers.
//   costs    (sequences), nats
//   status   scratch: (sequences, 2)

// alphas: scratch, (cells). totals: scratch, (sequences).
template <typename Real>
cudaError_t ArcsCost(cudaStream_t stream, const LatticeLayout& layout, const ArcTopology& topology,
                     const ArcArrays<Real>& arrays, Real* costs, Scaled<Real>* alphas,
                     Scaled<Real>* totals, Real* status);

// The same costs, and what ArcsBackward needs:
//   alphas, betas   (cells): of node (t, u) in cell (t, u), t < T_n; where ArcsBackward walks beta
//                   itself, betas are no more than marks for it
//   totals          (sequences): P, mantissa NaN where the cost is
template <typename Real>
cudaError_t ArcsForward(cudaStream_t stream, const LatticeLayout& layout,
                        const ArcTopology& topology, const ArcArrays<Real>& arrays, Real* costs,
                        Scaled<Real>* alphas, Scaled<Real>* betas, Scaled<Real>* totals,
                        Real* status);

//   cotangents                             (sequences), of the costs
//   arc_cotangents                         topology.count arrays (cells): minus the probability
//                                          that the alignment takes the arc, times its
//                                          sequence's cotangent; exact zeros beyond the lengths
//   initial_cotangents, final_cotangents   (sequences, T + 1), where `arrays` has such weights
template <typename Real>
cudaError_t ArcsBackward(cudaStream_t stream, const LatticeLayout& layout, int64_t cells,
                         const ArcTopology& topology, const ArcArrays<Real>& arrays,
                         const Scaled<Real>* alphas, const Scaled<Real>* betas,
                         const Scaled<Real>* totals, const Real* cotangents,
                         Real* const* arc_cotangents, Real* initial_cotangents,
                         Real* final_cotangents);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_ARCS_H_
