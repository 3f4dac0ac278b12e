// Compares the kernels of entries of rows with biases, on small problems of every kind, with
// float64 on the host.
#ifndef JAX_RNNT_TOOLS_ENTRIES_CHECK_BIASED_CUH_
#define JAX_RNNT_TOOLS_ENTRIES_CHECK_BIASED_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../device_array.h"
#include "checks.cuh"
#include "cuda/rows/entries.h"
#include "expected.cuh"
#include "problems.cuh"

namespace jax_rnnt::entries_check {

// T is the type of the logits' cotangents.
template <typename T>
class BiasedChecker {
 public:
  using Real = RealOf<T>;

  // `count` biases; the problem's rows are a multiple of it.
  BiasedChecker(const Problem& problem, int64_t count)
      : problem_(problem),
        options_(problem.options),
        rows_of_bias_(problem.rows / count),
        labels_(problem),
        logits_(DrawLogits<Real>(problem, labels_.of_rows)),
        biases_(count * options_.width),
        bounds_(problem.rows),
        results_(problem),
        cotangents_(problem),
        device_labels_(labels_.labels),
        device_counts_(labels_.counts) {
    for (Real& bias : biases_) bias = Chance(0.03) ? -kInfinity : Random(-2, 2);
    for (Real& bound : bounds_) bound = Chance(0.5) ? kInfinity : Random(0, 1);
    sums_ = logits_;
    for (int64_t i = 0; i < static_cast<int64_t>(sums_.size()); ++i) {
      const int64_t row = i / options_.width;
      sums_[i] += biases_[row / rows_of_bias_ * options_.width + i % options_.width];
    }
  }

  void Run() {
    // Biases may be out of alignment as logits are.
    const DeviceArray<Real> biases(Shifted(biases_, problem_.shift));
    const RowBiases<Real> row_biases{biases.get() + problem_.shift, rows_of_bias_};
    RunForward(row_biases);
    for (int64_t row = 0; row < problem_.rows; ++row) {
      cotangents_.Sum(row) = Chance(0.3) ? 0 : Random(-1, 1);
      for (int entry = 0; entry < EntryCount(options_); ++entry) {
        cotangents_.Entry(entry, row) = Chance(0.3) ? 0 : Random(-1, 1);
      }
    }
    RunBackward(row_biases);
    if (!expectations_.is_wrong()) return;
    ++failures;
    std::printf("  with %lld rows a bias, in %s, ", static_cast<long long>(rows_of_bias_),
                TypeName<T>());
    Print(problem_);
  }

 private:
  const Real* Sums(int64_t row) const { return sums_.data() + row * options_.width; }

  void RunForward(const RowBiases<Real>& biases) {
    const DeviceArray<Real> logits(Shifted(logits_, problem_.shift));
    const DeviceArray<Real> numbers(static_cast<int64_t>(results_.numbers.size()));
    Check(cudaMemset(numbers.get(), 0xff, numbers.size() * sizeof(Real)), "memset");
    Check(
        cuda::EntriesForwardBiased<Real>(0, problem_.rows, options_, logits.get() + problem_.shift,
                                         biases, LabelsIn(problem_, device_labels_, device_counts_),
                                         ResultsIn(numbers.get(), problem_.rows, options_)),
        "EntriesForwardBiased");
    results_.numbers = numbers.ToHost();
    ExpectForward(
        problem_, labels_, results_, [&](int64_t row) { return Sums(row); }, &expectations_);
  }

