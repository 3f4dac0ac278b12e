#include "cpu/lattice/lattice.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/isa.h"

namespace jax_rnnt::cpu {
namespace {

template <typename Real>
std::vector<Real> MakeWorkspace(const LatticeSequence& sequence) {
  return std::vector<Real>(kWorkspacePerColumn * (sequence.columns + kWorkspaceMoreColumns));
}

// Zeros the cells of a padded sequence that lie beyond its lengths.
template <typename Real>
void ZeroPadding(const LatticeLayout& layout, int64_t n, const LatticeSequence& sequence,
                 Real* cotangents) {
  const int64_t frames = sequence.valid ? sequence.frames : 0;
  Real* const begin = cotangents + n * layout.max_frames * layout.max_columns;
  for (int64_t t = 0; t < frames; ++t) {
    Real* const row = begin + t * layout.max_columns;
    std::fill(row + sequence.columns, row + layout.max_columns, Real(0));
  }
  std::fill(begin + frames * layout.max_columns, begin + layout.max_frames * layout.max_columns,
            Real(0));
}

}  // namespace

template <typename Real>
void LatticeCost(const LatticeLayout& layout, const Real* blank_log_probs,
                 const Real* label_log_probs, Real* costs, const ParallelFor& parallel_for) {
  LatticeForward<Real>(layout, blank_log_probs, label_log_probs, costs, /*alphas=*/nullptr,
                       /*totals=*/nullptr, parallel_for);
}

template <typename Real>
void LatticeForward(const LatticeLayout& layout, const Real* blank_log_probs,
                    const Real* label_log_probs, Real* costs, Scaled<Real>* alphas,
                    Scaled<Real>* totals, const ParallelFor& parallel_for) {
  const auto forward = JAX_RNNT_BEST_ISA(SequenceForward<Real>);
  parallel_for(layout.sequences, [&](int64_t n) {
    const LatticeSequence sequence = layout.Sequence(n);
    costs[n] = std::numeric_limits<Real>::quiet_NaN();
    if (!sequence.valid) return;
    std::vector<Real> workspace = MakeWorkspace<Real>(sequence);
    const Scaled<Real> total =
        forward(sequence, blank_log_probs, label_log_probs, alphas, workspace.data());
    costs[n] = static_cast<Real>(NegativeLog(total));
    if (totals != nullptr) totals[n] = total;
  });
}

template <typename Real>
void LatticeBackward(const LatticeLayout& layout, int64_t cells, const Real* blank_log_probs,
                     const Real* label_log_probs, const Scaled<Real>* alphas,
                     const Scaled<Real>* totals, const Real* cotangents, Real* blank_cotangents,
                     Real* label_cotangents, const ParallelFor& parallel_for) {
  const auto backward = JAX_RNNT_BEST_ISA(SequenceBackward<Real>);
  if (layout.compact()) {
    // Cells between and behind the sequences belong to none of them.
    std::fill(blank_cotangents, blank_cotangents + cells, Real(0));
    std::fill(label_cotangents, label_cotangents + cells, Real(0));
  }
  parallel_for(layout.sequences, [&](int64_t n) {
    const LatticeSequence sequence = layout.Sequence(n);
    if (!layout.compact()) {
      ZeroPadding(layout, n, sequence, blank_cotangents);
      ZeroPadding(layout, n, sequence, label_cotangents);
    }
    if (!sequence.valid) return;
    std::vector<Real> workspace = MakeWorkspace<Real>(sequence);
    backward(sequence, totals[n], cotangents[n], blank_log_probs, label_log_probs, alphas,
             blank_cotangents, label_cotangents, workspace.data());
  });
}

#define JAX_RNNT_INSTANTIATE(Real)                                                            \
  template void LatticeCost(const LatticeLayout&, const Real*, const Real*, Real*,            \
                            const ParallelFor&);                                              \
  template void LatticeForward(const LatticeLayout&, const Real*, const Real*, Real*,         \
                               Scaled<Real>*, Scaled<Real>*, const ParallelFor&);             \
  template void LatticeBackward(const LatticeLayout&, int64_t, const Real*, const Real*,      \
                                const Scaled<Real>*, const Scaled<Real>*, const Real*, Real*, \
                                Real*, const ParallelFor&);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu
