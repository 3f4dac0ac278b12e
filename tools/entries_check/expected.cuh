// What the kernels of entries should give for a row, in float64, and how far off they may be.
#ifndef JAX_RNNT_TOOLS_ENTRIES_CHECK_EXPECTED_CUH_
#define JAX_RNNT_TOOLS_ENTRIES_CHECK_EXPECTED_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <type_traits>
#include <vector>

#include "problems.cuh"

namespace jax_rnnt::entries_check {

// The bits of a number of T.
template <typename T>
constexpr int kPrecision = std::is_same_v<T, double>          ? 53
                           : std::is_same_v<T, float>         ? 24
                           : std::is_same_v<T, __nv_bfloat16> ? 8
                                                              : 11;

// What rounding to T may take from a number.
template <typename T>
double RoundingError(double x) {
  const int least = std::is_same_v<T, double> ? -1022 : std::is_same_v<T, __half> ? -14 : -126;
  const int exponent = x == 0 ? least : std::max(std::ilogb(x), least);
  return std::ldexp(1., exponent - kPrecision<T>);
}

struct ExpectedSum {
  double maximum, log_sum, tolerance;
};

template <typename T>
ExpectedSum ComputeSum(const EntriesOptions& options, int32_t label, const T* logits) {
  if (label == kPaddingRow) return {0, 0, 0};
  double maximum = -kInfinity, sum = 0;
  bool is_bad = false;
  const auto each = [&](const auto& body) {
    for (int32_t v = 0; v < options.tokens; ++v) {
      if (options.IsInCore(v, label)) body(ToDouble(logits[v]));
    }
  };
  each([&](double logit) {
    is_bad |= std::isnan(logit) || logit == kInfinity;
    maximum = std::max(maximum, logit);
  });
  if (is_bad) return {0, std::numeric_limits<double>::quiet_NaN(), 0};
  if (maximum == -kInfinity) return {0, -kInfinity, 0};
  each([&](double logit) { sum += std::exp(logit - maximum); });
  const double log_sum = std::log(sum);
  const double precision = std::is_same_v<T, double> ? 1e-13 : 3e-6;
  return {maximum, log_sum, precision * std::max(1., log_sum)};
}

// The logit of an entry, as it is.
template <typename T>
double EntryOf(const EntriesOptions& options, int entry, int32_t label, const T* logits) {
  const int32_t column = ColumnOf(options, entry, label);
  return label == kPaddingRow || column == kNoLabel ? -kInfinity : ToDouble(logits[column]);
}

// A row's cotangents, and what the forward gave for it.
struct RowInputs {
  double maximum, log_sum, sum_cotangent;
  std::vector<double> entry_cotangents;

  bool HasSumTerm() const { return sum_cotangent != 0 && std::isfinite(log_sum); }
};

struct ExpectedCotangent {
  double value, tolerance;  // that of rounding the result to T included
};

template <typename T, typename Logit>
ExpectedCotangent ComputeCotangent(const EntriesOptions& options, int32_t label,
                                   const RowInputs& inputs, int32_t column, Logit logit) {
  ExpectedCotangent expected = {0, 0};
  if (label == kPaddingRow) return expected;
  const double unit = std::is_same_v<T, double> ? 0x1p-52 : 0x1p-23;
  for (int entry = 0; entry < EntryCount(options); ++entry) {
    if (ColumnOf(options, entry, label) != column) continue;
    expected.value += inputs.entry_cotangents[entry];
    expected.tolerance += 4 * unit * std::fabs(inputs.entry_cotangents[entry]);
  }
  if (inputs.HasSumTerm() && options.IsInCore(column, label)) {
    const double exponent = (ToDouble(logit) - inputs.maximum) - inputs.log_sum;
    const double term = inputs.sum_cotangent * std::exp(exponent);
    expected.value += term;
    if (term != 0) expected.tolerance += std::fabs(term) * unit * (8 + 2 * std::fabs(exponent));
    if (!std::is_same_v<T, double>) expected.tolerance += 2e-38;  // denormal numbers become 0
  }
  if (expected.tolerance > 0) {
    expected.tolerance += RoundingError<T>(std::fabs(expected.value) + expected.tolerance);
  }
  return expected;
}

// Counts what is wrong, and prints the first few.
class Expectations {
 public:
  void Expect(const char* what, int64_t row, int64_t index, double actual, double expected,
              double tolerance) {
    const bool is_right = std::isnan(expected)
                              ? std::isnan(actual)
                              : actual == expected || std::fabs(actual - expected) <= tolerance;
    if (is_right) return;
    if (!is_wrong_ && failures < 20) {
      std::printf("%s %lld of row %lld: %.9g, not %.9g (up to %.2g)\n", what,
                  static_cast<long long>(index), static_cast<long long>(row), actual, expected,
                  tolerance);
    }
    is_wrong_ = true;
  }

  bool is_wrong() const { return is_wrong_; }

 private:
  bool is_wrong_ = false;
};

}  // namespace jax_rnnt::entries_check

#endif  // JAX_RNNT_TOOLS_ENTRIES_CHECK_EXPECTED_CUH_
