// Alpha and beta of one sequence in float, kLanes frames at a time (cpu/lattice/sequence.cc has the
// equations).
//
// Frames go in bands of kLanes, a lane for each, and the last band ends with the last frame. Lane i
// is one column behind lane i - 1: at step s it is at column s - i. A step is thus a piece of an
// anti-diagonal, whose cells do not depend on each other. Arcs are loaded and results are stored by
// tiles of kLanes steps, which are kLanes pieces of rows, transposed.
//
// Alpha and beta are rounded at every arc, and drift away from the total by some 3e-8 sqrt(T). Each
// alignment takes one blank arc of each frame, so that
//
//   total = sum_u alpha(t, u) blank(t, u) beta(t+1, u)  for any t,
//
// and the total at frame t has the drift at t. Posteriors are therefore shares of a total taken at
// a frame that is fewer than kTotalFrames frames away.
//
// Included by cpu/lattice/sequence.cc alone, which is compiled once for each instruction set.
#ifndef JAX_RNNT_CPU_LATTICE_SEQUENCE_FLOAT_H_
#define JAX_RNNT_CPU_LATTICE_SEQUENCE_FLOAT_H_

#include <stdint.h>
#include <string.h>

#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "cpu/isa.h"
#include "cpu/lattice/scaled_vectors.h"
#include "cpu/vectors.h"

namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE {
namespace {

static_assert(kLanes <= kMaxUnnormalizedSteps);
static_assert(3 * kLanes <= kWorkspaceMoreColumns);

// An array of one number for each cell, or of two: then the mantissas of a frame come before its
// exponents.
template <typename T>
struct Rows {
  T* frame(int64_t t) const { return begin + t * stride; }

  T* begin;
  int64_t stride;
};

// Loads a tile: kLanes vectors, one for each step. Lane i of step s + k is column s + k - i of
// frame t + i. A lane holds `fill` where there is no cell, and `before` in frames before the first
// one.
template <typename Columns>
JAX_RNNT_INLINE void LoadTile(Rows<const float> rows, int64_t t, int64_t step, float fill,
                              float before, const Columns& columns, Floats* tile) {
  for (int i = 0; i < kLanes; ++i) {
    if (t + i < 0) {
      tile[i] = Broadcast(before);
      continue;
    }
    const int64_t begin = step - i;
    const Window window = columns(t + i, begin);
    tile[i] = LoadWindow(rows.frame(t + i) + begin, window.first, window.last, fill);
  }
  Transpose(tile);
}

JAX_RNNT_INLINE void StoreTile(Floats* tile, Rows<float> rows, int64_t t, int64_t step,
                               int32_t columns) {
  Transpose(tile);
  for (int i = t < 0 ? static_cast<int>(-t) : 0; i < kLanes; ++i) {
    const int64_t begin = step - i;
    const Window window = MakeWindow(begin, 0, columns);
    StoreWindow(rows.frame(t + i) + begin, window.first, window.last, tile[i]);
  }
}

// One sequence's arrays as bands read them.
struct Band {
  Band(const LatticeSequence& sequence, const float* blank_log_probs, const float* label_log_probs)
      : frames(sequence.frames),
        columns(sequence.columns),
        first_frame(frames - (frames + kLanes - 1) / kLanes * kLanes),
        steps((columns + 2 * kLanes - 2) / kLanes * kLanes),
        blank{blank_log_probs + sequence.first, sequence.stride},
        label{label_log_probs + sequence.first, sequence.stride} {}

  // The log-probabilities of a tile's arcs: -inf for those that lead out of the lattice, all but
  // the last blank arc. A frame before the first passes on to the next frame what it receives.
  __attribute__((always_inline)) void LoadArcs(int64_t t, int64_t step, Floats* blanks,
                                               Floats* labels) const {
    LoadTile(
        blank, t, step, -kInfinity, 0.0f,
        [this](int64_t frame, int64_t begin) {
          return MakeWindow(begin, frame == frames - 1 ? columns - 1 : 0, columns);
        },
        blanks);
    LoadTile(
        label, t, step, -kInfinity, -kInfinity,
        [this](int64_t, int64_t begin) { return MakeWindow(begin, 0, columns - 1); }, labels);
  }

  int64_t frames;
  int32_t columns;
  int64_t first_frame;  // of the first band, at most kLanes - 1 frames before frame 0
  int64_t steps;        // of a band: whole tiles
  Rows<const float> blank;
  Rows<const float> label;
};

// The numbers that a band passes to the next one, one for each column, with room for the steps at
// which the lane that reads or writes them is outside the lattice.
struct Border {
  Border(float* memory, int32_t columns, int32_t one)
      : size(columns + 3 * kLanes), mantissas(memory + kLanes), exponents(mantissas + size) {
    for (int64_t i = 0; i < size; ++i) {
      memory[i] = i == kLanes + one ? 1.0f : 0.0f;
      memory[size + i] = i == kLanes + one ? 0.0f : kZeroLog;
    }
  }

  __attribute__((always_inline)) void Set(int64_t column, Numbers x, int lane) {
    mantissas[column] = x.mantissa[lane];
    exponents[column] = x.exponent[lane];
  }

  // Normalises the numbers, which a band sets as they come.
  __attribute__((always_inline)) void NormalizeAll() {
    for (int64_t i = -kLanes; i + kLanes <= size - kLanes; i += kLanes) {
      const Numbers x = Normalize({Load(mantissas + i), Load(exponents + i)});
      Store(mantissas + i, x.mantissa);
      Store(exponents + i, x.exponent);
    }
  }

  int64_t size;
  float* mantissas;
  float* exponents;
};

JAX_RNNT_INLINE Rows<float> MantissasOf(const LatticeSequence& sequence, Scaled<float>* alphas) {
  return {reinterpret_cast<float*>(alphas + sequence.first + sequence.to_kept),
          2 * sequence.stride};
}

Scaled<float> Forward(const LatticeSequence& sequence, const float* blank_log_probs,
                      const float* label_log_probs, Scaled<float>* alphas, float* memory) {
  const Band band(sequence, blank_log_probs, label_log_probs);
  Border from_above(memory, band.columns, /*one=*/0);  // alpha(t-1, u) blank(t-1, u)
  for (int64_t t = band.first_frame; t < band.frames; t += kLanes) {
    Numbers leave = Zeros();
    Numbers emit = Zeros();
    for (int64_t step = 0; step < band.steps; step += kLanes) {
      Floats blanks[kLanes];
      Floats labels[kLanes];
      band.LoadArcs(t, step, blanks, labels);
      for (int k = 0; k < kLanes; ++k) {
        const int64_t s = step + k;
        const Numbers above = {ShiftUp(leave.mantissa, from_above.mantissas[s]),
                               ShiftUp(leave.exponent, from_above.exponents[s])};
        Numbers alpha = Add(above, emit);
        if (k == 0) alpha = Normalize(alpha);
        leave = Multiply(alpha, SplitVector(blanks[k]));
        emit = Multiply(alpha, SplitVector(labels[k]));
        from_above.Set(s - (kLanes - 1), leave, kLanes - 1);
        blanks[k] = alpha.mantissa;
        labels[k] = alpha.exponent;
      }
      if (alphas != nullptr) {
        const Rows<float> mantissas = MantissasOf(sequence, alphas);
        const Rows<float> exponents = {mantissas.begin + band.columns, mantissas.stride};
        StoreTile(blanks, mantissas, t, step, band.columns);
        StoreTile(labels, exponents, t, step, band.columns);
      }
    }
    from_above.NormalizeAll();
  }
  return {from_above.mantissas[band.columns - 1], from_above.exponents[band.columns - 1]};
}

// The number of frames from one total to the next.
constexpr int kTotalFrames = 64;
static_assert(kTotalFrames % kLanes == 0);

// sum_u alpha(t, u) blank(t, u) beta(t+1, u).
JAX_RNNT_INLINE Scaled<float> TotalThrough(const Band& band, int64_t t, Rows<const float> mantissas,
                                           Rows<const float> exponents, const Border& beta) {
  Numbers sums = Zeros();
  for (int64_t u = 0; u < band.columns; u += kLanes) {
    const int64_t left = band.columns - u;
    const int64_t count = left < kLanes ? left : kLanes;
    const Numbers alpha = {LoadFirst(mantissas.frame(t) + u, count, 0.0f),
                           LoadFirst(exponents.frame(t) + u, count, kZeroLog)};
    const Numbers blank = SplitVector(LoadFirst(band.blank.frame(t) + u, count, -kInfinity));
    const Numbers below = {Load(beta.mantissas + u), Load(beta.exponents + u)};
    sums = Normalize(Add(sums, Multiply(Multiply(alpha, blank), below)));
  }
  Scaled<float> total = {0, kZeroLog};
  for (int i = 0; i < kLanes; ++i) {
    total = Normalize(Add(total, Scaled<float>{sums.mantissa[i], sums.exponent[i]}));
  }
  return total;
}

void Backward(const LatticeSequence& sequence, Scaled<float> total, float cotangent,
              const float* blank_log_probs, const float* label_log_probs,
              const Scaled<float>* alphas, float* blank_cotangents, float* label_cotangents,
              float* memory) {
  const Band band(sequence, blank_log_probs, label_log_probs);
  const Rows<float> blank_results = {blank_cotangents + sequence.first, sequence.stride};
  const Rows<float> label_results = {label_cotangents + sequence.first, sequence.stride};
  if (!(total.mantissa > 0) || cotangent == 0) {
    for (int64_t t = 0; t < band.frames; ++t) {
      memset(blank_results.frame(t), 0, band.columns * sizeof(float));
      memset(label_results.frame(t), 0, band.columns * sizeof(float));
    }
    return;
  }
  const Rows<float> stored = MantissasOf(sequence, const_cast<Scaled<float>*>(alphas));
  const Rows<const float> mantissas = {stored.begin, stored.stride};
  const Rows<const float> exponents = {stored.begin + band.columns, stored.stride};
  const auto all = [&band](int64_t, int64_t begin) { return MakeWindow(begin, 0, band.columns); };
  Border from_below(memory, band.columns, /*one=*/band.columns - 1);  // beta(t+1, u)
  for (int64_t t = band.frames - kLanes; t > -kLanes; t -= kLanes) {
    const int64_t next = t + kLanes;
    if (next < band.frames && (band.frames - next) % kTotalFrames == 0) {
      total = TotalThrough(band, next - 1, mantissas, exponents, from_below);
    }
    const float reciprocal = 1.0f / total.mantissa;
    Numbers beta = Zeros();
    for (int64_t step = band.steps - kLanes; step >= 0; step -= kLanes) {
      Floats blanks[kLanes];
      Floats labels[kLanes];
      Floats alpha_mantissas[kLanes];
      Floats alpha_exponents[kLanes];
      band.LoadArcs(t, step, blanks, labels);
      LoadTile(mantissas, t, step, 0.0f, 0.0f, all, alpha_mantissas);
      LoadTile(exponents, t, step, kZeroLog, kZeroLog, all, alpha_exponents);
      for (int k = kLanes - 1; k >= 0; --k) {
        const int64_t s = step + k;
        const int64_t last = s - (kLanes - 1);
        const Numbers below = {ShiftDown(beta.mantissa, from_below.mantissas[last]),
                               ShiftDown(beta.exponent, from_below.exponents[last])};
        const Numbers leave = Multiply(SplitVector(blanks[k]), below);
        const Numbers emit = Multiply(SplitVector(labels[k]), beta);
        const Numbers alpha = {alpha_mantissas[k], alpha_exponents[k]};
        blanks[k] = ArcCotangents(Multiply(alpha, leave), reciprocal, total.exponent, cotangent);
        labels[k] = ArcCotangents(Multiply(alpha, emit), reciprocal, total.exponent, cotangent);
        beta = Add(leave, emit);
        if (k == 0) beta = Normalize(beta);
        from_below.Set(s, beta, 0);
      }
      StoreTile(blanks, blank_results, t, step, band.columns);
      StoreTile(labels, label_results, t, step, band.columns);
    }
    from_below.NormalizeAll();
  }
}

}  // namespace
}  // namespace jax_rnnt::cpu::JAX_RNNT_ISA_NAMESPACE

#endif  // JAX_RNNT_CPU_LATTICE_SEQUENCE_FLOAT_H_
