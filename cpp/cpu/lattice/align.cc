#include "cpu/lattice/align.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/isa.h"

namespace jax_rnnt::cpu {

template <typename Real>
void LatticeAlign(const LatticeLayout& layout, const Real* blank_log_probs,
                  const Real* label_log_probs, const PathScore<Real>* before,
                  PathScore<Real>* after, int32_t* words, const ParallelFor& parallel_for) {
  const auto walk = JAX_RNNT_BEST_ISA(SequenceAlign<Real>);
  const PathWordsLayout words_layout = WordsOfPath(layout);
  const int64_t U = layout.max_columns, words_per_group = words_layout.words_per_group;
  if (layout.compact()) {
    const int64_t groups = layout.sequences / layout.sequences_per_group;
    std::fill(words, words + groups * words_per_group, 0);
  }
  parallel_for(layout.sequences, [&](int64_t n) {
    const PathFrames sequence = FramesOfPath(layout, n);
    if (!layout.compact()) {
      std::fill(words + n * words_per_group, words + (n + 1) * words_per_group, 0);
    }
    PathScore<Real>* const own_after = after + n * U;
    if (!sequence.valid) {
      const PathScore<Real> none = {std::numeric_limits<Real>::quiet_NaN(), 0};
      std::fill(own_after, own_after + U, none);
      return;
    }
    std::copy(before + n * U, before + (n + 1) * U, own_after);
    if (sequence.frames == 0) return;
    std::vector<double> workspace(kAlignWorkspacePerColumn *
                                  (sequence.columns + kWorkspaceMoreColumns));
    const int64_t group = n / words_layout.sequences_per_group;
    walk(sequence, blank_log_probs, label_log_probs, own_after,
         words + group * words_per_group + words_layout.First(n), workspace.data());
  });
}

template <typename Real>
void LatticeTrace(const PathWordsLayout& layout, const PathScore<Real>* scores,
                  const int32_t* words, Real* log_probs, int32_t* label_frames,
                  const ParallelFor& parallel_for) {
  constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  const int64_t U = layout.max_columns;
  parallel_for(layout.sequences, [&](int64_t n) {
    const PathWords sequence = layout.Words(n);
    int32_t* const frames = label_frames + n * U;
    std::fill(frames, frames + U, kNoFrame);
    log_probs[n] = std::numeric_limits<Real>::quiet_NaN();
    if (!sequence.valid) return;
    log_probs[n] = ToNats(scores[n * U + sequence.columns - 1]);
    if (!(log_probs[n] > -kInfinity)) return;
    int32_t word = (sequence.frames - 1) / kFramesPerWord;
    uint32_t so_far = ~uint32_t{0} >> (kFramesPerWord - 1 - (sequence.frames - 1) % kFramesPerWord);
    for (int32_t u = sequence.columns - 1; u > 0;) {
      const auto choices =
          static_cast<uint32_t>(words[sequence.first + word * sequence.stride + u]);
      if (const uint32_t labels = choices & so_far; labels != 0) {
        const int bit = kFramesPerWord - 1 - __builtin_clz(labels);
        so_far = ~uint32_t{0} >> (kFramesPerWord - 1 - bit);
        frames[--u] = word * kFramesPerWord + bit;
      } else if (word-- == 0) {
        break;
      } else {
        so_far = ~uint32_t{0};
      }
    }
  });
}

#define JAX_RNNT_INSTANTIATE(Real)                                                           \
  template void LatticeAlign(const LatticeLayout&, const Real*, const Real*,                 \
                             const PathScore<Real>*, PathScore<Real>*, int32_t*,             \
                             const ParallelFor&);                                            \
  template void LatticeTrace(const PathWordsLayout&, const PathScore<Real>*, const int32_t*, \
                             Real*, int32_t*, const ParallelFor&);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu
