// The problems of entries_check: their options, their labels and logits on the host.
#ifndef JAX_RNNT_TOOLS_ENTRIES_CHECK_PROBLEMS_CUH_
#define JAX_RNNT_TOOLS_ENTRIES_CHECK_PROBLEMS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "core/entries.h"
#include "core/row_label.h"

namespace jax_rnnt::entries_check {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline int failures = 0;
inline std::mt19937 generator(0);

inline int64_t RandomBelow(int64_t count) { return static_cast<int64_t>(generator() % count); }
inline bool Chance(double probability) { return generator() < probability * 0x1p32; }
inline double Random(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}

template <typename T>
double ToDouble(T x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return static_cast<float>(x);
  }
}

template <typename T>
T FromDouble(double x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return static_cast<T>(static_cast<float>(x));
  }
}

template <typename T>
const char* TypeName() {
  return std::is_same_v<T, float>    ? "float32"
         : std::is_same_v<T, double> ? "float64"
         : std::is_same_v<T, __half> ? "float16"
                                     : "bfloat16";
}

enum class Values { kPlain, kFarFromZero, kManyMinusInfinities, kOdd, kLarge };

struct Problem {
  EntriesOptions options;
  int64_t rows = 0;
  bool is_by_column = false;
  int64_t columns = 1, lines = 1;  // by column
  int shift = 0;                   // elements by which the logits are out of alignment
  bool is_in_place = false;
  Values values = Values::kPlain;
};

// Durations behind the tokens, symbols among them, the same column again, and the blank's.
inline void DrawPicks(EntriesOptions* options) {
  const auto pick = [&](int64_t column) {
    if (options->pick_count < kMaxPicks) {
      options->picks[options->pick_count++] = static_cast<int32_t>(column);
    }
  };
  const int64_t behind = options->width - options->tokens;
  if (Chance(0.7)) {
    for (int64_t i = 0; i < std::min<int64_t>(behind, 5); ++i) pick(options->width - 1 - i);
  }
  if (Chance(0.3)) {
    for (int i = 0; i < 4; ++i) pick(RandomBelow(options->tokens));
  }
  if (Chance(0.2)) {
    pick(options->blank);
    pick(options->picks[0]);
  }
  if (Chance(0.1)) {
    while (options->pick_count < kMaxPicks) pick(RandomBelow(options->width));
  }
}

inline Problem DrawProblem(int32_t tokens, int32_t behind, int64_t elements) {
  Problem problem;
  EntriesOptions& options = problem.options;
  options.tokens = tokens;
  options.width = tokens + behind;
  options.blank = static_cast<int32_t>(Chance(0.3)   ? 0
                                       : Chance(0.5) ? tokens - 1
                                                     : RandomBelow(tokens));
  options.without_blank = Chance(0.5);
  options.without_label = Chance(0.4);
  DrawPicks(&options);
  problem.rows = std::max<int64_t>(3, elements / options.width) + RandomBelow(5);
  problem.is_by_column = Chance(0.5);
  if (problem.is_by_column) {
    problem.columns = 1 + RandomBelow(std::min<int64_t>(problem.rows, 17));
    problem.lines = 1 + RandomBelow((problem.rows + problem.columns - 1) / problem.columns);
    const int64_t group = problem.columns * problem.lines;
    problem.rows = (problem.rows + group - 1) / group * group;
  }
  problem.shift = Chance(0.3) ? 1 : 0;
  problem.is_in_place = Chance(0.5);
  problem.values = static_cast<Values>(RandomBelow(5));
  return problem;
}

inline int EntryCount(const EntriesOptions& options) {
  return kFirstPickEntry + options.pick_count;
}

// The column of an entry; kNoLabel if the row has no such entry.
inline int32_t ColumnOf(const EntriesOptions& options, int entry, int32_t label) {
  return entry == kBlankEntry   ? options.blank
         : entry == kLabelEntry ? label
                                : options.picks[entry - kFirstPickEntry];
}

inline void Print(const Problem& problem) {
  const EntriesOptions& options = problem.options;
  std::printf("rows %lld W %d V %d blank %d%s%s, %s, shift %d%s, values %d, picks",
              static_cast<long long>(problem.rows), options.width, options.tokens, options.blank,
              options.without_blank ? " without it" : "",
              options.without_label ? " without label" : "",
              problem.is_by_column ? "by column" : "by row", problem.shift,
              problem.is_in_place ? " in place" : "", static_cast<int>(problem.values));
  for (int i = 0; i < options.pick_count; ++i) std::printf(" %d", options.picks[i]);
  std::printf("\n");
}

