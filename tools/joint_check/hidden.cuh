// JointHidden and AddBlocks against the same sums on the host.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_HIDDEN_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_HIDDEN_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../device_array.h"
#include "cells.cuh"
#include "cuda/joint/add_blocks.h"
#include "cuda/joint/hidden.h"
#include "cuda/joint/list.h"
#include "lists.cuh"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

template <typename T>
void RunHidden(const Problem& problem) {
  const JointShape& shape = problem.shape;
  const int64_t H = shape.H;
  const Inputs<T> inputs(problem);
  const cuda::TileGrid grid = cuda::MakeTileGrid(shape);
  const std::vector<int32_t> tiles = RandomTiles(shape);
  const int64_t R = static_cast<int64_t>(tiles.size());
  std::vector<T> gradients = RandomNumbers<T>(R * 128 * H, 1);
  std::vector<double> wanted(R * 24 * H), sizes(R * 24 * H);
  for (int64_t cell = 0; cell < R * 128; ++cell) {
    const int64_t r = cell / 128;
    const int64_t row = cell % 128;
    const CellOfList place = FindCell(grid, tiles[r], static_cast<int>(row));
    const bool is_padding = !place.is_tile || inputs.IsPadding(shape, place.n, place.t, place.u);
    for (int64_t h = 0; h < H; ++h) {
      T& gradient = gradients[cell * H + h];
      if (is_padding) {
        gradient = static_cast<T>(static_cast<float>(NAN));
        continue;
      }
      const int64_t encoder_at = (place.n / shape.K * shape.T + place.t) * H + h + problem.shift;
      const int64_t predictor_at = (place.n * shape.U + place.u) * H + h + problem.shift;
      const float z = static_cast<float>(inputs.encoder[encoder_at]) +
                      static_cast<float>(inputs.predictor[predictor_at]);
      double d = static_cast<double>(static_cast<float>(gradient));
      const uint32_t threshold = problem.options.threshold;
      if (threshold != 0) {
        d = IsDropped(threshold, inputs.seed[0], inputs.seed[1], inputs.sequences[place.n], place.t,
                      place.u, static_cast<int>(h))
                ? 0
                : d * 65536 / (65536 - threshold);
      }
      const double product = DefineSlope(problem.activation, z) * d;
      // Encoder's parts first, then the predictor's.
      for (int64_t at : {(r * 16 + row / 8) * H + h, R * 16 * H + (r * 8 + row % 8) * H + h}) {
        wanted[at] += product;
        sizes[at] += std::abs(d);
      }
    }
  }
  // Whole granules are at aligned addresses without a shift only.
  gradients.insert(gradients.begin(), problem.shift, static_cast<T>(0.f));
  DeviceArray<T> device_gradients(gradients);
  DeviceArray<int32_t> device_tiles(tiles);
  GuardedArray<float> encoder_parts(R * 16 * H, problem.shift);
  GuardedArray<float> predictor_parts(R * 8 * H, problem.shift);
  Check(cuda::JointHidden<T>(0, shape, problem.activation, R, inputs.inputs, device_tiles.get(),
                             device_gradients.get() + problem.shift, encoder_parts.get(),
                             predictor_parts.get()),
        "JointHidden");
  Check(cudaDeviceSynchronize(), "JointHiddenKernel");
  std::vector<float> got = encoder_parts.ToHost();
  const std::vector<float> predictor = predictor_parts.ToHost();
  got.insert(got.end(), predictor.begin(), predictor.end());
  double worst = 0;
  int64_t worst_at = 0;
  for (int64_t i = 0; i < R * 24 * H; ++i) {
    const double bound = 2e-6 * sizes[i];
    double error = got[i] == wanted[i] ? 0 : std::abs(got[i] - wanted[i]) / bound;
    if (std::isnan(error)) error = kInfinity;
    if (error > worst) {
      worst = error;
      worst_at = i;
    }
  }
  const bool is_intact = encoder_parts.IsIntact() && predictor_parts.IsIntact();
  const bool pass = worst <= 1 && is_intact;
  std::printf("%s hidden ", TypeName<T>());
  Print(problem);
  std::printf(": %.2f of the bound (at %lld: %g, not %g)%s %s\n", worst,
              static_cast<long long>(worst_at), got[worst_at], wanted[worst_at],
              is_intact ? "" : ", written beyond the end", pass ? "PASS" : "FAIL");
  std::fflush(stdout);
  failures += !pass;
}

template <typename T>
void CheckHiddenProblems() {
  for (int a = 0; a < cuda::kActivations; ++a) {
    RunHidden<T>({{4, 37, 19, 640, 30}, static_cast<Activation>(a), true, true, false, 4});
  }
  for (int repeat = 0; repeat < 3; ++repeat) RunHidden<T>({{9, 50, 21, 64, 28}});
  RunHidden<T>({{3, 33, 17, 100, 30}});
  RunHidden<T>({{3, 33, 17, 101, 30}, Activation::kGelu});
  RunHidden<T>({{3, 33, 17, 200, 30}, Activation::kSilu});
  RunHidden<T>({{3, 33, 17, 96, 30}, Activation::kTanh, true, true, false, 1, 4, 1});
  RunHidden<T>({{1, 1, 1, 1, 1}});
  for (const Problem& problem : OptionProblems({6, 21, 11, 72, 30})) RunHidden<T>(problem);
  for (const Problem& problem : OptionProblems({3, 17, 9, 203, 30})) RunHidden<T>(problem);
  RunHidden<T>({{3, 40, 20, 1500, 5}, Activation::kRelu, false, false});
}

inline void CheckAddBlocks() {
  constexpr int64_t kBlocks = 7;
  for (int64_t L : {1, 10, 1023, 1028, 10240}) {
    for (int64_t R : {1, 5, 325, 700}) {
      std::vector<float> sums = RandomNumbers<float>(kBlocks * L, 1);
      const std::vector<float> parts = RandomNumbers<float>(R * L, 1);
      std::vector<int32_t> blocks(R);
      for (int32_t& block : blocks) block = static_cast<int32_t>(generator() % (kBlocks + 4)) - 2;
      blocks[generator() % R] = std::numeric_limits<int32_t>::max();
      DeviceArray<float> device_parts(parts);
      DeviceArray<int32_t> device_blocks(blocks);
      GuardedArray<float> device_sums(kBlocks * L);
      Check(cudaMemcpy(device_sums.get(), sums.data(), sums.size() * sizeof(float),
                       cudaMemcpyHostToDevice),
            "copy");
      Check(cuda::AddBlocks(0, kBlocks, L, R, device_sums.get(), device_blocks.get(),
                            device_parts.get(), device_sums.get()),
            "AddBlocks");
      Check(cudaDeviceSynchronize(), "AddBlocksKernel");
      for (int64_t r = 0; r < R; ++r) {
        if (blocks[r] < 0 || blocks[r] >= kBlocks) continue;
        for (int64_t l = 0; l < L; ++l) sums[blocks[r] * L + l] += parts[r * L + l];
      }
      const bool pass = device_sums.ToHost() == sums && device_sums.IsIntact();
      std::printf("add blocks L %lld R %lld %s\n", static_cast<long long>(L),
                  static_cast<long long>(R), pass ? "PASS" : "FAIL");
      failures += !pass;
    }
  }
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_HIDDEN_CUH_
