// Runs the CPU kernels of best paths on ragged batches, as every_align.cuh does those of CUDA.
#ifndef JAX_RNNT_TOOLS_EVERY_CPU_ALIGN_H_
#define JAX_RNNT_TOOLS_EVERY_CPU_ALIGN_H_

#include <vector>

#include "core/best_path.h"
#include "cpu/lattice/align.h"
#include "cpu/parallel_for.h"
#include "plain_path.h"

namespace jax_rnnt {

template <typename Real, typename Random>
void RunCpuAlign(Random& random, const cpu::ParallelFor& parallel_for, int* failures) {
  const auto walk = [&](const PathProblem<Real>& problem,
                        const std::vector<PathScore<Real>>& before) {
    const LatticeLayout layout = problem.Layout();
    const PathWordsLayout words_layout = WordsOfPath(layout);
    const int64_t groups = layout.sequences / words_layout.sequences_per_group;
    PathAnswer<Real> answer;
    answer.scores.resize(before.size());
    answer.words.assign(groups * words_layout.words_per_group, -1);
    cpu::LatticeAlign<Real>(layout, problem.blank.data(), problem.label.data(), before.data(),
                            answer.scores.data(), answer.words.data(), parallel_for);
    return answer;
  };
  const auto align = [&](const PathProblem<Real>& problem) {
    PathAnswer<Real> answer = walk(problem, problem.Start());
    answer.log_probs.resize(problem.N);
    answer.label_frames.resize(answer.scores.size());
    cpu::LatticeTrace<Real>(WordsOfPath(problem.Layout()), answer.scores.data(),
                            answer.words.data(), answer.log_probs.data(),
                            answer.label_frames.data(), parallel_for);
    return answer;
  };
  for (int T : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65}) {
    for (int U : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 18, 33, 49}) {
      for (bool compact : {false, true}) {
        RunPaths<Real>(random, 5, T, U, compact, align, walk, failures);
      }
    }
  }
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_EVERY_CPU_ALIGN_H_