// Labels of every kind, padding among them.
struct HostLabels {
  explicit HostLabels(const Problem& problem) {
    const int64_t lines = problem.is_by_column ? problem.lines : 1;
    labels.resize(problem.rows / lines);
    const int32_t V = problem.options.tokens;
    for (int32_t& label : labels) {
      const int32_t other[] = {kNoLabel, kPaddingRow, V, std::numeric_limits<int32_t>::min(),
                               std::numeric_limits<int32_t>::max()};
      label = static_cast<int32_t>(Chance(0.6)   ? RandomBelow(V)
                                   : Chance(0.3) ? problem.options.blank
                                                 : other[RandomBelow(5)]);
    }
    of_rows.resize(problem.rows);
    if (!problem.is_by_column) {
      std::copy(labels.begin(), labels.end(), of_rows.begin());
    } else {
      const int64_t group = problem.columns * problem.lines;
      counts.resize(problem.rows / group);
      for (int32_t& count : counts) {
        count = static_cast<int32_t>(RandomBelow(problem.lines + 3) - 1);
      }
      for (int64_t row = 0; row < problem.rows; ++row) {
        const int64_t line = row % group / problem.columns;
        const int64_t column = row / group * problem.columns + row % problem.columns;
        of_rows[row] = line < counts[row / group] ? labels[column] : kPaddingRow;
      }
    }
    for (int32_t& label : of_rows) {
      if (label < kNoLabel || label >= V) label = kPaddingRow;
    }
  }

  std::vector<int32_t> labels, counts;  // as kernels take them
  std::vector<int32_t> of_rows;
};

// Padding rows hold NaN, and so do columns behind the tokens of half the rows.
template <typename T>
std::vector<T> DrawLogits(const Problem& problem, const std::vector<int32_t>& labels) {
  const int32_t W = problem.options.width, V = problem.options.tokens;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> some(4099);
  std::normal_distribution<double> normal(0, 3);
  for (double& x : some) x = normal(generator);
  std::vector<T> logits(problem.rows * W);
  for (int64_t row = 0; row < problem.rows; ++row) {
    T* x = logits.data() + row * W;
    if (labels[row] == kPaddingRow) {
      std::fill(x, x + W, FromDouble<T>(nan));
      continue;
    }
    double offset = 0;
    if (problem.values == Values::kFarFromZero) offset = sizeof(T) == 2 ? 200 : 1e4;
    if (problem.values == Values::kLarge && Chance(0.5)) {
      offset = std::is_same_v<T, __half> ? 6e4 : Chance(0.1) ? 3e38 : 4e6;
    }
    if (Chance(0.5)) offset = -offset;
    const size_t start = RandomBelow(some.size());
    for (int32_t v = 0; v < W; ++v) {
      x[v] = FromDouble<T>(offset + some[(start + v) % some.size()]);
    }
    if (problem.values == Values::kManyMinusInfinities) {
      for (int32_t v = 0; v < V; ++v) {
        if (Chance(0.3)) x[v] = FromDouble<T>(-kInfinity);
      }
    }
    if (problem.values == Values::kOdd) {
      const int kind = static_cast<int>(RandomBelow(6));
      if (kind == 0) std::fill(x, x + V, FromDouble<T>(-kInfinity));
      if (kind == 1) x[RandomBelow(V)] = FromDouble<T>(nan);
      if (kind == 2) x[RandomBelow(V)] = FromDouble<T>(kInfinity);
      // What is left out has no effect.
      if (kind == 3) x[problem.options.blank] = FromDouble<T>(Chance(0.5) ? nan : kInfinity);
      if (kind == 4 && labels[row] >= 0) x[labels[row]] = FromDouble<T>(nan);
    }
    if (Chance(0.5)) std::fill(x + V, x + W, FromDouble<T>(nan));
  }
  return logits;
}

}  // namespace jax_rnnt::entries_check

#endif  // JAX_RNNT_TOOLS_ENTRIES_CHECK_PROBLEMS_CUH_
