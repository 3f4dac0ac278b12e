// added[b] = sums[b] + parts[r] for every r with blocks[r] = b, in the order of r.
//
// Pointers: sums, added (B, L), parts (R, L) of Real; blocks (R) of int32, outside [0, B) for none.
// `added` begins as a copy of `sums`, where the two are not the same.
//
// The grid of blocks is (R, shares of L). A block leaves if the destination of its r comes earlier
// in the list. The others, one for each destination that occurs and each share, collect the
// destination's parts from r on and add them in a register. So no other block touches the share,
// and the order is the list's.
#include <cstdint>
#include <limits>

#include "cuda/joint/add_blocks.h"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kAddThreads = 256;
constexpr int kAddWarps = kAddThreads / kWarpSize;

template <typename Real>
__device__ __forceinline__ void AddTo(Real& sum, Real part) {
  sum += part;
}
__device__ __forceinline__ void AddTo(float4& sum, float4 part) {
  sum.x += part.x;
  sum.y += part.y;
  sum.z += part.z;
  sum.w += part.w;
}
__device__ __forceinline__ void AddTo(double2& sum, double2 part) {
  sum.x += part.x;
  sum.y += part.y;
}

template <typename Real>
struct GranuleOf {
  using Type = float4;
};
template <>
struct GranuleOf<double> {
  using Type = double2;
};

// Number is Real or a granule of them, and `length` is L in Numbers. `sums` are read and written.
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
  // Whether the destination comes before r anywhere in the list reaches all threads.
  if (__syncthreads_or(is_before)) return;

  const int64_t l = static_cast<int64_t>(share) * kAddThreads + threadIdx.x;
  const bool has_number = l < length;
  Number* target = sums + block * length + l;
  Number sum = {};
  if (has_number) sum = *target;
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t warp = threadIdx.x / kWarpSize;
  for (int64_t first = r; first < R; first += kAddThreads) {
    const int64_t i = first + threadIdx.x;
    const bool is_part = i < R && __ldg(blocks + i) == block;
    const unsigned int ballot = __ballot_sync(kAllLanes, is_part);
    if (lane == 0) counts[warp] = __popc(ballot);
    // The warps' counts become visible to all threads, which have read the last window's list.
    __syncthreads();
    uint32_t count = 0, place = 0;
#pragma unroll
    for (uint32_t w = 0; w < kAddWarps; ++w) {
      place += w < warp ? counts[w] : 0;
      count += counts[w];
    }
    if (is_part) list[place + __popc(ballot & ((1u << lane) - 1))] = static_cast<uint32_t>(i);
    // The window's list becomes visible to all threads, which have read the counts.
    __syncthreads();
    if (has_number) {
// Unrolled, 8 loads are under way at once; the sum keeps its order.
#pragma unroll 8
      for (uint32_t k = 0; k < count; ++k) AddTo(sum, __ldg(parts + list[k] * length + l));
    }
  }
  if (has_number) *target = sum;
}

template <typename Number, typename Real>
cudaError_t LaunchAddBlocks(cudaStream_t stream, int64_t B, int64_t length, int64_t R, Real* sums,
                            const int32_t* blocks, const Real* parts) {
  const int64_t shares = (length + kAddThreads - 1) / kAddThreads;
  if (shares > std::numeric_limits<int32_t>::max() / R) return cudaErrorInvalidValue;
  AddBlocksKernel<Number><<<static_cast<unsigned int>(R * shares), kAddThreads, 0, stream>>>(
      reinterpret_cast<Number*>(sums), blocks, reinterpret_cast<const Number*>(parts), B, length,
      static_cast<uint32_t>(R), static_cast<uint32_t>(shares));
  return cudaGetLastError();
}

}  // namespace

template <typename Real>
cudaError_t AddBlocks(cudaStream_t stream, int64_t B, int64_t L, int64_t R, const Real* sums,
                      const int32_t* blocks, const Real* parts, Real* added) {
  using RealGranule = typename GranuleOf<Real>::Type;
  constexpr int kNumbers = sizeof(RealGranule) / sizeof(Real);
  if (B < 0 || L < 0 || R < 0) return cudaErrorInvalidValue;
  if (B == 0 || L == 0) return cudaSuccess;
  if (added != sums) {
    const cudaError_t error =
        cudaMemcpyAsync(added, sums, B * L * sizeof(Real), cudaMemcpyDeviceToDevice, stream);
    if (error != cudaSuccess) return error;
  }
  if (R == 0) return cudaSuccess;
  if (L % kNumbers == 0 && IsGranuleAligned(added) && IsGranuleAligned(parts)) {
    return LaunchAddBlocks<RealGranule>(stream, B, L / kNumbers, R, added, blocks, parts);
  }
  return LaunchAddBlocks<Real>(stream, B, L, R, added, blocks, parts);
}

#define JAX_RNNT_INSTANTIATE(Real)                                                           \
  template cudaError_t AddBlocks<Real>(cudaStream_t, int64_t, int64_t, int64_t, const Real*, \
                                       const int32_t*, const Real*, Real*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
