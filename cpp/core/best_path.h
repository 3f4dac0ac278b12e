// The best path through an RNN-T lattice: how its log-probabilities are summed, and how the choice
// at each cell is kept. Shared by host and device.
//
//   score(0, 0) = 0
//   score(t, u) = max(score(t-1, u) + blank(t-1, u), score(t, u-1) + label(t, u-1))
//
// A maximum of sums needs no exponentials. Each log-probability is rounded to a whole number of
// units of 2^-30 nats, and doubles sum such numbers without rounding up to 8e6 nats: a score is the
// same in whatever order a path takes its arcs, so that equal paths compare as equal, and every
// platform, instruction set and cut into blocks of frames finds the same path. (Mantissas of
// products round by the order of their factors, and would decide ties at random.)
//
// A cell is 1 bit: whether the path to it comes by the label arc, from (t, u-1). Where both are
// equal it is 0. 32 frames of a column are a word, the first frame in its lowest bit.
#ifndef JAX_RNNT_CORE_BEST_PATH_H_
#define JAX_RNNT_CORE_BEST_PATH_H_

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"

namespace jax_rnnt {

inline constexpr int kFramesPerWord = 32;
inline constexpr int32_t kNoFrame = -1;  // the frame of a label that no path writes
inline constexpr double kPathUnit = 1.0 / (1 << 30);

// A number of this magnitude or more is a whole number of units already.
template <typename Real>
inline constexpr Real kWholeUnits = Real(1);
template <>
inline constexpr float kWholeUnits<float> = 1.0f / (1 << 7);  // 2^23 units
template <>
inline constexpr double kWholeUnits<double> = double(1 << 22);  // 2^52 units

// A log-probability as a whole number of units, halves to even.
template <typename Real>
JAX_RNNT_HOST_DEVICE Real RoundToUnits(Real log_prob) {
  const Real rounding = copysign(kWholeUnits<Real>, log_prob);
  return fabs(log_prob) < kWholeUnits<Real> ? (log_prob + rounding) - rounding : log_prob;
}

// A score as it passes from one block of frames to the next, in two words as wide as Real: whole
// nats and the units that are left. It is exact up to 1.6e7 nats.
template <typename Real>
struct PathScore;
template <>
struct alignas(8) PathScore<float> {
  float whole;
  int32_t units;
};
template <>
struct alignas(16) PathScore<double> {
  double whole;
  int64_t units;
};

template <typename Real>
JAX_RNNT_HOST_DEVICE double ToDouble(PathScore<Real> score) {
  return static_cast<double>(score.whole) + static_cast<double>(score.units) * kPathUnit;
}

// In nats, rounded as jax.numpy rounds it.
template <typename Real>
JAX_RNNT_HOST_DEVICE Real ToNats(PathScore<Real> score) {
  return score.whole + static_cast<Real>(score.units) * static_cast<Real>(kPathUnit);
}

template <typename Real>
JAX_RNNT_HOST_DEVICE PathScore<Real> ToPathScore(double score) {
  using Units = decltype(PathScore<Real>::units);
  const Real whole = static_cast<Real>(rint(score));
  const double rest = score - static_cast<double>(whole);  // NaN for infinities
  const bool is_small = rest > -1 && rest < 1;
  return {whole, is_small ? static_cast<Units>(rest / kPathUnit) : Units(0)};
}

// The part of a sequence's lattice that lies in an array of arcs: all of it, or a block of frames.
struct PathFrames {
  bool valid;       // false: all scores are NaN, nothing is read
  bool ends;        // whether the last of the frames is the sequence's last
  int64_t first;    // index of cell (0, 0)
  int64_t stride;   // cells from one frame to the next
  int32_t frames;   // 0 where the sequence ended before
  int32_t columns;  // U_n + 1
};

// Padded lengths count frames from the first of the array: a sequence may have ended before it or
// go on behind it. Compact ones are those of LatticeLayout.
JAX_RNNT_HOST_DEVICE PathFrames FramesOfPath(const LatticeLayout& layout, int64_t n) {
  if (layout.compact()) {
    const LatticeSequence own = layout.Sequence(n);
    return {own.valid, true, own.first, own.stride, own.frames, own.columns};
  }
  const int64_t frames = layout.frames_lengths[n];
  const int64_t columns = static_cast<int64_t>(layout.labels_lengths[n]) + 1;
  const int64_t inside = frames < 0 ? 0 : frames < layout.max_frames ? frames : layout.max_frames;
  return {columns >= 1 && columns <= layout.max_columns,
          frames <= layout.max_frames,
          n * layout.max_frames * layout.max_columns,
          layout.max_columns,
          static_cast<int32_t>(inside),
          static_cast<int32_t>(columns)};
}

// Where a sequence's words lie: word w of column u at first + w * stride + u.
struct PathWords {
  bool valid;  // false: there is no room for so many frames or columns
  int64_t first;
  int64_t stride;
  int32_t frames;
  int32_t columns;
};

struct PathWordsLayout {
  int64_t sequences;                 // in all groups together
  int64_t max_columns;               // U; compact: an upper bound of U_n + 1
  int64_t words_per_group;           // padded: of a sequence
  const int32_t* frames_lengths;     // (sequences)
  const int32_t* labels_lengths;     // (sequences)
  const int32_t* offsets = nullptr;  // compact only: the first cell of each sequence in its group
  int64_t sequences_per_group = 1;   // N

  // Of a sequence in its group. Compact sequences begin in the words of their cells, each U + 1
  // words further on than the one before: the frames of a sequence need not fill their last words.
  JAX_RNNT_HOST_DEVICE int64_t First(int64_t n) const {
    if (offsets == nullptr) return 0;
    return offsets[n] / kFramesPerWord + n % sequences_per_group * (max_columns + 1);
  }

  // Lengths and offsets may hold any value.
  JAX_RNNT_HOST_DEVICE PathWords Words(int64_t n) const {
    const int64_t frames = frames_lengths[n];
    const int64_t columns = static_cast<int64_t>(labels_lengths[n]) + 1;
    const bool sensible = frames >= 1 && columns >= 1 && columns <= max_columns &&
                          (offsets == nullptr || offsets[n] >= 0);
    const int64_t stride = offsets == nullptr ? max_columns : columns;
    const int64_t words = (frames + kFramesPerWord - 1) / kFramesPerWord * stride;
    return {sensible && First(n) + words <= words_per_group,
            n / sequences_per_group * words_per_group + First(n), stride,
            static_cast<int32_t>(frames), static_cast<int32_t>(columns)};
  }
};

// How many words the cells of a group need: of a padded sequence, or of N packed ones.
inline int64_t CountPathWords(const LatticeLayout& layout) {
  if (layout.compact()) {
    return layout.rows_per_group / kFramesPerWord +
           layout.sequences_per_group * (layout.max_columns + 1);
  }
  return (layout.max_frames + kFramesPerWord - 1) / kFramesPerWord * layout.max_columns;
}

// The words' layout beside the cells'.
inline PathWordsLayout WordsOfPath(const LatticeLayout& layout) {
  return {layout.sequences,
          layout.max_columns,
          CountPathWords(layout),
          layout.frames_lengths,
          layout.labels_lengths,
          layout.offsets,
          layout.compact() ? layout.sequences_per_group : 1};
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_BEST_PATH_H_