  void RunBackward(const RowBiases<Real>& biases) {
    const int64_t W = options_.width, elements = problem_.rows * W;
    const DeviceArray<Real> logits(Shifted(logits_, problem_.shift));
    DeviceArray<T> apart(elements + problem_.shift);
    T* target = apart.get() + problem_.shift;
    if constexpr (std::is_same_v<T, Real>) {
      if (problem_.is_in_place) target = logits.get() + problem_.shift;
    }
    const int64_t parts = PartsOfBias(rows_of_bias_);
    const int64_t all_parts = problem_.rows / rows_of_bias_ * parts;
    const DeviceArray<Real> bias_parts(all_parts * W);
    Check(cudaMemset(bias_parts.get(), 0xff, bias_parts.size() * sizeof(Real)), "memset");
    const DeviceArray<Real> results(results_.numbers), cotangents(cotangents_.numbers);
    const DeviceArray<Real> bounds(bounds_);
    Check(cuda::EntriesBackwardBiased<T>(0, problem_.rows, options_, logits.get() + problem_.shift,
                                         biases, LabelsIn(problem_, device_labels_, device_counts_),
                                         bounds.get(), results.get(), results.get() + problem_.rows,
                                         CotangentsIn(cotangents.get(), problem_.rows, options_),
                                         target, bias_parts.get()),
          "EntriesBackwardBiased");
    std::vector<T> actual(elements);
    Check(cudaMemcpy(actual.data(), target, elements * sizeof(T), cudaMemcpyDeviceToHost),
          "memcpy");
    const std::vector<Real> actual_parts = bias_parts.ToHost();
    std::vector<ExpectedCotangent> expected_parts(all_parts * W);
    for (int64_t row = 0; row < problem_.rows; ++row) {
      RowInputs inputs{results_.Maximum(row), results_.Sum(row), cotangents_.Sum(row), {}};
      for (int entry = 0; entry < EntryCount(options_); ++entry) {
        inputs.entry_cotangents.push_back(cotangents_.Entry(entry, row));
      }
      const int64_t part = row / rows_of_bias_ * parts + row % rows_of_bias_ / kBiasPartRows;
      const double bound = bounds_[row];
      for (int32_t v = 0; v < W; ++v) {
        ExpectedCotangent expected =
            ComputeCotangent<T>(options_, labels_.of_rows[row], inputs, v, Sums(row)[v]);
        if (std::isfinite(bound)) {
          expected.value = std::clamp(expected.value, -bound, bound);
          expected.tolerance += RoundingError<T>(bound);
        }
        expectations_.Expect("logits_cotangent", row, v, ToDouble(actual[row * W + v]),
                             expected.value, expected.tolerance);
        expected_parts[part * W + v].value += expected.value;
        expected_parts[part * W + v].tolerance +=
            expected.tolerance + 32 * RoundingError<Real>(std::fabs(expected.value));
      }
    }
    for (int64_t i = 0; i < all_parts * W; ++i) {
      expectations_.Expect("bias_part", i / W, i % W, actual_parts[i], expected_parts[i].value,
                           expected_parts[i].tolerance);
    }
  }

  Problem problem_;
  EntriesOptions options_;
  int64_t rows_of_bias_;
  HostLabels labels_;
  std::vector<Real> logits_, biases_, sums_, bounds_;
  RowNumbers<Real> results_, cotangents_;
  DeviceArray<int32_t> device_labels_, device_counts_;
  Expectations expectations_;
};

template <typename T>
void CheckBiasedProblems() {
  int problems = 0;
  for (int32_t tokens : {1,   2,   3,   5,   8,    28,   33,   50,   64,   127,  129,  256,  400,
                         511, 512, 513, 640, 1000, 1024, 1030, 2051, 3100, 4096, 5000, 13001}) {
    for (int32_t behind : {0, 1, 3, 4, 8, 17}) {
      for (int repeat = 0; repeat < 3; ++repeat) {
        const Problem problem = DrawProblem(tokens, behind, tokens < 1000 ? 30000 : 60000);
        int64_t count = 1 + RandomBelow(4);
        while (problem.rows % count != 0) --count;
        BiasedChecker<T>(problem, count).Run();
        ++problems;
      }
    }
  }
  std::printf("%s, biased: %d problems, %d failures so far\n", TypeName<T>(), problems, failures);
  std::fflush(stdout);
}

}  // namespace jax_rnnt::entries_check

#endif  // JAX_RNNT_TOOLS_ENTRIES_CHECK_BIASED_CUH_
