// Runs every CPU kernel on small inputs whose sizes straddle its vectors and tasks, for the
// sanitizers to watch, without Python or XLA around it, and compares what comes back with the same
// in double, written plainly. Every array is an allocation of its own, as long as its elements;
// NaN, infinities, lengths and labels beyond their range are among the inputs. Several threads call
// at once, on one pool. JAX_RNNT_ISA picks the instruction set. Exits with 1 if a number is wrong.
//
// tools/check_cpu.sh builds and runs it.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <queue>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/isa.h"
#include "cpu/lattice/arcs.h"
#include "cpu/lattice/lattice.h"
#include "cpu/parallel_for.h"
#include "cpu/rows/entries.h"
#include "cpu/rows/pick.h"
#include "every_cpu_align.h"
#include "plain_arcs.h"
#include "ragged_lengths.h"

namespace {

using jax_rnnt::ArcArrays;
using jax_rnnt::ArcTopology;
using jax_rnnt::Arrays;
using jax_rnnt::BFloat16;
using jax_rnnt::Float16;
using jax_rnnt::LatticeLayout;
using jax_rnnt::LogAddExp;
using jax_rnnt::RowLabels;
using jax_rnnt::Scaled;
using jax_rnnt::cpu::ParallelFor;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();

std::atomic<int> failures{0};
std::atomic<int64_t> checked{0};

// What ParallelForOnPool asks of a pool.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t num_threads() const { return static_cast<int64_t>(threads_.size()); }
  void Schedule(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push(std::move(task));
    }
    changed_.notify_one();
  }

 private:
  void Run() {
    while (true) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return done_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  bool done_ = false;
};

using Random = std::mt19937;

double Uniform(Random& random, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random);
}

// ---- 16-bit numbers

uint32_t Bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

void Assign(double x, float* result) { *result = static_cast<float>(x); }
void Assign(double x, double* result) { *result = x; }
void Assign(double x, BFloat16* result) {  // towards zero
  result->bits = static_cast<uint16_t>(std::isnan(x) ? 0x7fc0 : Bits(static_cast<float>(x)) >> 16);
}
double ToDouble(Float16 x) {
  const int exponent = x.bits >> 10 & 31;
  const double fraction = x.bits & 1023;
  double value =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) value = fraction == 0 ? kInf : kNaN;
  return x.bits >> 15 ? -value : value;
}
void Assign(double x, Float16* result) {  // among all numbers the nearest: slow, and right
  if (std::isnan(x) || std::isinf(x)) {
    result->bits = static_cast<uint16_t>(std::isnan(x) ? 0x7e00 : x > 0 ? 0x7c00 : 0xfc00);
    return;
  }
  uint16_t low = 0, high = 0x7bff;
  while (low < high) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    if (ToDouble(Float16{middle}) < std::fabs(x))
      low = static_cast<uint16_t>(middle + 1);
    else
      high = middle;
  }
  result->bits = static_cast<uint16_t>(low | (x < 0 ? 0x8000 : 0));
}
double ToDouble(float x) { return x; }
double ToDouble(double x) { return x; }
double ToDouble(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

// The rounding of a result, relative.
template <typename T>
constexpr double kRounding = sizeof(T) == 8 ? 1e-12 : 3e-6;
template <>
constexpr double kRounding<BFloat16> = 1.0 / 128;
template <>
constexpr double kRounding<Float16> = 1.0 / 1024;

void Expect(const char* what, double actual, double wanted, double rounding) {
  ++checked;
  if (actual == wanted || (std::isnan(actual) && std::isnan(wanted))) return;
  if (std::fabs(actual - wanted) <= rounding * (1 + std::fabs(wanted))) return;
  if (++failures <= 20) std::printf("%s is %.9g, not %.9g\n", what, actual, wanted);
}

// ---- Rows

struct Rows {
  int64_t groups, lines, columns, V;
  bool by_column;
  int shift;  // of the logits against their allocation, in elements
};

// Rows of every kind. Labels are below `tokens`, which may be less than V.
template <typename T>
struct DrawnRows {
  std::vector<int32_t> labels, counts;
  std::vector<int32_t> own;  // each row's label, whatever the form
  std::vector<T> logits;
  RowLabels form;
};

template <typename T>
DrawnRows<T> DrawRows(Random& random, const Rows& shape, int64_t tokens) {
  const int64_t V = shape.V, rows = shape.groups * shape.lines * shape.columns;
  DrawnRows<T> drawn;
  auto& [labels, counts, own, logits, form] = drawn;
  labels.resize(shape.by_column ? shape.groups * shape.columns : rows);
  for (int32_t& label : labels) {
    label = static_cast<int32_t>(random() % (tokens + 3)) - 2;
    if (random() % 16 == 0) label = random() % 2 ? kLowest : kHighest;
  }
  counts.resize(shape.groups);
  for (int32_t& count : counts) {
    count = static_cast<int32_t>(random() % (shape.lines + 3)) - 1;
    if (random() % 8 == 0) count = random() % 2 ? kLowest : kHighest;
  }
  own.resize(rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t group = r / (shape.lines * shape.columns);
    const int64_t line = r / shape.columns % shape.lines;
    own[r] = !shape.by_column        ? labels[r]
             : line >= counts[group] ? jax_rnnt::kPaddingRow
                                     : labels[group * shape.columns + r % shape.columns];
  }
  logits.resize(rows * V + shape.shift);
  for (T& x : logits) Assign(Uniform(random, -4, 4), &x);
  for (int64_t r = 0; r < rows; ++r) {
    T* row = logits.data() + shape.shift + r * V;
    const bool padding = own[r] < -1 || own[r] >= tokens;
    switch (random() % 16) {
      case 0:
        Assign(kNaN, row + random() % V);
        break;
      case 1:
        Assign(kInf, row + random() % V);
        break;
      case 2:
        Assign(-kInf, row + random() % V);
        break;
      case 3:
        for (int64_t v = 0; v < V; ++v) Assign(-kInf, row + v);
        break;
    }
    if (padding) {
      for (int64_t v = 0; v < V; ++v) Assign(kNaN, row + v);
    }
  }
  form = shape.by_column ? RowLabels{labels.data(), counts.data(), shape.columns, shape.lines}
                         : RowLabels{labels.data()};
  return drawn;
}

template <typename T, typename Real>
void RunPick(Random& random, const Rows& shape, const ParallelFor& parallel_for) {
  const int64_t V = shape.V, rows = shape.groups * shape.lines * shape.columns;
  const DrawnRows<T> drawn = DrawRows<T>(random, shape, V);
  const auto& [labels, counts, own, logits, form] = drawn;
  const int64_t blank = static_cast<int64_t>(random() % V);
  std::vector<Real> blanks(rows), label_arcs(rows), maxima(rows), log_sums(rows);
  const T* const x = logits.data() + shape.shift;
  jax_rnnt::cpu::PickForward<T, Real>(rows, V, blank, x, form, blanks.data(), label_arcs.data(),
                                      maxima.data(), log_sums.data(), parallel_for);
  std::vector<Real> blank_cotangents(rows), label_cotangents(rows);
  for (int64_t r = 0; r < rows; ++r) {
    blank_cotangents[r] = static_cast<Real>(random() % 4 ? Uniform(random, -1, 1) : 0);
    label_cotangents[r] = static_cast<Real>(random() % 4 ? Uniform(random, -1, 1) : 0);
  }
  std::vector<T> gradients(rows * V), in_place(logits);
  jax_rnnt::cpu::PickBackward<T, Real>(rows, V, blank, x, form, maxima.data(), log_sums.data(),
                                       blank_cotangents.data(), label_cotangents.data(),
                                       gradients.data(), parallel_for);
  T* const over = in_place.data() + shape.shift;
  jax_rnnt::cpu::PickBackward<T, Real>(rows, V, blank, over, form, maxima.data(), log_sums.data(),
                                       blank_cotangents.data(), label_cotangents.data(), over,
                                       parallel_for);
  Expect("memcmp of gradients written over the logits",
         memcmp(over, gradients.data(), rows * V * sizeof(T)), 0, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * V;
    const int32_t label = own[r];
    const bool padding = label < -1 || label >= V;
    double most = -kInf, sum = 0;
    bool senseless = false;
    for (int64_t v = 0; v < V && !padding; ++v) {
      senseless |= !(ToDouble(row[v]) < kInf);
      most = std::max(most, ToDouble(row[v]));
    }
    for (int64_t v = 0; v < V && !padding; ++v) {
      sum += most == -kInf ? 0 : std::exp(ToDouble(row[v]) - most);
    }
    auto log_prob = [&](int64_t v) {
      if (padding || v < 0) return -kInf;
      if (senseless) return kNaN;
      return sum == 0 ? -kInf : ToDouble(row[v]) - most - std::log(sum);
    };
    Expect("a blank's log-probability", blanks[r], log_prob(blank), kRounding<Real>);
    Expect("a label's log-probability", label_arcs[r], log_prob(label), kRounding<Real>);
    const bool no_gradient = padding || senseless || sum == 0;
    const double from_blank = blank_cotangents[r];
    const double from_label = label < 0 ? 0 : label_cotangents[r];
    for (int64_t v = 0; v < V; ++v) {
      double wanted = 0;
      if (!no_gradient) {
        wanted = (v == blank ? from_blank : 0) + (v == label ? from_label : 0) -
                 std::exp(log_prob(v)) * (from_blank + from_label);
      }
      Expect("a logit's gradient", ToDouble(gradients[r * V + v]), wanted, kRounding<T>);
    }
  }
}

template <typename T, typename Real>
void RunEntries(Random& random, const Rows& shape, const ParallelFor& parallel_for) {
  const int64_t W = shape.V, rows = shape.groups * shape.lines * shape.columns;
  jax_rnnt::EntriesOptions options;
  options.width = static_cast<int32_t>(W);
  options.tokens = static_cast<int32_t>(W - random() % std::min<int64_t>(W, 4));
  options.blank = static_cast<int32_t>(random() % options.tokens);
  options.without_blank = random() % 2;
  options.without_label = random() % 2;
  options.pick_count = static_cast<int32_t>(random() % (jax_rnnt::kMaxPicks + 1));
  for (int i = 0; i < options.pick_count; ++i)
    options.picks[i] = static_cast<int32_t>(random() % W);
  const DrawnRows<T> drawn = DrawRows<T>(random, shape, options.tokens);
  const auto& [labels, counts, own, logits, form] = drawn;
  const T* const x = logits.data() + shape.shift;
  std::vector<std::vector<Real>> numbers(4 + options.pick_count, std::vector<Real>(rows));
  auto cotangents = numbers;
  cotangents.pop_back();
  for (std::vector<Real>& one : cotangents) {
    for (Real& c : one) c = static_cast<Real>(random() % 4 ? Uniform(random, -1, 1) : 0);
  }
  jax_rnnt::EntriesResults<Real> results{
      numbers[0].data(), numbers[1].data(), numbers[2].data(), numbers[3].data(), {}};
  jax_rnnt::EntriesCotangents<Real> from{
      cotangents[0].data(), cotangents[1].data(), cotangents[2].data(), {}};
  for (int i = 0; i < options.pick_count; ++i) {
    results.pick_logits[i] = numbers[4 + i].data();
    from.picks[i] = cotangents[3 + i].data();
  }
  jax_rnnt::cpu::EntriesForward<T, Real>(rows, options, x, form, results, parallel_for);
  std::vector<T> gradients(rows * W), in_place(logits);
  T* const over = in_place.data() + shape.shift;
  for (auto [read, written] : {std::pair<const T*, T*>{x, gradients.data()}, {over, over}}) {
    jax_rnnt::cpu::EntriesBackward<T, Real>(rows, options, read, form, results.maxima,
                                            results.log_sums, from, written, parallel_for);
  }
  Expect("memcmp of entries' gradients written over the logits",
         memcmp(over, gradients.data(), rows * W * sizeof(T)), 0, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * W;
    const int32_t label = own[r];
    const bool padding = label < -1 || label >= options.tokens;
    double most = -kInf, sum = 0;
    bool senseless = false;
    for (int32_t v = 0; v < W && !padding; ++v) {
      if (!options.IsInCore(v, label)) continue;
      senseless |= !(ToDouble(row[v]) < kInf);
      most = std::max(most, ToDouble(row[v]));
    }
    const double maximum = padding || senseless || most == -kInf ? 0 : most;
    for (int32_t v = 0; v < W && !padding; ++v) {
      if (options.IsInCore(v, label)) sum += std::exp(ToDouble(row[v]) - maximum);
    }
    const double log_sum = padding ? 0 : senseless ? kNaN : std::log(sum);
    auto entry = [&](int32_t v) { return padding || v < 0 ? -kInf : ToDouble(row[v]); };
    Expect("a core's maximum", results.maxima[r], maximum, 0);
    Expect("the logarithm of a core's sum", results.log_sums[r], log_sum, kRounding<Real>);
    Expect("a blank's logit", results.blank_logits[r], entry(options.blank), 0);
    Expect("a label's logit", results.label_logits[r], entry(label), 0);
    std::vector<double> wanted(W);
    for (int32_t v = 0; v < W && std::isfinite(log_sum) && !padding; ++v) {
      if (options.IsInCore(v, label)) {
        wanted[v] = from.sums[r] * std::exp(ToDouble(row[v]) - maximum - log_sum);
      }
    }
    if (!padding) {
      wanted[options.blank] += from.blanks[r];
      if (label >= 0) wanted[label] += from.labels[r];
    }
    for (int i = 0; i < options.pick_count; ++i) {
      Expect("a picked logit", results.pick_logits[i][r], entry(options.picks[i]), 0);
      if (!padding) wanted[options.picks[i]] += from.picks[i][r];
    }
    for (int64_t v = 0; v < W; ++v) {
      Expect("a logit's gradient from entries", ToDouble(gradients[r * W + v]), wanted[v],
             kRounding<T>);
    }
  }
}

// Rows with a bias are those of logits to which it was added before.
template <typename T, typename Real>
void RunBiased(Random& random, const Rows& shape, const ParallelFor& parallel_for) {
  const int64_t W = shape.V, rows = shape.groups * shape.lines * shape.columns;
  const int64_t rows_of_bias = shape.lines * shape.columns * (random() % 2 ? 1 : shape.groups);
  jax_rnnt::EntriesOptions options;
  options.width = options.tokens = static_cast<int32_t>(W);
  options.blank = static_cast<int32_t>(random() % W);
  options.without_blank = random() % 2;
  options.without_label = random() % 2;
  options.picks[options.pick_count++] = static_cast<int32_t>(random() % W);
  const DrawnRows<Real> drawn = DrawRows<Real>(random, shape, W);
  const auto& [labels, counts, own, logits, form] = drawn;
  const Real* const x = logits.data() + shape.shift;
  std::vector<Real> bias(rows / rows_of_bias * W), sums(x, x + rows * W), bounds(rows);
  for (Real& b : bias) b = static_cast<Real>(random() % 9 ? Uniform(random, -2, 2) : -kInf);
  for (Real& b : bounds) b = static_cast<Real>(random() % 2 ? Uniform(random, 0, 1) : kInf);
  for (int64_t i = 0; i < rows * W; ++i) sums[i] += bias[i / W / rows_of_bias * W + i % W];
  std::vector<Real> found(5 * rows), wanted(5 * rows), from(4 * rows);
  for (Real& c : from) c = static_cast<Real>(random() % 4 ? Uniform(random, -1, 1) : 0);
  auto results = [&](std::vector<Real>& of) {
    Real* const n = of.data();
    return jax_rnnt::EntriesResults<Real>{n, n + rows, n + 2 * rows, n + 3 * rows, {n + 4 * rows}};
  };
  const jax_rnnt::RowBiases<Real> biases{bias.data(), rows_of_bias};
  jax_rnnt::cpu::EntriesForwardBiased<Real>(rows, options, x, biases, form, results(found),
                                            parallel_for);
  jax_rnnt::cpu::EntriesForward<Real, Real>(rows, options, sums.data(), form, results(wanted),
                                            parallel_for);
  Expect("memcmp of entries with a bias",
         memcmp(found.data(), wanted.data(), found.size() * sizeof(Real)), 0, 0);
  const Real* const c = from.data();
  const jax_rnnt::EntriesCotangents<Real> cotangents{c, c + rows, c + 2 * rows, {c + 3 * rows}};
  const int64_t parts = jax_rnnt::PartsOfBias(rows_of_bias);
  std::vector<Real> full(rows * W), bias_parts(rows / rows_of_bias * parts * W);
  std::vector<T> gradients(rows * W);
  jax_rnnt::cpu::EntriesBackward<Real, Real>(rows, options, sums.data(), form, found.data(),
                                             found.data() + rows, cotangents, full.data(),
                                             parallel_for);
  jax_rnnt::cpu::EntriesBackwardBiased<T, Real>(rows, options, x, biases, form, bounds.data(),
                                                found.data(), found.data() + rows, cotangents,
                                                gradients.data(), bias_parts.data(), parallel_for);
  std::vector<double> sums_of_parts(bias_parts.size());
  for (int64_t i = 0; i < rows * W; ++i) {
    const int64_t r = i / W, part = r % rows_of_bias / jax_rnnt::kBiasPartRows;
    const double bound = bounds[r], cut = std::min(std::max<double>(full[i], -bound), bound);
    Expect("a gradient of a row with a bias", ToDouble(gradients[i]), cut, kRounding<T>);
    sums_of_parts[(r / rows_of_bias * parts + part) * W + i % W] += cut;
  }
  for (size_t i = 0; i < bias_parts.size(); ++i) {
    Expect("a part of a bias' gradient", bias_parts[i], sums_of_parts[i], 32 * kRounding<Real>);
  }
}

// ---- Lattices

using Lengths = std::vector<int32_t>;

void MakeSomeWrong(Random& random, int T, int U, bool compact, Lengths* frames, Lengths* labels,
                   Lengths* offsets) {
  constexpr int32_t kWrong[] = {kLowest, kHighest, -1, 1 << 30};
  const size_t N = frames->size();
  if (N > 2) (*frames)[1] = compact ? kWrong[random() % 4] : random() % 2 ? 0 : T + 1;
  if (N > 3) (*labels)[2] = random() % 2 ? U + 3 : kWrong[random() % 4];
  if (N > 4 && compact) (*offsets)[3] = kWrong[random() % 4];
}

template <typename Real>
void RunLattice(Random& random, int N, int T, int U, bool compact,
                const ParallelFor& parallel_for) {
  auto [frames, labels, offsets, used] = jax_rnnt::DrawLengths(random, N, T, U);
  const int64_t cells = compact ? used : int64_t{N} * T * U;
  MakeSomeWrong(random, T, U, compact, &frames, &labels, &offsets);
  std::vector<Real> blank(cells), label(cells);
  for (std::vector<Real>* arcs : {&blank, &label}) {
    for (Real& x : *arcs) x = static_cast<Real>(Uniform(random, -3, -0.1));
    if (random() % 4 == 0) {
      for (Real& x : *arcs) {
        if (random() % 8 == 0) x = static_cast<Real>(-kInf);
      }
    }
    if (random() % 4 == 0) (*arcs)[random() % cells] = static_cast<Real>(kNaN);
  }
  LatticeLayout layout = compact ? jax_rnnt::CompactLayout(N, cells, U + 3, frames.data(),
                                                           labels.data(), offsets.data())
                                 : jax_rnnt::PaddedLayout(N, T, U, frames.data(), labels.data());
  layout.planes = 2;  // as handlers keep them
  std::vector<Real> costs(N), forward_costs(N), cotangents(N), blank_out(cells), label_out(cells);
  for (Real& c : cotangents) c = static_cast<Real>(random() % 8 ? Uniform(random, -1, 1) : 0);
  std::vector<Scaled<Real>> alphas(2 * cells), totals(N);
  jax_rnnt::cpu::LatticeCost<Real>(layout, blank.data(), label.data(), costs.data(), parallel_for);
  jax_rnnt::cpu::LatticeForward<Real>(layout, blank.data(), label.data(), forward_costs.data(),
                                      alphas.data(), totals.data(), parallel_for);
  jax_rnnt::cpu::LatticeBackward<Real>(layout, cells, blank.data(), label.data(), alphas.data(),
                                       totals.data(), cotangents.data(), blank_out.data(),
                                       label_out.data(), parallel_for);
  std::vector<double> wanted_blank(cells), wanted_label(cells);
  for (int n = 0; n < N; ++n) {
    const jax_rnnt::LatticeSequence s = layout.Sequence(n);
    Expect("a cost of one call against the other's", forward_costs[n], costs[n], 0);
    double cost = kNaN;
    if (s.valid) {
      const int F = s.frames, C = s.columns;
      bool senseless = false;
      auto arc = [&](const std::vector<Real>& arcs, int t, int u) {
        const bool leads_out = &arcs == &blank ? t == F - 1 && u < C - 1 : u == C - 1;
        const double x = leads_out ? -kInf : arcs[s.first + t * s.stride + u];
        senseless |= !(x < kInf);
        return x;
      };
      std::vector<double> alpha((F + 1) * (C + 1), -kInf), beta(alpha);
      auto at = [C](int t, int u) { return static_cast<size_t>(t) * (C + 1) + u; };
      alpha[at(0, 0)] = 0;
      for (int t = 0; t < F; ++t) {
        for (int u = 0; u < C; ++u) {
          if (t > 0) alpha[at(t, u)] = alpha[at(t - 1, u)] + arc(blank, t - 1, u);
          if (u > 0) {
            const double emitted = alpha[at(t, u - 1)] + arc(label, t, u - 1);
            alpha[at(t, u)] = LogAddExp(t > 0 ? alpha[at(t, u)] : -kInf, emitted);
          }
        }
      }
      beta[at(F, C - 1)] = 0;
      for (int t = F - 1; t >= 0; --t) {
        for (int u = C - 1; u >= 0; --u) {
          beta[at(t, u)] = LogAddExp(arc(blank, t, u) + beta[at(t + 1, u)],
                                     u < C - 1 ? arc(label, t, u) + beta[at(t, u + 1)] : -kInf);
        }
      }
      cost = senseless ? kNaN : -beta[at(0, 0)];
      for (int t = 0; t < F && std::isfinite(cost); ++t) {
        for (int u = 0; u < C; ++u) {
          const int64_t cell = s.first + t * s.stride + u;
          const double before = alpha[at(t, u)] + cost;
          wanted_blank[cell] =
              -cotangents[n] * std::exp(before + arc(blank, t, u) + beta[at(t + 1, u)]);
          wanted_label[cell] =
              u < C - 1 ? -cotangents[n] * std::exp(before + arc(label, t, u) + beta[at(t, u + 1)])
                        : 0;
        }
      }
    }
    Expect("a cost", costs[n], cost, kRounding<Real>);
  }
  for (int64_t i = 0; i < cells; ++i) {
    Expect("a blank arc's gradient", blank_out[i], wanted_blank[i], kRounding<Real> * 4);
    Expect("a label arc's gradient", label_out[i], wanted_label[i], kRounding<Real> * 4);
  }
}

template <typename Real>
void RunArcs(Random& random, const ArcTopology& topology, int N, int T, int U, bool compact,
             const ParallelFor& parallel_for) {
  auto [frames, labels, offsets, used] = jax_rnnt::DrawLengths(random, N, T, U);
  const int64_t cells = compact ? used : int64_t{N} * T * U;
  const int64_t ends = int64_t{N} * (T + 1);
  MakeSomeWrong(random, T, U, compact, &frames, &labels, &offsets);
  LatticeLayout layout = compact ? jax_rnnt::CompactLayout(N, cells, U + 3, frames.data(),
                                                           labels.data(), offsets.data())
                                 : jax_rnnt::PaddedLayout(N, T, U, frames.data(), labels.data());
  layout.planes = 2;  // as handlers keep them
  const Arrays<Real> weights = jax_rnnt::DrawWeights<Real>(random, topology.count, cells, T + U);
  const Arrays<Real> end_weights = jax_rnnt::DrawWeights<Real>(random, 2, ends, T + U);
  ArcArrays<Real> arrays = {};
  for (int k = 0; k < topology.count; ++k) arrays.arcs[k] = weights[k].data();
  if (!compact && random() % 2) arrays.initial = end_weights[0].data();
  if (!compact && random() % 2) arrays.final_weights = end_weights[1].data();
  std::vector<Real> costs(N), forward_costs(N), cotangents(N);
  for (Real& c : cotangents) c = static_cast<Real>(random() % 8 ? Uniform(random, -1, 1) : 0);
  std::vector<Scaled<Real>> kept(2 * cells), totals(N);
  Scaled<Real>*const alphas = kept.data(), *const betas = alphas + layout.plane();
  Arrays<Real> results(topology.count, std::vector<Real>(cells, Real(7)));
  Arrays<Real> end_results(2, std::vector<Real>(ends, Real(7)));
  std::vector<Real*> outputs;
  for (std::vector<Real>& array : results) outputs.push_back(array.data());
  jax_rnnt::cpu::ArcsCost<Real>(layout, topology, arrays, costs.data(), parallel_for);
  jax_rnnt::cpu::ArcsForward<Real>(layout, topology, arrays, forward_costs.data(), alphas, betas,
                                   totals.data(), parallel_for);
  jax_rnnt::cpu::ArcsBackward<Real>(layout, cells, topology, arrays, alphas, betas, totals.data(),
                                    cotangents.data(), outputs.data(), end_results[0].data(),
                                    end_results[1].data(), parallel_for);
  Arrays<double> wanted(topology.count, std::vector<double>(cells));
  Arrays<double> wanted_ends(2, std::vector<double>(ends));
  for (int n = 0; n < N; ++n) {
    const jax_rnnt::LatticeSequence s = layout.Sequence(n);
    Expect("a cost of one call against the other's", forward_costs[n], costs[n], 0);
    if (!s.valid) {
      Expect("a cost", costs[n], kNaN, 0);
      continue;
    }
    const int64_t first = n * (layout.max_frames + 1);
    ArcArrays<Real> own = arrays;
    if (own.initial != nullptr) own.initial += first;
    if (own.final_weights != nullptr) own.final_weights += first;
    const jax_rnnt::PlainArcs plain = jax_rnnt::ArcsByDefinition(s, topology, own);
    Expect("a cost", costs[n], plain.cost, kRounding<Real>);
    for (int k = 0; k < topology.count; ++k) {
      for (int64_t i = 0; i < int64_t{s.frames} * s.columns; ++i) {
        wanted[k][s.first + i / s.columns * s.stride + i % s.columns] =
            -cotangents[n] * plain.arcs[k][i];
      }
    }
    for (int t = 0; t <= s.frames && !compact; ++t) {
      wanted_ends[0][first + t] = -cotangents[n] * plain.initial[t];
      wanted_ends[1][first + t] = -cotangents[n] * plain.final_weights[t];
    }
  }
  auto expect = [](const char* what, const std::vector<Real>& actual,
                   const std::vector<double>& wanted) {
    for (size_t i = 0; i < actual.size(); ++i) {
      Expect(what, actual[i], wanted[i], kRounding<Real> * 8);
    }
  };
  for (int k = 0; k < topology.count; ++k) expect("an arc's gradient", results[k], wanted[k]);
  if (arrays.initial != nullptr) expect("initial's gradient", end_results[0], wanted_ends[0]);
  if (arrays.final_weights != nullptr) expect("final's gradient", end_results[1], wanted_ends[1]);
}

// ---- Everything

template <typename T, typename Real>
void RunRows(Random& random, const Rows& shape, const ParallelFor& parallel_for) {
  RunPick<T, Real>(random, shape, parallel_for);
  RunEntries<T, Real>(random, shape, parallel_for);
  RunBiased<T, Real>(random, shape, parallel_for);
}

template <typename T, typename Real>
void RunAllRows(Random& random, const ParallelFor& parallel_for) {
  for (int64_t V : {1,  2,  3,  4,  5,   7,   8,   9,    15,   16,   17,  31,
                    33, 63, 64, 65, 127, 129, 300, 2047, 2048, 2049, 4097}) {
    // Rows below, at and beyond what is finished together, and rows of several tasks.
    const int64_t more = V > 200 ? 3 : 67;
    for (int shift : {0, 1}) {
      RunRows<T, Real>(random, {1, 1, more, V, false, shift}, parallel_for);
      RunRows<T, Real>(random, {3, V > 200 ? 1 : 5, 7, V, true, shift}, parallel_for);
    }
  }
  RunRows<T, Real>(random, {1, 1, 4100, 33, false, 0}, parallel_for);
  RunRows<T, Real>(random, {7, 29, 31, 33, true, 0}, parallel_for);
}

template <typename Real>
void RunLattices(Random& random, const ParallelFor& parallel_for) {
  const std::vector<int> sizes = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 18, 31, 32, 33, 49};
  for (int T : sizes) {
    for (int U : sizes) {
      for (bool compact : {false, true}) RunLattice<Real>(random, 5, T, U, compact, parallel_for);
    }
  }
}

template <typename Real>
void RunAllArcs(Random& random, const ParallelFor& parallel_for) {
  for (const ArcTopology& topology : jax_rnnt::EveryTopology()) {
    for (int T : {1, 2, 3, 7, 8, 9, 17}) {
      for (int U : {1, 2, 4, 5, 8, 9, 15, 16, 17, 18, 33}) {
        for (bool compact : {false, true}) {
          RunArcs<Real>(random, topology, 5, T, U, compact, parallel_for);
        }
      }
    }
    RunArcs<Real>(random, topology, 2, 1500, 33, false, parallel_for);  // several tasks a sequence
  }
}

void RunAll(unsigned seed, Pool& pool) {
  Random random(seed);
  const ParallelFor parallel_for = [&pool](int64_t count,
                                           const std::function<void(int64_t)>& body) {
    jax_rnnt::cpu::ParallelForOnPool(pool, count, body);
  };
  RunAllRows<float, float>(random, parallel_for);
  RunAllRows<BFloat16, float>(random, parallel_for);
  RunAllRows<Float16, float>(random, parallel_for);
  RunAllRows<double, double>(random, parallel_for);
  RunLattices<float>(random, parallel_for);
  RunLattices<double>(random, parallel_for);
  RunAllArcs<float>(random, parallel_for);
  RunAllArcs<double>(random, parallel_for);
  int wrong_paths = 0;
  jax_rnnt::RunCpuAlign<float>(random, parallel_for, &wrong_paths);
  jax_rnnt::RunCpuAlign<double>(random, parallel_for, &wrong_paths);
  failures += wrong_paths;
}

}  // namespace

int main() {
  {
    Pool pool(3);
    std::vector<std::thread> callers;
    for (unsigned seed = 0; seed < 2; ++seed)
      callers.emplace_back([&, seed] { RunAll(seed, pool); });
    for (std::thread& caller : callers) caller.join();
  }
  std::printf("%s: %lld numbers, %d wrong\n", IsaName(jax_rnnt::cpu::BestIsa()),
              static_cast<long long>(checked.load()), failures.load());
  return failures.load() != 0;
}
