// sums[b] += parts[r] for every r with blocks[r] = b, in the order of r.
//
// Pointers: sums (B, L), parts (R, L) of float; blocks (R) of int32, outside [0, B) for no block.
//
// Blocks of threads are (R, shares of L). Those of an r whose destination comes before in the list
// leave; the others, one for each destination that occurs, collect its parts from r on and add them
// in a register. So nobody else touches the share, and the order is the list's.
#include <cstdint>
#include <limits>

#include "cuda/add_blocks.h"
#include "cuda/granule.cuh"
#include "cuda/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kAddThreads = 256;
constexpr int kAddWarps = kAddThreads / kWarpLanes;

__device__ __forceinline__ void AddTo(float& sum, float part) { sum += part; }
__device__ __forceinline__ void AddTo(float4& sum, float4 part) {
  sum.x += part.x;
  sum.y += part.y;
  sum.z += part.z;
  sum.w += part.w;
}

// Number is float or float4, `length` L in these.
template <typename Number>
__global__ void __launch_bounds__(kAddThreads)
    AddBlocksKernel(Number* __restrict__ sums, const int32_t* __restrict__ blocks,
                    const Number* __restrict__ parts, int64_t B, int64_t length, uint32_t R,
                    uint32_t shares) {
  __shared__ uint32_t list[kAddThreads];
  __shared__ uint32_t counts[kAddWarps];
  const uint32_t r = blockIdx.x / shares;
  const uint32_t share = blockIdx.x - r * shares;
  const int32_t block = __ldg(blocks + r);
  if (block < 0 || block >= B) return;
  bool is_before = false;
  for (uint32_t i = threadIdx.x; i < r; i += kAddThreads) is_before |= __ldg(blocks + i) == block;
  // The answer for the whole list before r reaches all threads.
  if (__syncthreads_or(is_before)) return;

  const int64_t l = static_cast<int64_t>(share) * kAddThreads + threadIdx.x;
  const bool has_number = l < length;
  Number* target = sums + block * length + l;
  Number sum = {};
  if (has_number) sum = *target;
  const uint32_t lane = threadIdx.x % kWarpLanes;
  const uint32_t warp = threadIdx.x / kWarpLanes;
  for (int64_t first = r; first < R; first += kAddThreads) {
    const int64_t i = first + threadIdx.x;
    const bool is_part = i < R && __ldg(blocks + i) == block;
    const unsigned int ballot = __ballot_sync(kAllLanes, is_part);
    if (lane == 0) counts[warp] = __popc(ballot);
    // The warps' counts become visible to all threads; the last window's list has been read.
    __syncthreads();
    uint32_t count = 0, place = 0;
#pragma unroll
    for (uint32_t w = 0; w < kAddWarps; ++w) {
      place += w < warp ? counts[w] : 0;
      count += counts[w];
    }
    if (is_part) list[place + __popc(ballot & ((1u << lane) - 1))] = static_cast<uint32_t>(i);
    // The window's list becomes visible to all threads; the counts have been read.
    __syncthreads();
    if (has_number) {
// So many loads are under way at once; the sums keep their order.
#pragma unroll 8
      for (uint32_t k = 0; k < count; ++k) AddTo(sum, __ldg(parts + list[k] * length + l));
    }
  }
  if (has_number) *target = sum;
}

template <typename Number>
cudaError_t LaunchAddBlocks(cudaStream_t stream, int64_t B, int64_t length, int64_t R, float* sums,
                            const int32_t* blocks, const float* parts) {
  const int64_t shares = (length + kAddThreads - 1) / kAddThreads;
  if (shares > std::numeric_limits<int32_t>::max() / R) return cudaErrorInvalidValue;
  AddBlocksKernel<Number><<<static_cast<unsigned int>(R * shares), kAddThreads, 0, stream>>>(
      reinterpret_cast<Number*>(sums), blocks, reinterpret_cast<const Number*>(parts), B, length,
      static_cast<uint32_t>(R), static_cast<uint32_t>(shares));
  return cudaGetLastError();
}

}  // namespace

cudaError_t AddBlocks(cudaStream_t stream, int64_t B, int64_t L, int64_t R, float* sums,
                      const int32_t* blocks, const float* parts) {
  if (B < 0 || L < 0 || R < 0) return cudaErrorInvalidValue;
  if (B == 0 || L == 0 || R == 0) return cudaSuccess;
  if (L % 4 == 0 && IsGranuleAligned(sums) && IsGranuleAligned(parts)) {
    return LaunchAddBlocks<float4>(stream, B, L / 4, R, sums, blocks, parts);
  }
  return LaunchAddBlocks<float>(stream, B, L, R, sums, blocks, parts);
}

}  // namespace jax_rnnt::cuda
