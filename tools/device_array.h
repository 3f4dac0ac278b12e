// What the programs without Python share: arrays on the device, and an exit where CUDA fails.
#ifndef JAX_RNNT_TOOLS_DEVICE_ARRAY_H_
#define JAX_RNNT_TOOLS_DEVICE_ARRAY_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace jax_rnnt {

inline void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    std::printf("%s: %s\n", what, cudaGetErrorString(error));
    std::exit(1);
  }
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count) : count_(count) {
    Check(cudaMalloc(&data_, count > 0 ? count * sizeof(T) : 1), "cudaMalloc");
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    Check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray(DeviceArray&& other) noexcept : data_(other.data_), count_(other.count_) {
    other.data_ = nullptr;
  }

  T* get() const { return data_; }
  int64_t size() const { return count_; }
  std::vector<T> ToHost() const { return ToHost(0, count_); }
  std::vector<T> ToHost(int64_t first, int64_t count) const {
    std::vector<T> values(count);
    Check(cudaMemcpy(values.data(), data_ + first, count * sizeof(T), cudaMemcpyDeviceToHost),
          "kernel");
    return values;
  }

 private:
  T* data_ = nullptr;
  int64_t count_;
};

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_DEVICE_ARRAY_H_
