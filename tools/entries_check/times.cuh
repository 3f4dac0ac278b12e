// Times of the kernels of entries, beside those of log_softmax_pick on rows of the same width.
#ifndef JAX_RNNT_TOOLS_ENTRIES_CHECK_TIMES_CUH_
#define JAX_RNNT_TOOLS_ENTRIES_CHECK_TIMES_CUH_

#include <cstdint>
#include <cstdio>
#include <vector>

#include "../device_array.h"
#include "../device_timing.cuh"
#include "checks.cuh"
#include "cuda/rows/entries.h"
#include "cuda/rows/pick.h"
#include "problems.cuh"

namespace jax_rnnt::entries_check {

struct TimedShape {
  const char* name;
  int64_t groups, lines, columns;
  int32_t tokens, behind;
  bool without_blank = false, without_label = false;
  int32_t big_blanks = 0;  // beside the blank, which is the last token
};

inline EntriesOptions OptionsOf(const TimedShape& shape) {
  EntriesOptions options;
  options.tokens = shape.tokens;
  options.width = shape.tokens + shape.behind;
  options.blank = shape.tokens - 1;
  options.without_blank = shape.without_blank;
  options.without_label = shape.without_label;
  for (int32_t i = 1; i <= shape.big_blanks; ++i) {
    options.picks[options.pick_count++] = options.blank - i;
  }
  for (int32_t i = 0; i < shape.behind; ++i) {
    options.picks[options.pick_count++] = shape.tokens + i;
  }
  return options;
}

template <typename T>
void TimeShape(const TimedShape& shape, double copy_bandwidth) {
  using Real = RealOf<T>;
  const EntriesOptions options = OptionsOf(shape);
  const int64_t rows = shape.groups * shape.lines * shape.columns, W = options.width;
  std::vector<int32_t> host_labels(shape.groups * shape.columns);
  for (size_t i = 0; i < host_labels.size(); ++i) {
    const bool is_last = (i + 1) % shape.columns == 0;
    host_labels[i] = is_last ? kNoLabel : static_cast<int32_t>(RandomBelow(shape.tokens - 1));
  }
  const DeviceArray<int32_t> device_labels(host_labels);
  const DeviceArray<int32_t> counts(
      std::vector<int32_t>(shape.groups, static_cast<int32_t>(shape.lines)));
  const RowLabels labels{device_labels.get(), counts.get(), shape.columns, shape.lines};
  const DeviceArray<T> logits(rows * W), logits_cotangents(rows * W);
  Fill(logits, -4, 4);
  const int64_t numbers = (2 + EntryCount(options)) * rows;
  const DeviceArray<Real> results(numbers), cotangents(numbers), picked(4 * rows);
  Fill(cotangents, -1, -0.1f);

  const auto forward = [&](int) {
    Check(cuda::EntriesForward<T>(0, rows, options, logits.get(), labels,
                                  ResultsIn(results.get(), rows, options)),
          "EntriesForward");
  };
  const auto backward_into = [&](T* target) {
    Check(cuda::EntriesBackward<T>(0, rows, options, logits.get(), labels, results.get(),
                                   results.get() + rows,
                                   CotangentsIn(cotangents.get(), rows, options), target),
          "EntriesBackward");
  };
  const auto pick_forward = [&](int) {
    Check(cuda::PickForward<T>(0, rows, options.width, options.blank, logits.get(), labels,
                               picked.get(), picked.get() + rows, picked.get() + 2 * rows,
                               picked.get() + 3 * rows),
          "PickForward");
  };
  const auto pick_backward = [&](int) {
    Check(cuda::PickBackward<T>(0, rows, options.width, options.blank, logits.get(), labels,
                                picked.get() + 2 * rows, picked.get() + 3 * rows, cotangents.get(),
                                cotangents.get() + rows, logits_cotangents.get()),
          "PickBackward");
  };
  const double row_bytes = static_cast<double>(rows) * W * sizeof(T);
  const auto print = [&](double forward_seconds, double backward_seconds) {
    const double floor = 3 * row_bytes / copy_bandwidth;
    std::printf("  %8.1f %5.1f %% %8.1f %5.1f %% %6.3f", forward_seconds * 1e6,
                100 * row_bytes / copy_bandwidth / forward_seconds, backward_seconds * 1e6,
                200 * row_bytes / copy_bandwidth / backward_seconds,
                (forward_seconds + backward_seconds) / floor);
  };
  std::printf("%-8s %-9s %8lld %6lld", TypeName<T>(), shape.name, static_cast<long long>(rows),
              static_cast<long long>(W));
  const double forward_seconds = MedianSeconds(forward);
  print(forward_seconds, MedianSeconds([&](int) { backward_into(logits_cotangents.get()); }));
  const double pick_forward_seconds = MedianSeconds(pick_forward);
  print(pick_forward_seconds, MedianSeconds(pick_backward));
  // Last, as it changes the logits; any numbers will do.
  std::printf("  %8.1f\n", 1e6 * MedianSeconds([&](int) { backward_into(logits.get()); }));
  std::fflush(stdout);
}

template <typename T>
void TimeShapes(double copy_bandwidth) {
  for (const TimedShape& shape : {
           TimedShape{"tdt", 16, 400, 100, 1024, 5},
           TimedShape{"tdt", 1, 1500, 300, 1024, 5},
           TimedShape{"tdt", 128, 400, 100, 50, 5},
           TimedShape{"tdt", 4, 400, 100, 4096, 5},
           TimedShape{"hat", 16, 400, 100, 1024, 0, true},
           TimedShape{"rest", 16, 400, 100, 1025, 0, true, true},
           TimedShape{"blanks", 16, 400, 100, 1028, 0, false, false, 3},
           TimedShape{"hat", 128, 400, 100, 50, 0, true},
       }) {
    TimeShape<T>(shape, copy_bandwidth);
  }
}

// As the joint's tiles call them: logits of Real, cotangents of T.
template <typename T>
void TimeBiased(const TimedShape& shape, double copy_bandwidth) {
  using Real = RealOf<T>;
  const EntriesOptions options = OptionsOf(shape);
  const int64_t rows = shape.groups * shape.lines * shape.columns, W = options.width;
  const DeviceArray<int32_t> device_labels(std::vector<int32_t>(shape.groups * shape.columns, 1));
  const DeviceArray<int32_t> counts(
      std::vector<int32_t>(shape.groups, static_cast<int32_t>(shape.lines)));
  const RowLabels labels{device_labels.get(), counts.get(), shape.columns, shape.lines};
  const DeviceArray<Real> logits(rows * W), bias(W), bounds(rows), parts(PartsOfBias(rows) * W);
  const DeviceArray<T> logits_cotangents(rows * W);
  Fill(logits, -4, 4);
  Fill(bias, -1, 1);
  Fill(bounds, 1, 2);
  const int64_t numbers = (2 + EntryCount(options)) * rows;
  const DeviceArray<Real> results(numbers), cotangents(numbers);
  Fill(cotangents, -1, -0.1f);
  const RowBiases<Real> biases{bias.get(), rows};
  const double plain = MedianSeconds([&](int) {
    Check(cuda::EntriesForward<Real>(0, rows, options, logits.get(), labels,
                                     ResultsIn(results.get(), rows, options)),
          "EntriesForward");
  });
  const double forward = MedianSeconds([&](int) {
    Check(cuda::EntriesForwardBiased<Real>(0, rows, options, logits.get(), biases, labels,
                                           ResultsIn(results.get(), rows, options)),
          "EntriesForwardBiased");
  });
  const double backward = MedianSeconds([&](int) {
    Check(cuda::EntriesBackwardBiased<T>(0, rows, options, logits.get(), biases, labels,
                                         bounds.get(), results.get(), results.get() + rows,
                                         CotangentsIn(cotangents.get(), rows, options),
                                         logits_cotangents.get(), parts.get()),
          "EntriesBackwardBiased");
  });
  const double bytes = static_cast<double>(rows) * W;
  std::printf("%-8s %8lld %6lld  %8.1f  %8.1f %5.1f %%  %8.1f %5.1f %%\n", TypeName<T>(),
              static_cast<long long>(rows), static_cast<long long>(W), plain * 1e6, forward * 1e6,
              100 * bytes * sizeof(Real) / copy_bandwidth / forward, backward * 1e6,
              100 * bytes * (sizeof(Real) + sizeof(T)) / copy_bandwidth / backward);
  std::fflush(stdout);
}

template <typename T>
void TimeBiasedShapes(double copy_bandwidth) {
  for (const TimedShape& shape : {
           TimedShape{"", 433, 16, 8, 1024, 0},
           TimedShape{"", 433, 16, 8, 1024, 5},
           TimedShape{"", 433, 16, 8, 1025, 0},
           TimedShape{"", 433, 16, 8, 640, 0},
           TimedShape{"", 866, 16, 8, 500, 0},
           TimedShape{"", 192, 16, 8, 4096, 0},
       }) {
    TimeBiased<T>(shape, copy_bandwidth);
  }
}

inline void TimeAll() {
  const double copy_bandwidth = CopyBandwidth();
  std::printf(
      "copy %.0f GB/s (read and written). Microseconds; the share of the logits' bytes alone at "
      "this "
      "bandwidth; both, in multiples of three passes at it; at last, the backward in place\n"
      "%-8s %-9s %8s %6s  %-40s  %-40s  %s\n",
      copy_bandwidth * 1e-9, "", "", "rows", "W", "entries: forward, backward",
      "log_softmax_pick: forward, backward", "in place");
  TimeShapes<float>(copy_bandwidth);
  TimeShapes<__nv_bfloat16>(copy_bandwidth);
  std::printf(
      "With a bias, logits in float32, their cotangents as named. Microseconds, and the share of "
      "the copy bandwidth\n%-8s %8s %6s  %8s  %s\n",
      "", "rows", "W", "without", "forward, backward");
  TimeBiasedShapes<float>(copy_bandwidth);
  TimeBiasedShapes<__nv_bfloat16>(copy_bandwidth);
}

}  // namespace jax_rnnt::entries_check

#endif  // JAX_RNNT_TOOLS_ENTRIES_CHECK_TIMES_CUH_
