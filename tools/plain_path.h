// Best paths for the programs that run every kernel: problems, the definition in double, and what
// of a kernel's answer is not as it says.
#ifndef JAX_RNNT_TOOLS_PLAIN_PATH_H_
#define JAX_RNNT_TOOLS_PLAIN_PATH_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <utility>
#include <vector>

#include "core/best_path.h"
#include "core/lattice_layout.h"
#include "plain_arcs.h"
#include "ragged_lengths.h"

namespace jax_rnnt {

template <typename Real>
struct PathProblem {
  LatticeLayout Layout() const {
    return compact ? CompactLayout(N, cells, U, frames.data(), labels.data(), offsets.data())
                   : PaddedLayout(N, T, U, frames.data(), labels.data());
  }

  // The scores before the first frame; NaN of a sequence that makes no sense.
  std::vector<PathScore<Real>> Start() const {
    std::vector<PathScore<Real>> start(int64_t{N} * U, {static_cast<Real>(-HUGE_VAL), 0});
    for (int n = 0; n < N; ++n) start[int64_t{n} * U] = {IsValid(n) ? Real(0) : Real(NAN), 0};
    return start;
  }

  bool IsValid(int n) const {
    const LatticeLayout layout = Layout();
    return layout.Sequence(n).valid;
  }

