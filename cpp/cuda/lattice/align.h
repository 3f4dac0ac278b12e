// Best paths on CUDA: choices and scores from the arcs' log-probabilities, and back, the frames of
// the labels. core/best_path.h has the recurrence, and says where a sequence's words are.
#ifndef JAX_RNNT_CUDA_LATTICE_ALIGN_H_
#define JAX_RNNT_CUDA_LATTICE_ALIGN_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/best_path.h"
#include "core/lattice_layout.h"

namespace jax_rnnt::cuda {

// Both are instantiated for Real = float and double. They enqueue kernels on `stream`, allocate
// nothing, synchronise nothing and give the same bits for the same inputs. Nothing beyond a
// sequence's lengths is read, whatever the lengths. Layouts hold device pointers.

// How many doubles of scratch LatticeAlign takes for each group: one a frame. A compact sequence
// needs them if it has more than 32 columns: they are a 32nd of its cells at most.
inline int64_t CountAlignScratch(const LatticeLayout& layout) {
  return layout.compact() ? layout.rows_per_group / 32 + 1 : layout.max_frames;
}

// As LatticeAlign of cpu/lattice/align.h.
//   scratch   CountAlignScratch(layout) for each group
template <typename Real>
cudaError_t LatticeAlign(cudaStream_t stream, const LatticeLayout& layout,
                         const Real* blank_log_probs, const Real* label_log_probs,
                         const PathScore<Real>* before, PathScore<Real>* after, int32_t* words,
                         double* scratch);

// As LatticeTrace of cpu/lattice/align.h.
template <typename Real>
cudaError_t LatticeTrace(cudaStream_t stream, const PathWordsLayout& layout,
                         const PathScore<Real>* scores, const int32_t* words, Real* log_probs,
                         int32_t* label_frames);

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_ALIGN_H_
