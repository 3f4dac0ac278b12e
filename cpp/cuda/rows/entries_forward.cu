// Forward of the entries of rows (entries.h has the equations), by the kernels of forward.cuh.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/bias.cuh"
#include "cuda/rows/entries.h"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/forward.cuh"
#include "cuda/rows/left_out.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

template <typename Acc>
struct EntryArrays {
  Acc* maxima;
  Acc* log_sums;
  int32_t count;
  int32_t columns[kMaxEntries];  // the label's is another in each row
  Acc* entries[kMaxEntries];
};

// Each lane of a row keeps the entry that has the lane's number. In a tile, a warp takes an entry
// of all rows, whose numbers lie side by side.
template <typename Acc, typename Biases>
struct EntriesRule {
  using Results = EntryArrays<Acc>;
  using Bias = typename Biases::Bias;
  struct Kept {
    Acc logit = kMinusInfinity<Acc>;
  };
  static constexpr int kStoringLanes = kMaxEntries;

  __host__ __device__ __forceinline__ int32_t Width(int32_t) const { return width; }

  __device__ __forceinline__ Bias BiasOf(int64_t row) const { return biases.Of(row); }

  __device__ __forceinline__ LeftOutColumns LeftOutOf(int32_t label) const {
    return {{without_blank ? blank : LeftOutColumns::kNone,
             without_label && label != kNoLabel ? label : LeftOutColumns::kNone}};
  }

  template <typename Logits>
  __device__ __forceinline__ void Keep(const Results& results, const Logits& logits, int32_t label,
                                       int lane, Kept* kept) const {
    if (lane < results.count) kept->logit = Logit(results, logits, label, lane);
  }

  template <int kLanes, typename Logits>
  __device__ __forceinline__ void Store(const Results& results, int64_t row, Acc reference, Acc sum,
                                        Acc log_scale, const Kept& kept, const Logits& logits,
                                        int32_t label, int lane) const {
    if (lane == 0) StoreSum(results, row, reference, sum, log_scale);
    if (lane < results.count) results.entries[lane][row] = kept.logit;
    if constexpr (kLanes < kMaxEntries) {
      for (int i = lane + kLanes; i < results.count; i += kLanes) {
        results.entries[i][row] = Logit(results, logits, label, i);
      }
    }
  }

  template <int kLanes>
  __device__ __forceinline__ void StorePadding(const Results& results, int64_t row,
                                               int lane) const {
    if (lane == 0) StorePaddingFromTile(results, row);
    for (int i = lane; i < results.count; i += kLanes)
      results.entries[i][row] = kMinusInfinity<Acc>;
  }

