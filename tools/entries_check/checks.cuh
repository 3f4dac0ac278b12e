// Compares the kernels of entries, on small problems of every kind, with float64 on the host.
#ifndef JAX_RNNT_TOOLS_ENTRIES_CHECK_CHECKS_CUH_
#define JAX_RNNT_TOOLS_ENTRIES_CHECK_CHECKS_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../device_array.h"
#include "cuda/rows/entries.h"
#include "expected.cuh"
#include "problems.cuh"

namespace jax_rnnt::entries_check {

template <typename T>
using RealOf = typename cuda::Accumulator<T>::Type;

// Arrays of one number a row, one after the other, on the host: maxima and log-sums, or one that is
// not used and the log-sums' cotangents, then those of the entries.
template <typename Real>
struct RowNumbers {
  explicit RowNumbers(const Problem& problem)
      : rows(problem.rows), numbers((2 + EntryCount(problem.options)) * problem.rows) {}

  Real& Maximum(int64_t row) { return numbers[row]; }
  Real& Sum(int64_t row) { return numbers[rows + row]; }
  Real& Entry(int entry, int64_t row) { return numbers[(2 + entry) * rows + row]; }

  int64_t rows;
  std::vector<Real> numbers;
};

// The same arrays on the device, as the functions take them.
template <typename Real>
EntriesResults<Real> ResultsIn(Real* numbers, int64_t rows, const EntriesOptions& options) {
  EntriesResults<Real> results{numbers, numbers + rows, numbers + 2 * rows, numbers + 3 * rows, {}};
  for (int i = 0; i < options.pick_count; ++i) results.pick_logits[i] = numbers + (4 + i) * rows;
  return results;
}

template <typename Real>
EntriesCotangents<Real> CotangentsIn(const Real* numbers, int64_t rows,
                                     const EntriesOptions& options) {
  EntriesCotangents<Real> cotangents{numbers + rows, numbers + 2 * rows, numbers + 3 * rows, {}};
  for (int i = 0; i < options.pick_count; ++i) cotangents.picks[i] = numbers + (4 + i) * rows;
  return cotangents;
}

// The labels of a problem's rows, from their arrays on the device.
inline RowLabels LabelsIn(const Problem& problem, const DeviceArray<int32_t>& labels,
                          const DeviceArray<int32_t>& counts) {
  if (!problem.is_by_column) return RowLabels{labels.get()};
  return RowLabels{labels.get(), counts.get(), problem.columns, problem.lines};
}

// A copy that is out of alignment by so many elements.
template <typename T>
std::vector<T> Shifted(const std::vector<T>& numbers, int64_t shift) {
  std::vector<T> shifted(shift);
  shifted.insert(shifted.end(), numbers.begin(), numbers.end());
  return shifted;
}

// Compares what a forward gave with the sums and entries of the rows logits_of(row).
template <typename Real, typename LogitsOf>
void ExpectForward(const Problem& problem, const HostLabels& labels, RowNumbers<Real>& results,
                   const LogitsOf& logits_of, Expectations* expectations) {
  const EntriesOptions& options = problem.options;
  for (int64_t row = 0; row < problem.rows; ++row) {
    const int32_t label = labels.of_rows[row];
    const ExpectedSum expected = ComputeSum(options, label, logits_of(row));
    expectations->Expect("maximum", row, 0, results.Maximum(row), expected.maximum, 0);
    expectations->Expect("log_sum", row, 0, results.Sum(row), expected.log_sum, expected.tolerance);
    for (int entry = 0; entry < EntryCount(options); ++entry) {
      expectations->Expect("entry", row, entry, results.Entry(entry, row),
                           EntryOf(options, entry, label, logits_of(row)), 0);
    }
  }
}

template <typename T>
class Checker {
 public:
  using Real = RealOf<T>;

  explicit Checker(const Problem& problem)
      : problem_(problem),
        options_(problem.options),
        labels_(problem),
        logits_(DrawLogits<T>(problem, labels_.of_rows)),
        results_(problem),
        cotangents_(problem),
        device_labels_(labels_.labels),
        device_counts_(labels_.counts) {}

  void Run() {
    RunForward();
    DrawCotangents();
    RunBackward();
    if (!expectations_.is_wrong()) return;
    ++failures;
    std::printf("  in %s, ", TypeName<T>());
    Print(problem_);
  }

 private:
  static constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

  const T* Logits(int64_t row) const { return logits_.data() + row * options_.width; }

  void RunForward() {
    const DeviceArray<T> logits(Shifted(logits_, problem_.shift));
    const DeviceArray<Real> numbers(static_cast<int64_t>(results_.numbers.size()));
    Check(cudaMemset(numbers.get(), 0xff, numbers.size() * sizeof(Real)), "memset");
    Check(cuda::EntriesForward<T>(0, problem_.rows, options_, logits.get() + problem_.shift,
                                  LabelsIn(problem_, device_labels_, device_counts_),
                                  ResultsIn(numbers.get(), problem_.rows, options_)),
          "EntriesForward");
    results_.numbers = numbers.ToHost();
    ExpectForward(
        problem_, labels_, results_, [&](int64_t row) { return Logits(row); }, &expectations_);
  }

