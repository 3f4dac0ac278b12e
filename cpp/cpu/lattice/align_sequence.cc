// The choices of one sequence's cells, on one thread (core/best_path.h has the recurrence).
//
// Frames go in bands, a lane for each. Lane i is one column behind lane i - 1: at step s it is at
// column s - i. A step is thus a piece of an anti-diagonal, whose cells do not depend on each
// other; it is two vectors of them, since each waits for the one before. A band's log-probabilities
// are first made scores, frame by frame, with room at both ends of a frame for the steps at which
// its lane is outside the lattice; tiles of kScores steps are pieces of these rows, transposed. In
// frames behind the last a lane passes on what it receives.
//
// Compiled once for each instruction set (cpu/isa.h).
#include <stdint.h>

#include "core/best_path.h"
#include "cpu/isa.h"
#include "cpu/score_vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

constexpr double kNoScore = -HUGE_VAL;

constexpr int kParts = 2;
constexpr int kBand = kParts * kScores;  // frames
static_assert(kBand <= 16 && kFramesPerWord % kBand == 0);
// Room at each end of a row of scores.
constexpr int64_t kRoom = kBand + kScores;
static_assert(2 * kRoom <= kWorkspaceMoreColumns);
// Two rows of each of a band's frames, the scores between bands, and the steps' choices.
static_assert(2 * kBand + 2 <= kAlignWorkspacePerColumn);

// Scores of a frame's arcs, those of columns [begin, end) of `log_probs` and `fill` elsewhere;
// whether one of them is NaN or +inf.
template <typename Real>
bool FillRow(const Real* log_probs, int32_t begin, int32_t end, int32_t columns, double fill,
             double* row) {
  for (int64_t u = -kRoom; u < begin; ++u) row[u] = fill;
  for (int64_t u = end; u < columns + kRoom; ++u) row[u] = fill;
  int wrong = 0;
  for (int64_t u = begin; u < end; ++u) {
    wrong |= !(log_probs[u] < Real(HUGE_VAL));
    row[u] = RoundToUnits(log_probs[u]);
  }
  return wrong != 0;
}

}  // namespace

template <typename Real>
void SequenceAlign(const PathFrames& sequence, const Real* blank_log_probs,
                   const Real* label_log_probs, PathScore<Real>* scores, int32_t* words,
                   double* workspace) {
  const int32_t columns = sequence.columns;
  const int64_t size = columns + 2 * kRoom;  // of a row
  double* const blanks = workspace + kRoom;
  double* const labels = blanks + kBand * size;
  double* const above = labels + kBand * size;  // what the band before passes on
  auto* const choices = reinterpret_cast<uint16_t*>(above + columns + kRoom);
  const int64_t steps = (columns + kBand + kScores - 2) / kScores * kScores;
  for (int64_t u = -kRoom; u < columns + kRoom; ++u) {
    above[u] = u >= 0 && u < columns ? ToDouble(scores[u]) : kNoScore;
  }
  bool wrong = false;
  for (int32_t t = 0; t < sequence.frames; t += kBand) {
    for (int i = 0; i < kBand; ++i) {
      const int64_t row = sequence.first + (t + i) * sequence.stride;
      const bool inside = t + i < sequence.frames;
      const bool is_last = sequence.ends && t + i == sequence.frames - 1;
      // Blank arcs of the last frame but the last, and label arcs of the last column, lead out of
      // the lattice and may hold anything.
      wrong |= FillRow(blank_log_probs + row, is_last ? columns - 1 : 0, inside ? columns : 0,
                       columns, inside ? kNoScore : 0.0, blanks + i * size);
      wrong |= FillRow(label_log_probs + row, 0, inside ? columns - 1 : 0, columns, kNoScore,
                       labels + i * size);
    }
    Scores leave[kParts], emit[kParts];
    for (int p = 0; p < kParts; ++p) leave[p] = emit[p] = BroadcastScore(kNoScore);
    for (int64_t step = 0; step < steps; step += kScores) {
      Scores blank[kParts][kScores], label[kParts][kScores];
      for (int p = 0; p < kParts; ++p) {
        for (int i = 0; i < kScores; ++i) {
          const int64_t place = (p * kScores + i) * (size - 1) + step;
          blank[p][i] = LoadScores(blanks + place);
          label[p][i] = LoadScores(labels + place);
        }
        Transpose(blank[p]);
        Transpose(label[p]);
      }
      for (int k = 0; k < kScores; ++k) {
        const int64_t s = step + k;
        Scores before = LoadScores(above + s - (kScores - 1));
        uint32_t taken = 0;
        for (int p = 0; p < kParts; ++p) {
          const Scores from_above = ShiftUp(leave[p], before);
          const Scores score = Larger(from_above, emit[p]);
          taken |= WhereGreater(from_above, emit[p]) << (p * kScores);
          before = leave[p];
          leave[p] = score + blank[p][k];
          emit[p] = score + label[p][k];
        }
        choices[s] = static_cast<uint16_t>(taken);
        above[s - (kBand - 1)] = leave[kParts - 1][kScores - 1];
      }
    }
    // Bit i of step u + i is the choice in frame t + i of column u.
    const int first_bit = t % kFramesPerWord;
    int32_t* const row = words + t / kFramesPerWord * sequence.stride;
    for (int64_t u = 0; u < columns; ++u) {
      uint32_t bits = 0;
      for (int i = 0; i < kBand; ++i) bits |= choices[u + i] & (1u << i);
      row[u] = static_cast<int32_t>(static_cast<uint32_t>(row[u]) | bits << first_bit);
    }
  }
  for (int64_t u = 0; u < columns; ++u) scores[u] = ToPathScore<Real>(above[u]);
  if (wrong) scores[columns - 1] = ToPathScore<Real>(NAN);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                           \
  template void SequenceAlign(const PathFrames&, const Real*, const Real*, PathScore<Real>*, \
                              int32_t*, double*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE
