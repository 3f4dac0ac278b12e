// Times of the joint network's kernels.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_TIMES_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_TIMES_CUH_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../device_array.h"
#include "cuda/joint/add_blocks.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/hidden.h"
#include "cuda/joint/list.h"
#include "cuda/joint/pack.h"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

// Sorted milliseconds of one of `launches` launches in a row.
template <typename Launch>
std::vector<float> Measure(int launches, const Launch& launch) {
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "cudaEventCreate");
  Check(cudaEventCreate(&stop), "cudaEventCreate");
  const auto measure = [&] {
    float milliseconds = 0;
    Check(cudaEventRecord(start), "cudaEventRecord");
    for (int i = 0; i < launches; ++i) launch();
    Check(cudaEventRecord(stop), "cudaEventRecord");
    Check(cudaEventSynchronize(stop), "kernel");
    Check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
    return milliseconds / launches;
  };
  for (float warm_up = 0; warm_up < 500;) warm_up += launches * measure();
  std::vector<float> times(20);
  for (float& time : times) time = measure();
  std::sort(times.begin(), times.end());
  Check(cudaEventDestroy(start), "cudaEventDestroy");
  Check(cudaEventDestroy(stop), "cudaEventDestroy");
  return times;
}

// Few distinct numbers, as random ones for the whole of it would take the host a while.
template <typename T>
std::vector<T> Fill(int64_t count, float scale) {
  const std::vector<T> some = RandomNumbers<T>(65521, scale);
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = some[i % some.size()];
  return values;
}

template <typename T>
void Time(const JointShape& shape, Activation activation) {
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  DeviceArray<T> encoder(Fill<T>(static_cast<int64_t>(shape.N) * shape.T * shape.H, 1));
  DeviceArray<T> predictor(Fill<T>(static_cast<int64_t>(shape.N) * shape.U * shape.H, 1));
  DeviceArray<T> kernel(Fill<T>(static_cast<int64_t>(shape.H) * shape.V, 0.1f));
  DeviceArray<T> bias(Fill<T>(shape.V, 1));
  std::vector<int32_t> host_labels(static_cast<int64_t>(shape.N) * shape.U);
  for (int32_t& label : host_labels) label = static_cast<int32_t>(generator() % shape.V);
  DeviceArray<int32_t> labels(host_labels), frames(std::vector<int32_t>(shape.N, shape.T));
  const auto packed = cuda::PackedJointBytes(shape.H, shape.V);
  DeviceArray<unsigned char> packed_kernel(packed.kernel);
  DeviceArray<float> packed_bias(packed.bias / 4), outputs(4 * cells);
  const auto launch = [&] {
    Check(PackAndForward<T>(0, shape, activation, 0, encoder.get(), predictor.get(), kernel.get(),
                            bias.get(), labels.get(), frames.get(), packed_kernel.get(),
                            packed_bias.get(), outputs.get(), outputs.get() + cells,
                            outputs.get() + 2 * cells, outputs.get() + 3 * cells),
          "JointForward");
  };
  const std::vector<float> times = Measure(1, launch);
  const double median = (times[9] + times[10]) / 2;
  std::printf("%s %-4s N %d T %d U %d H %d V %d: %.3f ms (%.3f to %.3f), %.0f TFLOP/s\n",
              TypeName<T>(), kActivationNames[static_cast<int>(activation)], shape.N, shape.T,
              shape.U, shape.H, shape.V, median, times.front(), times.back(),
              2e-9 * cells * shape.H * shape.V / median);
  std::fflush(stdout);
}

// A step of the backward without its products: the first R tiles.
template <typename T>
void TimeBackward(const JointShape& shape, int64_t R) {
  const int64_t cells = static_cast<int64_t>(shape.N) * shape.T * shape.U;
  const cuda::TileGrid grid = cuda::MakeTileGrid(shape);
  DeviceArray<T> encoder(Fill<T>(static_cast<int64_t>(shape.N) * shape.T * shape.H, 1));
  DeviceArray<T> predictor(Fill<T>(static_cast<int64_t>(shape.N) * shape.U * shape.H, 1));
  DeviceArray<T> kernel(Fill<T>(static_cast<int64_t>(shape.H) * shape.V, 0.1f));
  DeviceArray<T> bias(Fill<T>(shape.V, 1));
  DeviceArray<T> hidden_gradients(Fill<T>(R * 128 * shape.H, 1));
  std::vector<int32_t> host_labels(static_cast<int64_t>(shape.N) * shape.U);
  for (int32_t& label : host_labels) label = static_cast<int32_t>(generator() % shape.V);
  DeviceArray<int32_t> labels(host_labels), frames(std::vector<int32_t>(shape.N, shape.T));
  const auto packed = cuda::PackedJointBytes(shape.H, shape.V);
  DeviceArray<unsigned char> packed_kernel(packed.kernel);
  DeviceArray<float> packed_bias(packed.bias / 4), rows(4 * cells);
  DeviceArray<float> cotangents(Fill<float>(2 * cells, 1));
  Check(PackAndForward<T>(0, shape, Activation::kTanh, 0, encoder.get(), predictor.get(),
                          kernel.get(), bias.get(), labels.get(), frames.get(), packed_kernel.get(),
                          packed_bias.get(), rows.get(), rows.get() + cells, rows.get() + 2 * cells,
                          rows.get() + 3 * cells),
        "JointForward");
  std::vector<int32_t> host_tiles(R), host_encoder_blocks(R), host_predictor_blocks(R);
  for (int64_t r = 0; r < R; ++r) {
    const uint32_t block = static_cast<uint32_t>(r) / grid.column_blocks;
    host_tiles[r] = static_cast<int32_t>(r);
    host_encoder_blocks[r] = static_cast<int32_t>(block);
    host_predictor_blocks[r] = static_cast<int32_t>(block / grid.frame_blocks * grid.column_blocks +
                                                    r % grid.column_blocks);
  }
  DeviceArray<int32_t> tiles(host_tiles), encoder_blocks(host_encoder_blocks),
      predictor_blocks(host_predictor_blocks);
  DeviceArray<T> logits_gradients(R * 128 * shape.V), activations(R * 128 * shape.H);
  DeviceArray<float> bias_parts(R * 8 * shape.V), encoder_parts(R * 16 * shape.H),
      predictor_parts(R * 8 * shape.H);
  const int64_t encoder_count = static_cast<int64_t>(shape.N) * grid.frame_blocks;
  const int64_t predictor_count = static_cast<int64_t>(shape.N) * grid.column_blocks;
  DeviceArray<float> encoder_sums(encoder_count * 16 * shape.H),
      predictor_sums(predictor_count * 8 * shape.H);
  Check(cudaMemset(encoder_sums.get(), 0, encoder_sums.size() * sizeof(float)), "clear");
  Check(cudaMemset(predictor_sums.get(), 0, predictor_sums.size() * sizeof(float)), "clear");
  const auto gradients = [&](float* parts) {
    Check(cuda::JointGradients<T>(0, shape, Activation::kTanh, 0, R, encoder.get(), predictor.get(),
                                  packed_kernel.get(), packed_bias.get(), labels.get(),
                                  frames.get(), rows.get() + 2 * cells, rows.get() + 3 * cells,
                                  cotangents.get(), cotangents.get() + cells, tiles.get(),
                                  logits_gradients.get(), activations.get(), parts),
          "JointGradients");
  };
  const auto print = [&](const char* name, const std::vector<float>& times) {
    std::printf("%s backward N %d T %d U %d H %d V %d R %lld %s: %.1f us (%.1f to %.1f)",
                TypeName<T>(), shape.N, shape.T, shape.U, shape.H, shape.V,
                static_cast<long long>(R), name, 500 * (times[9] + times[10]), 1000 * times.front(),
                1000 * times.back());
    if (std::strncmp(name, "JointGradients", 14) == 0) {
      std::printf(", %.0f TFLOP/s",
                  2e-9 * R * 128 * shape.H * shape.V / ((times[9] + times[10]) / 2));
    }
    std::printf("\n");
    std::fflush(stdout);
  };
  constexpr int kLaunches = 20;
  print("JointGradients", Measure(kLaunches, [&] { gradients(bias_parts.get()); }));
  print("JointGradients without the bias", Measure(kLaunches, [&] { gradients(nullptr); }));
  print("JointHidden", Measure(kLaunches, [&] {
          Check(
              cuda::JointHidden<T>(0, shape, Activation::kTanh, R, encoder.get(), predictor.get(),
                                   labels.get(), frames.get(), tiles.get(), hidden_gradients.get(),
                                   encoder_parts.get(), predictor_parts.get()),
              "JointHidden");
        }));
  print("AddBlocks encoder", Measure(kLaunches, [&] {
          Check(cuda::AddBlocks(0, encoder_count, 16 * shape.H, R, encoder_sums.get(),
                                encoder_blocks.get(), encoder_parts.get(), encoder_sums.get()),
                "AddBlocks");
        }));
  print("AddBlocks predictor", Measure(kLaunches, [&] {
          Check(
              cuda::AddBlocks(0, predictor_count, 8 * shape.H, R, predictor_sums.get(),
                              predictor_blocks.get(), predictor_parts.get(), predictor_sums.get()),
              "AddBlocks");
        }));
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_TIMES_CUH_
