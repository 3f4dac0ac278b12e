// The activations and their derivatives against their definitions.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_ACTIVATIONS_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_ACTIVATIONS_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../device_array.h"
#include "cuda/joint/activation.cuh"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

template <int kCount>
__device__ void ActivateAny(Activation activation, float (&x)[kCount]) {
  cuda::DispatchActivation(activation, [&](auto tag) { cuda::Activate<decltype(tag)::value>(x); });
}

template <int kCount>
__device__ void DifferentiateAny(Activation activation, float (&x)[kCount]) {
  cuda::DispatchActivation(activation,
                           [&](auto tag) { cuda::Differentiate<decltype(tag)::value>(x); });
}

static __global__ void ActivationKernel(Activation activation, bool is_slope, const float* x,
                                        float* y, int64_t count) {
  const int64_t i = 2 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (i + 1 >= count) return;
  float pair[2] = {x[i], x[i + 1]};
  is_slope ? DifferentiateAny(activation, pair) : ActivateAny(activation, pair);
  y[i] = pair[0];
  y[i + 1] = pair[1];
}

inline double Define(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      return std::max(x, 0.);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kGelu:
      return x / (1 + std::exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x)));
  }
  return NAN;
}

// The derivatives; silu and gelu are x sigmoid(y).
inline double DefineSlope(Activation activation, double x) {
  const auto sigmoid_slope = [](double x, double y, double y_slope) {
    const double sigmoid = 1 / (1 + std::exp(-y));
    return sigmoid + x * sigmoid / (1 + std::exp(y)) * y_slope;
  };
  switch (activation) {
    case Activation::kNone:
      return 1;
    case Activation::kTanh:
      return 1 / (std::cosh(x) * std::cosh(x));
    case Activation::kRelu:
      return x > 0;
    case Activation::kSilu:
      return std::abs(x) > 300 ? x > 0 : sigmoid_slope(x, x, 1);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x)) / (1 + std::exp(x));
    case Activation::kGelu: {
      constexpr double kScale = 2 * 0.79788456080286535588;
      return std::abs(x) > 15 ? x > 0
                              : sigmoid_slope(x, kScale * (x + 0.044715 * x * x * x),
                                              kScale * (1 + 3 * 0.044715 * x * x));
    }
  }
  return NAN;
}

inline void CheckActivations() {
  std::vector<float> x;
  for (int i = 0; i < 2000000; ++i) {
    const int kind = i % 4;
    x.push_back(kind == 0   ? Random(-1, 1)
                : kind == 1 ? Random(-12, 12)
                : kind == 2 ? Random(-200, 200)
                            : std::ldexp(Random(-1, 1), static_cast<int>(generator() % 130) - 60));
  }
  const float inf = std::numeric_limits<float>::infinity();
  for (float special : {0.f, -0.f, inf, 3e38f, -3e38f, 1e-38f}) {
    for (float partner : {0.f, 1.f, inf, 3e38f, -3e38f}) {
      x.push_back(special);
      x.push_back(partner);
    }
  }
  const int64_t count = static_cast<int64_t>(x.size());
  DeviceArray<float> device_x(x), device_y(count);
  for (int a = 0; a < 2 * cuda::kActivations; ++a) {
    const bool is_slope = a >= cuda::kActivations;
    const Activation activation = static_cast<Activation>(a % cuda::kActivations);
    ActivationKernel<<<(count / 2 + 255) / 256, 256>>>(activation, is_slope, device_x.get(),
                                                       device_y.get(), count);
    Check(cudaGetLastError(), "ActivationKernel");
    const std::vector<float> y = device_y.ToHost();
    double worst = 0, worst_x = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double wanted = is_slope ? DefineSlope(activation, x[i]) : Define(activation, x[i]);
      if (wanted == y[i]) continue;
      double error = std::abs(y[i] - wanted) / std::max(1., std::abs(wanted));
      if (!(error <= worst)) {
        worst = std::isnan(error) ? kInfinity : error;
        worst_x = x[i];
      }
    }
    const bool pass = worst < 1e-6;
    failures += !pass;
    std::printf("%s %s %-4s error %.2e at %g\n", pass ? "PASS" : "FAIL",
                is_slope ? "slope" : "activation", kActivationNames[a % cuda::kActivations], worst,
                worst_x);
  }
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_ACTIVATIONS_CUH_
