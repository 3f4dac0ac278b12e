// Best paths on CPU: choices and scores from the arcs' log-probabilities, and back, the frames of
// the labels. core/best_path.h has the recurrence, and says where a sequence's words are.
#ifndef JAX_RNNT_CPU_LATTICE_ALIGN_H_
#define JAX_RNNT_CPU_LATTICE_ALIGN_H_

#include <cstdint>

#include "core/best_path.h"
#include "core/lattice_layout.h"
#include "cpu/parallel_for.h"

namespace jax_rnnt::cpu {

// The choices in all frames of `layout`, and the scores behind them.
//   before, after   (sequences, U): score(t-1, u) + blank(t-1, u), what the last frame before and
//                   the last frame itself pass on. Of a sequence that has ended, the score of its
//                   path is at U_n. NaN where it makes no sense.
//   words           CountPathWords(layout) for each group; zeros where there is no cell
// Real is float or double.
template <typename Real>
void LatticeAlign(const LatticeLayout& layout, const Real* blank_log_probs,
                  const Real* label_log_probs, const PathScore<Real>* before,
                  PathScore<Real>* after, int32_t* words, const ParallelFor& parallel_for);

// The score of each sequence's path, in nats, and the frame in which it writes each label.
//   scores         (sequences, U), as LatticeAlign left them
//   words          likewise
//   label_frames   (sequences, U): kNoFrame behind a sequence's labels, and where there is no path
template <typename Real>
void LatticeTrace(const PathWordsLayout& layout, const PathScore<Real>* scores,
                  const int32_t* words, Real* log_probs, int32_t* label_frames,
                  const ParallelFor& parallel_for);

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_LATTICE_ALIGN_H_
