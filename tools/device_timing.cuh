// What the programs that time kernels share: arrays filled on the device, medians, the bandwidth of
// a copy.
#ifndef JAX_RNNT_TOOLS_DEVICE_TIMING_CUH_
#define JAX_RNNT_TOOLS_DEVICE_TIMING_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "device_array.h"

namespace jax_rnnt {

// Numbers in [low, high) that depend on their index alone.
template <typename T>
__global__ void FillKernel(T* values, int64_t count, float low, float high) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    uint64_t bits = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 32) * 0xd6e8feb86659fd93u;
    const float unit = static_cast<float>(bits >> 40) * 0x1p-24f;
    values[i] = static_cast<T>(low + unit * (high - low));
  }
}

template <typename T>
void Fill(const DeviceArray<T>& array, float low, float high) {
  FillKernel<<<2048, 256>>>(array.get(), array.size(), low, high);
  Check(cudaGetLastError(), "fill");
}

// Median seconds of launch(0), launch(1), ..., over bursts of launches between two events, after
// half a second of warm-up.
inline double MedianSeconds(const std::function<void(int)>& launch) {
  constexpr double kWarmUpSeconds = 0.5;
  constexpr double kBurstSeconds = 0.05;
  constexpr int kBursts = 9;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  int launches = 0;
  do {
    for (int i = 0; i < 8; ++i) launch(launches++);
    Check(cudaDeviceSynchronize(), "warm-up");
  } while (elapsed() < kWarmUpSeconds);
  const int burst = std::max(4, static_cast<int>(kBurstSeconds * launches / elapsed()));

  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<double> seconds;
  for (int k = 0; k < kBursts; ++k) {
    Check(cudaEventRecord(begin), "event");
    for (int i = 0; i < burst; ++i) launch(i);
    Check(cudaEventRecord(end), "event");
    Check(cudaEventSynchronize(end), "burst");
    float milliseconds;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
    seconds.push_back(milliseconds * 1e-3 / burst);
  }
  Check(cudaEventDestroy(begin), "event");
  Check(cudaEventDestroy(end), "event");
  std::nth_element(seconds.begin(), seconds.begin() + kBursts / 2, seconds.end());
  return seconds[kBursts / 2];
}

// Bytes read and written per second by a copy of 2 GiB.
inline double CopyBandwidth() {
  constexpr int64_t kBytes = int64_t{1} << 31;
  DeviceArray<char> source(kBytes), target(kBytes);
  Check(cudaMemset(source.get(), 1, kBytes), "memset");
  return 2.0 * kBytes / MedianSeconds([&](int) {
           Check(cudaMemcpyAsync(target.get(), source.get(), kBytes, cudaMemcpyDeviceToDevice),
                 "copy");
         });
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_DEVICE_TIMING_CUH_