  // What has no effect is NaN.
  void DrawCotangents() {
    const auto draw = [](bool is_used) {
      return static_cast<Real>(!is_used ? kNaN : Chance(0.3) ? 0 : Random(-1, 1));
    };
    for (int64_t row = 0; row < problem_.rows; ++row) {
      const int32_t label = labels_.of_rows[row];
      cotangents_.Sum(row) = draw(label != kPaddingRow);
      for (int entry = 0; entry < EntryCount(options_); ++entry) {
        cotangents_.Entry(entry, row) =
            draw(label != kPaddingRow && ColumnOf(options_, entry, label) != kNoLabel);
      }
    }
  }

  RowInputs InputsOf(int64_t row) {
    RowInputs inputs{results_.Maximum(row), results_.Sum(row), cotangents_.Sum(row), {}};
    for (int entry = 0; entry < EntryCount(options_); ++entry) {
      inputs.entry_cotangents.push_back(cotangents_.Entry(entry, row));
    }
    return inputs;
  }

  void RunBackward() {
    // Rows without a term from the sum do not need their logits.
    std::vector<T> needed = logits_;
    for (int64_t row = 0; row < problem_.rows; ++row) {
      if (InputsOf(row).HasSumTerm()) continue;
      std::fill_n(needed.begin() + row * options_.width, options_.width, FromDouble<T>(kNaN));
    }
    const DeviceArray<T> logits(Shifted(needed, problem_.shift));
    const DeviceArray<T> apart(problem_.is_in_place ? 0 : logits.size());
    const DeviceArray<T>& target = problem_.is_in_place ? logits : apart;
    if (!problem_.is_in_place) {
      Check(cudaMemset(target.get(), 0xff, target.size() * sizeof(T)), "memset");
    }
    const DeviceArray<Real> results(results_.numbers), cotangents(cotangents_.numbers);
    Check(cuda::EntriesBackward<T>(0, problem_.rows, options_, logits.get() + problem_.shift,
                                   LabelsIn(problem_, device_labels_, device_counts_),
                                   results.get(), results.get() + problem_.rows,
                                   CotangentsIn(cotangents.get(), problem_.rows, options_),
                                   target.get() + problem_.shift),
          "EntriesBackward");
    const std::vector<T> actual = target.ToHost(problem_.shift, problem_.rows * options_.width);
    for (int64_t row = 0; row < problem_.rows; ++row) {
      const RowInputs inputs = InputsOf(row);
      for (int32_t v = 0; v < options_.width; ++v) {
        const ExpectedCotangent expected =
            ComputeCotangent<T>(options_, labels_.of_rows[row], inputs, v, Logits(row)[v]);
        expectations_.Expect("logits_cotangent", row, v, ToDouble(actual[row * options_.width + v]),
                             expected.value, expected.tolerance);
      }
    }
  }

  Problem problem_;
  EntriesOptions options_;
  HostLabels labels_;
  std::vector<T> logits_;
  RowNumbers<Real> results_, cotangents_;
  DeviceArray<int32_t> device_labels_, device_counts_;
  Expectations expectations_;
};

template <typename T>
void CheckProblems() {
  int problems = 0;
  for (int32_t tokens :
       {1,    2,    3,    4,    5,    7,    8,    9,    12,   16,    17,   28,  31,
        32,   33,   40,   50,   55,   60,   64,   100,  127,  128,   129,  250, 251,
        252,  256,  257,  300,  400,  500,  507,  508,  511,  512,   513,  640, 767,
        1000, 1024, 1030, 1536, 2051, 3100, 4096, 5000, 6200, 13001, 26000}) {
    for (int32_t behind : {0, 1, 2, 3, 5, 8, 17, 130}) {
      for (int repeat = 0; repeat < 3; ++repeat) {
        Checker<T>(DrawProblem(tokens, behind, tokens < 1000 ? 30000 : 60000)).Run();
        ++problems;
      }
    }
  }
  std::printf("%s: %d problems, %d failures so far\n", TypeName<T>(), problems, failures);
  std::fflush(stdout);
}

// Nothing to do, and options that are none.
inline void CheckArguments() {
  const auto expect = [](bool wanted, int64_t rows, const EntriesOptions& options) {
    const RowLabels labels{nullptr, nullptr, 0, 0};
    const bool forward =
        cuda::EntriesForward<float>(0, rows, options, nullptr, labels, {}) == cudaSuccess;
    const bool backward = cuda::EntriesBackward<float>(0, rows, options, nullptr, labels, nullptr,
                                                       nullptr, {}, nullptr) == cudaSuccess;
    if (forward == wanted && backward == wanted) return;
    ++failures;
    std::printf("%s\n", wanted ? "no rows are refused" : "wrong options are taken");
  };
  EntriesOptions options;
  options.width = options.tokens = 3;
  expect(true, 0, options);
  expect(false, -1, options);
  const auto expect_wrong = [&](const auto& change) {
    EntriesOptions wrong = options;
    change(&wrong);
    expect(false, 0, wrong);
  };
  for (int32_t value : {-1, 17}) {
    expect_wrong([&](EntriesOptions* wrong) { wrong->tokens = value; });
    expect_wrong([&](EntriesOptions* wrong) { wrong->blank = value; });
    expect_wrong([&](EntriesOptions* wrong) { wrong->pick_count = value; });
    expect_wrong([&](EntriesOptions* wrong) {
      wrong->pick_count = 1;
      wrong->picks[0] = value;
    });
  }
}

}  // namespace jax_rnnt::entries_check

#endif  // JAX_RNNT_TOOLS_ENTRIES_CHECK_CHECKS_CUH_