  template <typename T>
  __device__ __forceinline__ void TakeFromTile(const Results& results, int64_t first_row,
                                               unsigned char* tile, uint32_t row_pitch,
                                               const int32_t* labels, int rows) const {
    const int warps = blockDim.x / kWarpSize;
    if constexpr (Bias::kIsThere) {
      for (int row = threadIdx.x / kWarpSize; row < rows; row += warps) {
        if (labels[row] == kPaddingRow) continue;
        const Bias bias = BiasOf(first_row + row);
        T* logits = reinterpret_cast<T*>(tile + row * row_pitch);
        for (int v = threadIdx.x % kWarpSize; v < width; v += kWarpSize) {
          logits[v] = bias.Add(logits[v], v);
        }
      }
      // All logits have their bias.
      __syncthreads();
    }
    for (int i = threadIdx.x / kWarpSize; i < results.count; i += warps) {
      Acc* entries = results.entries[i] + first_row;
      for (int row = threadIdx.x % kWarpSize; row < rows; row += kWarpSize) {
        const int32_t label = labels[row];
        const T* logits = reinterpret_cast<const T*>(tile + row * row_pitch);
        entries[row] =
            label == kPaddingRow ? kMinusInfinity<Acc> : Logit(results, logits, label, i);
      }
    }
    if (!without_blank && !without_label) return;
    // All entries have been taken.
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
      const int32_t label = labels[row];
      T* logits = reinterpret_cast<T*>(tile + row * row_pitch);
      if (without_blank) FromAccumulator(kMinusInfinity<Acc>, logits + blank);
      if (without_label && label >= 0) FromAccumulator(kMinusInfinity<Acc>, logits + label);
    }
    // The tile becomes visible to all threads again.
    __syncthreads();
  }

  template <typename T>
  __device__ __forceinline__ void StoreFromTile(const Results& results, int64_t row, Acc reference,
                                                Acc sum, Acc log_scale, const T*, int32_t) const {
    StoreSum(results, row, reference, sum, log_scale);
  }

  __device__ __forceinline__ void StorePaddingFromTile(const Results& results, int64_t row) const {
    results.maxima[row] = 0;
    results.log_sums[row] = 0;
  }

  int32_t width;
  int32_t blank;
  bool without_blank;
  bool without_label;
  Biases biases;

 private:
  template <typename Logits>
  __device__ __forceinline__ Acc Logit(const Results& results, const Logits& logits, int32_t label,
                                       int entry) const {
    const int32_t column = entry == kLabelEntry ? label : results.columns[entry];
    return column == kNoLabel ? kMinusInfinity<Acc> : ToAccumulator(logits[column]);
  }

  __device__ __forceinline__ void StoreSum(const Results& results, int64_t row, Acc reference,
                                           Acc sum, Acc log_scale) const {
    cuda::StoreSum(results.maxima, results.log_sums, row, reference, sum, log_scale);
  }
};

template <typename T, typename Biases>
cudaError_t EntriesForwardWith(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                               const T* logits, const Biases& biases, const RowLabels& labels,
                               const EntriesResults<typename Accumulator<T>::Type>& results) {
  if (rows < 0 || !options.IsValid()) return cudaErrorInvalidValue;
  using Acc = typename Accumulator<T>::Type;
  EntryArrays<Acc> arrays{
      results.maxima, results.log_sums, kFirstPickEntry + options.pick_count, {}, {}};
  arrays.columns[kBlankEntry] = options.blank;
  arrays.entries[kBlankEntry] = results.blank_logits;
  arrays.entries[kLabelEntry] = results.label_logits;
  std::copy_n(options.picks, options.pick_count, arrays.columns + kFirstPickEntry);
  std::copy_n(results.pick_logits, options.pick_count, arrays.entries + kFirstPickEntry);
  const EntriesRule<Acc, Biases> rule{options.width, options.blank, options.without_blank,
                                      options.without_label, biases};
  return Forward<T>(stream, rows, options.tokens, logits, labels, arrays, rule);
}

}  // namespace

template <typename T>
cudaError_t EntriesForward(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                           const T* logits, const RowLabels& labels,
                           const EntriesResults<typename Accumulator<T>::Type>& results) {
  return EntriesForwardWith(stream, rows, options, logits, NoBiases(), labels, results);
}

template <typename Real>
cudaError_t EntriesForwardBiased(cudaStream_t stream, int64_t rows, const EntriesOptions& options,
                                 const Real* logits, const RowBiases<Real>& biases,
                                 const RowLabels& labels, const EntriesResults<Real>& results) {
  if (rows > 0 && !biases.IsValid()) return cudaErrorInvalidValue;
  const DeviceRowBiases<Real> device_biases(biases, options.width);
  return EntriesForwardWith(stream, rows, options, logits, device_biases, labels, results);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                  \
  template cudaError_t EntriesForward<T>(cudaStream_t, int64_t, const EntriesOptions&, const T*, \
                                         const RowLabels&,                                       \
                                         const EntriesResults<Accumulator<T>::Type>&)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

#define JAX_RNNT_INSTANTIATE(Real)                                                              \
  template cudaError_t EntriesForwardBiased<Real>(cudaStream_t, int64_t, const EntriesOptions&, \
                                                  const Real*, const RowBiases<Real>&,          \
                                                  const RowLabels&, const EntriesResults<Real>&)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
