// What walks over arcs are given, and what they leave besides their values.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_ARGUMENTS_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_ARGUMENTS_CUH_

#include <cstdint>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"

namespace jax_rnnt::cuda {

template <typename Real>
struct WalkArguments {
  LatticeLayout layout;
  ArcTopology topology;
  ArcArrays<Real> arrays;
  bool keeps_values;     // else no more is stored than the walk itself needs
  Scaled<Real>* alphas;  // (cells)
  Scaled<Real>* betas;   // (cells); null: alpha alone is walked
  Scaled<Real>* totals;  // (sequences)
  Real* status;          // (sequences, 2): of alpha's walk and of beta's, see IsNear
  Scaled<Real>* marks;   // (cells), or null: a sequence's first says whether its alphas are near

  __host__ __device__ int directions() const { return betas == nullptr ? 1 : 2; }
};

// Numbers of walk.cuh below 2^kFloor count as zero. Whole numbers from there to 2^22 are held
// exactly in float, with the offset that walk.cuh gives them as well.
constexpr float kFloor = -4e6f;
constexpr float kHighest = 1e6f;

// Whether walk.cuh was right to leave out what is below 2^kFloor: `total` is what its alpha ends
// with, `status` for each direction the largest exponent of its values, at least 0, or NaN if there
// was one among them. Alpha of a node on an alignment that counts is at least total / (largest
// beta), and so with beta. Of one direction alone the other's largest is not known: it is taken for
// no more than the total's, as with log-probabilities. kMargin is for the alignments that need not
// be the likeliest. A total of zero may be one that was left out.
template <typename Real>
__device__ __forceinline__ bool IsNear(Scaled<Real> total, const Real* status, int directions) {
  constexpr Real kMargin = 1e5;
  bool is_near = total.mantissa > 0;
  for (int i = 0; i < directions; ++i) {
    is_near = is_near && status[i] <= Real(kHighest) &&
              total.exponent - status[i] > Real(kFloor) + kMargin;
  }
  return is_near;
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_ARGUMENTS_CUH_
