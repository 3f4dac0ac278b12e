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

// The inputs of a batch without padding.
template <typename T>
struct TimedInputs {
  explicit TimedInputs(const Problem& problem)
      : shape(problem.shape),
        cells(int64_t{shape.N} * shape.T * shape.U),
        encoder(Fill<T>(int64_t{shape.N / shape.K} * shape.T * shape.H, 1)),
        predictor(Fill<T>(int64_t{shape.N} * shape.U * shape.H, 1)),
        kernel(Fill<T>(int64_t{shape.H} * Width(problem), 0.1f)),
        bias(Fill<T>(Width(problem), 1)),
        labels(RandomLabels(shape)),
        frames(std::vector<int32_t>(shape.N, shape.T)),
        sequences(std::vector<int32_t>(shape.N, 7)),
        seed(std::vector<uint32_t>{3, 4}),
        bounds(std::vector<float>(
            shape.N, problem.options.is_clamped ? 0.1f : static_cast<float>(kInfinity))),
        packed_kernel(cuda::PackedJointBytes(target, shape.H, Width(problem)).kernel),
        packed_bias(cuda::PackedJointBytes(target, shape.H, Width(problem)).bias / 4),
        rows((4 + problem.options.picks) * cells),
        inputs{encoder.get(),
               predictor.get(),
               labels.get(),
               frames.get(),
               {problem.options.threshold, sequences.get(), seed.get()}},
        packed{packed_kernel.get(), packed_bias.get()} {
    entries.width = Width(problem);
    entries.tokens = shape.V;
    entries.without_blank = problem.options.without_blank;
    entries.without_label = problem.options.without_label;
    entries.pick_count = problem.options.picks;
    for (int i = 0; i < entries.pick_count; ++i) {
      entries.picks[i] = shape.V + i % std::max(1, problem.options.behind);
    }
  }

  static std::vector<int32_t> RandomLabels(const JointShape& shape) {
    std::vector<int32_t> labels(int64_t{shape.N} * shape.U);
    for (int32_t& label : labels) label = static_cast<int32_t>(generator() % shape.V);
    return labels;
  }

  void PackAndForward(Activation activation) {
    Check(cuda::JointPack<T>(0, target, shape.H, entries.width, kernel.get(), bias.get(),
                             packed_kernel.get(), packed_bias.get()),
          "JointPack");
    Check(cuda::JointForward<T>(0, target, shape, activation, entries, inputs, packed,
                                ResultsIn(rows.get(), cells, entries.pick_count)),
          "JointForward");
  }

  JointShape shape;
  int64_t cells;
  EntriesOptions entries;
  DeviceArray<T> encoder, predictor, kernel, bias;
  DeviceArray<int32_t> labels, frames, sequences;
  DeviceArray<uint32_t> seed;
  DeviceArray<float> bounds;
  DeviceArray<unsigned char> packed_kernel;
  DeviceArray<float> packed_bias, rows;
  cuda::JointInputs<T> inputs;
  cuda::JointPacked packed;
};

template <typename T>
void Time(const Problem& problem) {
  if (IsLeftOut(problem)) return;
  TimedInputs<T> inputs(problem);
  const std::vector<float> times = Measure(1, [&] { inputs.PackAndForward(problem.activation); });
  const double median = (times[9] + times[10]) / 2;
  std::printf("%s ", TypeName<T>());
  Print(problem);
  std::printf(": %.3f ms (%.3f to %.3f), %.0f TFLOP/s\n", median, times.front(), times.back(),
              2e-9 * inputs.cells * problem.shape.H * Width(problem) / median);
  std::fflush(stdout);
}

// A step of the backward without its products: the first R tiles. Of many, the gradients alone.
template <typename T>
void TimeBackward(const Problem& problem, int64_t R) {
  const bool has_many = R > 1000;
  const JointShape& shape = problem.shape;
  const int64_t H = shape.H;
  const int64_t W = Width(problem);
  const cuda::TileGrid grid = cuda::MakeTileGrid(shape);
  TimedInputs<T> inputs(problem);
  DeviceArray<T> hidden_gradients(Fill<T>(has_many ? 0 : R * 128 * H, 1));
  DeviceArray<float> cotangents(Fill<float>((3 + problem.options.picks) * inputs.cells, 1));
  inputs.PackAndForward(problem.activation);
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
  DeviceArray<T> logits_gradients(R * 128 * W), activations(R * 128 * H);
  DeviceArray<float> bias_parts(R * cuda::BiasParts(target.products) * W),
      encoder_parts(R * 16 * H), predictor_parts(R * 8 * H);
  const int64_t encoder_count = static_cast<int64_t>(shape.N) * grid.frame_blocks;
  const int64_t predictor_count = static_cast<int64_t>(shape.N) * grid.column_blocks;
  DeviceArray<float> encoder_sums(encoder_count * 16 * H), predictor_sums(predictor_count * 8 * H);
  Check(cudaMemset(encoder_sums.get(), 0, encoder_sums.size() * sizeof(float)), "clear");
  Check(cudaMemset(predictor_sums.get(), 0, predictor_sums.size() * sizeof(float)), "clear");
  const auto gradients = [&](float* parts) {
    Check(cuda::JointGradients<T>(
              0, target, shape, problem.activation, inputs.entries, R, inputs.inputs, inputs.packed,
              tiles.get(), inputs.bounds.get(), inputs.rows.get(), inputs.rows.get() + inputs.cells,
              CotangentsIn(cotangents.get(), inputs.cells, problem.options.picks),
              logits_gradients.get(), activations.get(), parts),
          "JointGradients");
  };
  const auto print = [&](const char* name, const std::vector<float>& times) {
    std::printf("%s backward ", TypeName<T>());
    Print(problem);
    std::printf(" R %lld %s: %.1f us (%.1f to %.1f)", static_cast<long long>(R), name,
                500 * (times[9] + times[10]), 1000 * times.front(), 1000 * times.back());
    if (std::strncmp(name, "JointGradients", 14) == 0) {
      std::printf(", %.0f TFLOP/s", 2e-9 * R * 128 * H * W / ((times[9] + times[10]) / 2));
    }
    std::printf("\n");
    std::fflush(stdout);
  };
  const int launches = has_many ? 1 : 20;
  print("JointGradients", Measure(launches, [&] { gradients(bias_parts.get()); }));
  print("JointGradients without the bias", Measure(launches, [&] { gradients(nullptr); }));
  if (has_many) return;
  print("JointHidden", Measure(launches, [&] {
          Check(cuda::JointHidden<T>(0, shape, problem.activation, R, inputs.inputs, tiles.get(),
                                     hidden_gradients.get(), encoder_parts.get(),
                                     predictor_parts.get()),
                "JointHidden");
        }));
  if (problem.options.threshold != 0 || problem.options.behind != 0) return;
  print("AddBlocks encoder", Measure(launches, [&] {
          Check(cuda::AddBlocks(0, encoder_count, 16 * H, R, encoder_sums.get(),
                                encoder_blocks.get(), encoder_parts.get(), encoder_sums.get()),
                "AddBlocks");
        }));
  print("AddBlocks predictor", Measure(launches, [&] {
          Check(
              cuda::AddBlocks(0, predictor_count, 8 * H, R, predictor_sums.get(),
                              predictor_blocks.get(), predictor_parts.get(), predictor_sums.get()),
              "AddBlocks");
        }));
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_TIMES_CUH_