  int N, T, U;
  bool compact;
  std::vector<int32_t> frames, labels, offsets;
  int64_t cells;
  std::vector<Real> blank, label;
};

template <typename Real>
struct PathAnswer {
  std::vector<PathScore<Real>> scores;  // (N, U)
  std::vector<int32_t> words;
  std::vector<Real> log_probs;        // (N)
  std::vector<int32_t> label_frames;  // (N, U)
};

// Ragged sequences, the last two of which make no sense. Every other problem has many equal paths.
template <typename Real, typename Random>
PathProblem<Real> DrawPathProblem(Random& random, int N, int T, int U, bool compact) {
  auto [frames, labels, offsets, used] = DrawLengths(random, N, T, U);
  const int64_t cells = compact ? used + 5 : static_cast<int64_t>(N) * T * U;
  // A padded walk takes lengths of its block; the caller makes them 0 where they make no sense.
  if (N > 2) frames[N - 1] = compact ? 1 << 30 : 0;
  if (N > 3) labels[N - 2] = U + 1000000;
  Arrays<Real> arcs = DrawWeights<Real>(random, 2, cells, T + U);
  if (random() % 2 == 0) {
    for (std::vector<Real>& array : arcs) {
      for (Real& x : array) x = -static_cast<Real>(random() % 4) / 2;
    }
  }
  return {N,     T,       U,      compact, std::move(frames), std::move(labels), std::move(offsets),
          cells, arcs[0], arcs[1]};
}

// The path's score, and the frame of each label: none where there is no path.
template <typename Real>
std::pair<double, std::vector<int32_t>> PathByDefinition(const PathProblem<Real>& problem, int n) {
  const LatticeLayout layout = problem.Layout();
  const LatticeSequence s = layout.Sequence(n);
  const int T = s.frames, U = s.columns;
  const auto at = [&](int t, int u) { return s.first + t * s.stride + u; };
  std::vector<double> score(U, -HUGE_VAL);
  std::vector<char> by_label(static_cast<size_t>(T) * U);
  score[0] = 0;
  bool sensible = true;
  const auto arc = [&](const std::vector<Real>& log_probs, int t, int u) {
    const Real x = log_probs[at(t, u)];
    sensible = sensible && x < HUGE_VAL;
    return static_cast<double>(RoundToUnits(x));
  };
  for (int t = 0; t < T; ++t) {
    for (int u = 0; u < U; ++u) {
      if (u > 0) {
        const double other = score[u - 1] + arc(problem.label, t, u - 1);
        by_label[static_cast<size_t>(t) * U + u] = other > score[u];
        if (other > score[u]) score[u] = other;
      }
    }
    for (int u = 0; u < U; ++u) {
      if (t < T - 1 || u == U - 1) score[u] += arc(problem.blank, t, u);
    }
  }
  std::vector<int32_t> label_frames(problem.U, kNoFrame);
  if (!sensible) return {NAN, label_frames};
  if (score[U - 1] == -HUGE_VAL) return {-HUGE_VAL, label_frames};
  for (int t = T - 1, u = U - 1; u > 0; label_frames[--u] = t) {
    while (!by_label[static_cast<size_t>(t) * U + u]) --t;
  }
  return {score[U - 1], label_frames};
}

// Counts what is wrong, and prints the first of it.
template <typename Real>
void ExpectPaths(const PathProblem<Real>& problem, const PathAnswer<Real>& answer, int* failures) {
  constexpr double kRounding = sizeof(Real) == sizeof(float) ? 1e-6 : 1e-13;
  const int U = problem.U;
  for (int n = 0; n < problem.N; ++n) {
    std::pair<double, std::vector<int32_t>> wanted = {NAN, std::vector<int32_t>(U, kNoFrame)};
    if (problem.IsValid(n)) wanted = PathByDefinition(problem, n);
    const double actual = answer.log_probs[n], score = wanted.first;
    bool right = std::isfinite(score) ? std::fabs(actual - score) <= kRounding * std::fabs(score)
                 : std::isnan(score)  ? std::isnan(actual)
                                      : actual == score;
    for (int u = 0; u < U; ++u) {
      right = right && answer.label_frames[int64_t{n} * U + u] == wanted.second[u];
    }
    if (right || ++*failures > 20) continue;
    std::printf("path %d: %.9g, not %.9g; T = %d, U = %d, %s\n", n, actual, score, problem.T, U,
                problem.compact ? "compact" : "padded");
  }
}

// `align` runs both kernels over the whole, `walk` the first over a block of frames: it takes a
// problem and the scores before it. Blocks of padded frames must end in the whole's bits, but for a
// sequence that makes no sense.
template <typename Real, typename Random, typename Align, typename Walk>
void RunPaths(Random& random, int N, int T, int U, bool compact, const Align& align,
              const Walk& walk, int* failures) {
  const PathProblem<Real> problem = DrawPathProblem<Real>(random, N, T, U, compact);
  const PathAnswer<Real> answer = align(problem);
  ExpectPaths(problem, answer, failures);
  if (compact || T <= kFramesPerWord) return;
  PathAnswer<Real> left;
  left.scores = problem.Start();
  const int64_t words_of_row = U;
  for (int first = 0; first < T; first += kFramesPerWord) {
    PathProblem<Real> block = problem;
    block.T = std::min(kFramesPerWord, T - first);
    block.blank.clear(), block.label.clear();
    for (int n = 0; n < N; ++n) {
      block.frames[n] = problem.frames[n] - first;
      const int64_t begin = (int64_t{n} * T + first) * U, end = begin + int64_t{block.T} * U;
      block.blank.insert(block.blank.end(), &problem.blank[begin], &problem.blank[0] + end);
      block.label.insert(block.label.end(), &problem.label[begin], &problem.label[0] + end);
    }
    left = walk(block, left.scores);
    for (int n = 0; n < N; ++n) {
      if (std::isnan(answer.log_probs[n])) continue;  // its choices may be anything
      const int64_t rows = (T + kFramesPerWord - 1) / kFramesPerWord;
      const int64_t whole = (n * rows + first / kFramesPerWord) * words_of_row;
      for (int u = 0; u < U; ++u) {
        if (answer.words[whole + u] == left.words[int64_t{n} * U + u] || ++*failures > 20) continue;
        std::printf("word of frame %d, column %d of sequence %d, T = %d, U = %d\n", first, u, n, T,
                    U);
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    if (!problem.IsValid(n)) continue;
    const int64_t end = int64_t{n} * U + problem.labels[n];
    const double one = ToDouble(answer.scores[end]), other = ToDouble(left.scores[end]);
    if (one == other || (std::isnan(one) && std::isnan(other)) || ++*failures > 20) continue;
    std::printf("score of blocks of sequence %d, T = %d, U = %d\n", n, T, U);
  }
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_PLAIN_PATH_H_
