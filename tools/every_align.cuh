// Runs the kernels of best paths on ragged batches and compares what they return with the
// definition, and blocks of frames with the whole.
#ifndef JAX_RNNT_TOOLS_EVERY_ALIGN_CUH_
#define JAX_RNNT_TOOLS_EVERY_ALIGN_CUH_

#include <vector>

#include "core/best_path.h"
#include "cuda/lattice/align.h"
#include "device_array.h"
#include "plain_path.h"

namespace jax_rnnt {

// Both kernels if `trace`, else the walk alone.
template <typename Real>
PathAnswer<Real> RunAlignKernels(PathProblem<Real> problem,
                                 const std::vector<PathScore<Real>>& before, bool trace) {
  const int64_t columns = int64_t{problem.N} * problem.U;
  const DeviceArray<int32_t> frames(problem.frames), labels(problem.labels),
      offsets(problem.offsets);
  const DeviceArray<Real> blank(problem.blank), label(problem.label);
  const DeviceArray<PathScore<Real>> device_before(before), after(columns);
  LatticeLayout layout = problem.Layout();
  layout.frames_lengths = frames.get(), layout.labels_lengths = labels.get();
  if (problem.compact) layout.offsets = offsets.get();
  const PathWordsLayout words_layout = WordsOfPath(layout);
  const int64_t groups = layout.sequences / words_layout.sequences_per_group;
  const DeviceArray<int32_t> words(groups * words_layout.words_per_group), label_frames(columns);
  const DeviceArray<double> scratch(groups * cuda::CountAlignScratch(layout));
  const DeviceArray<Real> log_probs(problem.N);
  Check(cuda::LatticeAlign<Real>(0, layout, blank.get(), label.get(), device_before.get(),
                                 after.get(), words.get(), scratch.get()),
        "LatticeAlign");
  if (!trace) return {after.ToHost(), words.ToHost(), {}, {}};
  Check(cuda::LatticeTrace<Real>(0, words_layout, after.get(), words.get(), log_probs.get(),
                                 label_frames.get()),
        "LatticeTrace");
  return {after.ToHost(), words.ToHost(), log_probs.ToHost(), label_frames.ToHost()};
}

// Sizes that straddle chunks, words, 32 columns and panels.
template <typename Real, typename Random>
void RunAlign(Random& random, int* failures) {
  const auto align = [](const PathProblem<Real>& problem) {
    return RunAlignKernels<Real>(problem, problem.Start(), true);
  };
  const auto walk = [](const PathProblem<Real>& block, const std::vector<PathScore<Real>>& before) {
    return RunAlignKernels<Real>(block, before, false);
  };
  for (int U : {1, 2, 31, 32, 33, 64, 65, 97, 321, 700}) {
    for (int T : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 150}) {
      for (bool compact : {false, true}) {
        RunPaths<Real>(random, U > 100 ? 3 : 6, T, U, compact, align, walk, failures);
      }
    }
  }
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_EVERY_ALIGN_CUH_
