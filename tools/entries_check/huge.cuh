// Checks samples of what the kernels of entries do to more than 2^31 elements, in place.
#ifndef JAX_RNNT_TOOLS_ENTRIES_CHECK_HUGE_CUH_
#define JAX_RNNT_TOOLS_ENTRIES_CHECK_HUGE_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../device_array.h"
#include "../device_timing.cuh"
#include "checks.cuh"
#include "cuda/rows/entries.h"
#include "expected.cuh"
#include "problems.cuh"

namespace jax_rnnt::entries_check {

// Columns at both ends of a part of a row.
struct Samples {
  Samples(int64_t begin, int64_t end) {
    for (int64_t i = 0; i < std::min<int64_t>(end - begin, 300); ++i) {
      columns.push_back(begin + i);
      columns.push_back(end - 1 - i);
    }
  }
  std::vector<int64_t> columns;
};

template <typename T>
void CheckHuge(int64_t rows, int32_t tokens, int32_t behind) {
  using Real = RealOf<T>;
  Problem problem;
  problem.rows = rows;
  EntriesOptions& options = problem.options;
  options.tokens = tokens;
  options.width = tokens + behind;
  options.blank = tokens - 1;
  options.without_blank = true;
  for (int32_t i = 0; i < behind; ++i) options.picks[options.pick_count++] = tokens + i;
  const int64_t W = options.width;

  const DeviceArray<T> logits(rows * W);
  Fill(logits, -4, 4);
  std::vector<int32_t> host_labels(rows);
  for (int32_t& label : host_labels) label = static_cast<int32_t>(RandomBelow(tokens));
  const DeviceArray<int32_t> labels(host_labels);
  const int64_t numbers = (2 + EntryCount(options)) * rows;
  const DeviceArray<Real> results(numbers), cotangents(numbers);
  Fill(cotangents, -1, 1);
  Check(cuda::EntriesForward<T>(0, rows, options, logits.get(), RowLabels{labels.get()},
                                ResultsIn(results.get(), rows, options)),
        "EntriesForward");

  constexpr int kSampledRows = 50;
  std::vector<int64_t> sampled_rows = {0, rows - 1};
  while (sampled_rows.size() < kSampledRows) sampled_rows.push_back(RandomBelow(rows));
  const bool has_short_rows = W < 100000;
  const Samples samples(0, W);
  std::vector<std::vector<T>> kept;
  Expectations expectations;
  const auto number = [&](const DeviceArray<Real>& array, int64_t i, int64_t row) -> double {
    return array.ToHost(i * rows + row, 1)[0];
  };
  const auto logit = [&](int64_t row, int64_t column) {
    return logits.ToHost(row * W + column, 1)[0];
  };
  for (int64_t row : sampled_rows) {
    const int32_t label = host_labels[row];
    if (has_short_rows) {
      const std::vector<T> x = logits.ToHost(row * W, W);
      const ExpectedSum expected = ComputeSum(options, label, x.data());
      expectations.Expect("maximum", row, 0, number(results, 0, row), expected.maximum, 0);
      expectations.Expect("log_sum", row, 0, number(results, 1, row), expected.log_sum,
                          expected.tolerance);
    } else {
      // Of numbers spread evenly over [-4, 4).
      const double mean = (std::exp(4.) - std::exp(-4.)) / 8;
      expectations.Expect("log_sum", row, 0, number(results, 0, row) + number(results, 1, row),
                          std::log(mean * tokens), 2e-3);
    }
    for (int entry = 0; entry < EntryCount(options); ++entry) {
      expectations.Expect("entry", row, entry, number(results, 2 + entry, row),
                          ToDouble(logit(row, ColumnOf(options, entry, label))), 0);
    }
    kept.emplace_back();
    for (int64_t column : samples.columns) kept.back().push_back(logit(row, column));
    kept.back().push_back(logit(row, label));
  }

  Check(cuda::EntriesBackward<T>(0, rows, options, logits.get(), RowLabels{labels.get()},
                                 results.get(), results.get() + rows,
                                 CotangentsIn(cotangents.get(), rows, options), logits.get()),
        "EntriesBackward");
  for (size_t i = 0; i < sampled_rows.size(); ++i) {
    const int64_t row = sampled_rows[i];
    const int32_t label = host_labels[row];
    RowInputs inputs{
        number(results, 0, row), number(results, 1, row), number(cotangents, 1, row), {}};
    for (int entry = 0; entry < EntryCount(options); ++entry) {
      inputs.entry_cotangents.push_back(number(cotangents, 2 + entry, row));
    }
    for (size_t j = 0; j < kept[i].size(); ++j) {
      const int64_t column = j < samples.columns.size() ? samples.columns[j] : label;
      const ExpectedCotangent expected =
          ComputeCotangent<T>(options, label, inputs, static_cast<int32_t>(column), kept[i][j]);
      expectations.Expect("logits_cotangent", row, column, ToDouble(logit(row, column)),
                          expected.value, expected.tolerance);
    }
  }
  if (expectations.is_wrong()) {
    ++failures;
    std::printf("  in %s, ", TypeName<T>());
    Print(problem);
  }
  std::printf("%s: %lld rows of %lld\n", TypeName<T>(), static_cast<long long>(rows),
              static_cast<long long>(W));
  std::fflush(stdout);
}

}  // namespace jax_rnnt::entries_check

#endif  // JAX_RNNT_TOOLS_ENTRIES_CHECK_HUGE_CUH_
