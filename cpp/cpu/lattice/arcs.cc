#include "cpu/lattice/arcs.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/isa.h"

namespace jax_rnnt::cpu {
namespace {

// A task of ArcsBackward computes about so many cotangents, in some 10 us.
constexpr int64_t kCotangentsPerTask = 1 << 15;

template <typename Real>
std::vector<Real> MakeWorkspace(const ArcTopology& topology, const LatticeSequence& sequence) {
  const int rows = 1 + *std::max_element(topology.dt, topology.dt + topology.count);
  return std::vector<Real>(2 * rows * (sequence.columns + kWorkspaceMoreColumns));
}

// The arrays with initial and final of sequence n alone.
template <typename Real>
ArcArrays<Real> OfSequence(const LatticeLayout& layout, ArcArrays<Real> arrays, int64_t n) {
  const int64_t first = n * (layout.max_frames + 1);
  if (arrays.initial != nullptr) arrays.initial += first;
  if (arrays.final_weights != nullptr) arrays.final_weights += first;
  return arrays;
}

// Zeros what the frames [begin, end) of a padded array hold beyond a sequence's lengths.
template <typename Real>
void ZeroPadding(const LatticeLayout& layout, int64_t n, const LatticeSequence& sequence,
                 int64_t begin, int64_t end, Real* cotangents) {
  Real* const first = cotangents + n * layout.max_frames * layout.max_columns;
  for (int64_t t = begin; t < std::min(end, layout.max_frames); ++t) {
    const bool is_inside = sequence.valid && t < sequence.frames;
    Real* const row = first + t * layout.max_columns;
    std::fill(row + (is_inside ? sequence.columns : 0), row + layout.max_columns, Real(0));
  }
}

// The same for the frames of initial and final, of which there is one more.
template <typename Real>
void ZeroPaddingOfWeights(const LatticeLayout& layout, int64_t n, const LatticeSequence& sequence,
                          int64_t begin, int64_t end, Real* cotangents) {
  const int64_t length = sequence.valid ? sequence.frames + 1 : 0;
  Real* const first = cotangents + n * (layout.max_frames + 1);
  if (length < end) std::fill(first + std::max(begin, length), first + end, Real(0));
}

struct Task {
  int64_t sequence;
  int64_t begin;  // of its frames
  int64_t end;
};

// Tasks over the frames of each sequence: of a padded one all of them and one more, of a compact
// one its own.
std::vector<Task> MakeTasks(const LatticeLayout& layout, int arcs) {
  std::vector<Task> tasks;
  for (int64_t n = 0; n < layout.sequences; ++n) {
    const LatticeSequence sequence = layout.Sequence(n);
    if (layout.compact() && !sequence.valid) continue;
    const int64_t frames = layout.compact() ? sequence.frames : layout.max_frames + 1;
    const int64_t columns = layout.compact() ? sequence.columns : layout.max_columns;
    const int64_t step = std::max<int64_t>(1, kCotangentsPerTask / (columns * arcs));
    for (int64_t begin = 0; begin < frames; begin += step) {
      tasks.push_back({n, begin, std::min(begin + step, frames)});
    }
  }
  return tasks;
}

template <typename Real>
void ZeroAll(int64_t cells, int arcs, Real* const* cotangents, const ParallelFor& parallel_for) {
  const int64_t step = 4 * kCotangentsPerTask;
  const int64_t parts = (cells + step - 1) / step;
  parallel_for(arcs * parts, [&](int64_t i) {
    Real* const array = cotangents[i / parts];
    const int64_t begin = i % parts * step;
    std::fill(array + begin, array + std::min(begin + step, cells), Real(0));
  });
}

}  // namespace

template <typename Real>
void ArcsCost(const LatticeLayout& layout, const ArcTopology& topology,
              const ArcArrays<Real>& arrays, Real* costs, const ParallelFor& parallel_for) {
  ArcsForward<Real>(layout, topology, arrays, costs, /*alphas=*/nullptr, /*betas=*/nullptr,
                    /*totals=*/nullptr, parallel_for);
}

template <typename Real>
void ArcsForward(const LatticeLayout& layout, const ArcTopology& topology,
                 const ArcArrays<Real>& arrays, Real* costs, Scaled<Real>* alphas,
                 Scaled<Real>* betas, Scaled<Real>* totals, const ParallelFor& parallel_for) {
  const auto alpha = JAX_RNNT_BEST_ISA(ArcsAlpha<Real>);
  const auto beta = JAX_RNNT_BEST_ISA(ArcsBeta<Real>);
  const int64_t walks = betas == nullptr ? 1 : 2;
  parallel_for(walks * layout.sequences, [&](int64_t i) {
    const int64_t n = i / walks;
    const bool is_alpha = i % walks == 0;
    const LatticeSequence sequence = layout.Sequence(n);
    if (is_alpha) costs[n] = std::numeric_limits<Real>::quiet_NaN();
    if (!sequence.valid) return;
    const ArcArrays<Real> own = OfSequence(layout, arrays, n);
    std::vector<Real> workspace = MakeWorkspace<Real>(topology, sequence);
    if (!is_alpha) {
      beta(sequence, topology, own, betas, workspace.data());
      return;
    }
    const Scaled<Real> total = alpha(sequence, topology, own, alphas, workspace.data());
    costs[n] = static_cast<Real>(NegativeLog(total));
    if (totals != nullptr) totals[n] = total;
  });
}

template <typename Real>
void ArcsBackward(const LatticeLayout& layout, int64_t cells, const ArcTopology& topology,
                  const ArcArrays<Real>& arrays, const Scaled<Real>* alphas,
                  const Scaled<Real>* betas, const Scaled<Real>* totals, const Real* cotangents,
                  Real* const* arc_cotangents, Real* initial_cotangents, Real* final_cotangents,
                  const ParallelFor& parallel_for) {
  const auto posteriors = JAX_RNNT_BEST_ISA(ArcsPosteriors<Real>);
  // Cells between and behind compact sequences belong to none of them.
  if (layout.compact()) ZeroAll(cells, topology.count, arc_cotangents, parallel_for);
  const std::vector<Task> tasks = MakeTasks(layout, topology.count);
  parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const auto [n, begin, end] = tasks[i];
    const LatticeSequence sequence = layout.Sequence(n);
    if (!layout.compact()) {
      for (int k = 0; k < topology.count; ++k) {
        ZeroPadding(layout, n, sequence, begin, end, arc_cotangents[k]);
      }
      if (arrays.initial != nullptr) {
        ZeroPaddingOfWeights(layout, n, sequence, begin, end, initial_cotangents);
      }
      if (arrays.final_weights != nullptr) {
        ZeroPaddingOfWeights(layout, n, sequence, begin, end, final_cotangents);
      }
    }
    if (!sequence.valid || begin > sequence.frames) return;
    ArcsCotangents<Real> own = {totals[n], cotangents[n], alphas, betas, arc_cotangents};
    const int64_t first = n * (layout.max_frames + 1);
    if (arrays.initial != nullptr) own.initial = initial_cotangents + first;
    if (arrays.final_weights != nullptr) own.final_weights = final_cotangents + first;
    std::vector<Real> workspace(2 * sequence.columns);
    posteriors(sequence, topology, OfSequence(layout, arrays, n), own, begin, end,
               workspace.data());
  });
}

#define JAX_RNNT_INSTANTIATE(Real)                                                                \
  template void ArcsCost(const LatticeLayout&, const ArcTopology&, const ArcArrays<Real>&, Real*, \
                         const ParallelFor&);                                                     \
  template void ArcsForward(const LatticeLayout&, const ArcTopology&, const ArcArrays<Real>&,     \
                            Real*, Scaled<Real>*, Scaled<Real>*, Scaled<Real>*,                   \
                            const ParallelFor&);                                                  \
  template void ArcsBackward(const LatticeLayout&, int64_t, const ArcTopology&,                   \
                             const ArcArrays<Real>&, const Scaled<Real>*, const Scaled<Real>*,    \
                             const Scaled<Real>*, const Real*, Real* const*, Real*, Real*,        \
                             const ParallelFor&);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu
