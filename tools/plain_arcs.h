// A lattice of any topology by its definition (core/arcs.h), in logarithms, for the
// programs that run every lattice kernel: its cost and all posteriors.
#ifndef JAX_RNNT_TOOLS_PLAIN_ARCS_H_
#define JAX_RNNT_TOOLS_PLAIN_ARCS_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "core/arcs.h"
#include "core/lattice_layout.h"

namespace jax_rnnt {

// Arcs (dt, du) in ascending order of (du, dt); those of `not_last` may not lead to row T_n.
inline ArcTopology MakeTopology(const std::vector<std::pair<int, int>>& arcs,
                                const std::vector<std::pair<int, int>>& not_last = {}) {
  ArcTopology topology = {};
  for (const auto& arc : arcs) {
    const int k = topology.count++;
    topology.dt[k] = static_cast<int8_t>(arc.first);
    topology.du[k] = static_cast<int8_t>(arc.second);
    topology.may_be_last[k] = std::find(not_last.begin(), not_last.end(), arc) == not_last.end();
  }
  return topology;
}

// RNN-T, one symbol a frame, multi-blank, two of token and duration, the longest arcs of all, and
// some that make no loss: no blank, no label, an arc (1, 0) that may not be the last one.
inline std::vector<ArcTopology> EveryTopology() {
  std::vector<std::pair<int, int>> most;
  for (int du = 0; du < 2; ++du) {
    for (int dt = 1 - du; dt <= kMaxArcFrames; ++dt) most.push_back({dt, du});
  }
  return {MakeTopology({{1, 0}, {0, 1}}),
          MakeTopology({{1, 0}, {1, 1}}),
          MakeTopology({{1, 0}, {2, 0}, {4, 0}, {8, 0}, {0, 1}}),
          MakeTopology({{1, 0}, {2, 0}, {0, 1}, {1, 1}, {2, 1}}, {{0, 1}, {1, 1}, {2, 1}}),
          MakeTopology({{1, 0}, {3, 0}, {1, 1}, {3, 1}}, {{1, 1}, {3, 1}}),
          MakeTopology(most),
          MakeTopology({{0, 1}}),
          MakeTopology({{3, 0}}),
          MakeTopology({{1, 0}, {2, 0}, {0, 1}, {1, 1}}, {{1, 0}})};
}

struct PlainArcs {
  double cost;
  std::vector<std::vector<double>> arcs;       // for each arc (frames, columns)
  std::vector<double> initial, final_weights;  // (frames + 1)
};

template <typename T>
T LogAddExp(T a, T b) {
  if (a < b) std::swap(a, b);
  return b == -HUGE_VAL ? a : a + std::log1p(std::exp(b - a));
}

template <typename Real>
using Arrays = std::vector<std::vector<Real>>;

// Log-weights, among which may be -inf, NaN, numbers that are no log-probabilities and some so low
// that so many steps of them make about the lowest probability of which posteriors are exact in
// float.
template <typename Real, typename Random>
Arrays<Real> DrawWeights(Random& random, size_t count, int64_t size, int steps) {
  std::uniform_real_distribution<float> common(-3.0f, -0.1f);
  Arrays<Real> arrays(count, std::vector<Real>(size));
  const int kind = static_cast<int>(random() % 6);
  for (std::vector<Real>& array : arrays) {
    for (Real& x : array) {
      x = static_cast<Real>(common(random));
      if (kind == 1 && random() % 6 == 0) x = static_cast<Real>(-HUGE_VAL);
      if (kind == 2 && random() % 10 == 0) x = 100;
      if (kind == 4 && random() % 2 == 0) x = static_cast<Real>(-8e6 / steps);
    }
    if (kind == 3 && size > 0 && random() % 3 == 0) {
      array[random() % size] = static_cast<Real>(random() % 2 ? NAN : HUGE_VAL);
    }
  }
  return arrays;
}

// `arrays` has the sequence's own initial and final.
template <typename Real>
PlainArcs ArcsByDefinition(const LatticeSequence& sequence, const ArcTopology& topology,
                           const ArcArrays<Real>& arrays) {
  // In double the logarithm of a long path is less exact than a kernel's mantissas.
  using Wide = long double;
  constexpr Wide kNone = -std::numeric_limits<Wide>::infinity();
  const int T = sequence.frames, U = sequence.columns;
  auto at = [U](int t, int u) { return static_cast<size_t>(t) * U + u; };
  auto legal = [&](int k, int t, int u) {
    const int to = t + topology.dt[k];
    if (t < 0 || u < 0 || t >= T || to > T || u + topology.du[k] >= U) return false;
    return to < T || (topology.may_be_last[k] && u + topology.du[k] == U - 1);
  };
  bool sensible = true;
  auto seen = [&sensible](Wide x) {
    sensible = sensible && x < HUGE_VAL;
    return x;
  };
  auto arc = [&](int k, int t, int u) {
    return seen(arrays.arcs[k][sequence.first + t * sequence.stride + u]);
  };
  auto end = [&](const Real* weights, int t, int only) {
    return weights != nullptr ? seen(weights[t]) : t == only ? 0 : kNone;
  };
  std::vector<Wide> alpha(at(T + 1, 0)), beta(alpha);
  for (int t = 0; t <= T; ++t) {
    for (int u = 0; u < U; ++u) {
      Wide sum = u == 0 ? end(arrays.initial, t, 0) : kNone;
      for (int k = 0; k < topology.count; ++k) {
        const int from_t = t - topology.dt[k], from_u = u - topology.du[k];
        if (!legal(k, from_t, from_u)) continue;
        sum = LogAddExp(sum, alpha[at(from_t, from_u)] + arc(k, from_t, from_u));
      }
      alpha[at(t, u)] = sum;
    }
  }
  Wide total = kNone;
  for (int t = T; t >= 0; --t) {
    for (int u = U - 1; u >= 0; --u) {
      Wide sum = u == U - 1 ? end(arrays.final_weights, t, T) : kNone;
      if (u == U - 1) total = LogAddExp(total, alpha[at(t, u)] + sum);
      for (int k = 0; k < topology.count; ++k) {
        if (!legal(k, t, u)) continue;
        sum = LogAddExp(sum, arc(k, t, u) + beta[at(t + topology.dt[k], u + topology.du[k])]);
      }
      beta[at(t, u)] = sum;
    }
  }
  PlainArcs result;
  result.cost = sensible ? static_cast<double>(-total) : std::numeric_limits<double>::quiet_NaN();
  auto posterior = [&](Wide path) {
    return std::isfinite(result.cost) ? static_cast<double>(std::exp(path - total)) : 0.0;
  };
  result.arcs.assign(topology.count, std::vector<double>(at(T, 0)));
  for (int t = 0; t <= T; ++t) {
    for (int k = 0; k < topology.count; ++k) {
      for (int u = 0; u < U; ++u) {
        if (!legal(k, t, u)) continue;
        const Wide rest = beta[at(t + topology.dt[k], u + topology.du[k])];
        result.arcs[k][at(t, u)] = posterior(alpha[at(t, u)] + arc(k, t, u) + rest);
      }
    }
    result.initial.push_back(posterior(end(arrays.initial, t, 0) + beta[at(t, 0)]));
    result.final_weights.push_back(
        posterior(alpha[at(t, U - 1)] + end(arrays.final_weights, t, T)));
  }
  return result;
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_PLAIN_ARCS_H_
