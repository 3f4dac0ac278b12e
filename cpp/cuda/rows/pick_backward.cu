// Backward of the row kernels: for each row x of V logits
//
//   g_v = c_blank [v = blank] + c_label [v = label] - (c_blank + c_label) softmax_v
//   softmax_v = exp((x_v - maximum) - log_sum)
//
// Pointers (Acc is float, or double for double):
//   logits (rows, V) of T    labels: int32, by row or by column (core/row_label.h)
//   maxima, log_sums, blank_cotangents, label_cotangents (rows) of Acc
//   logits_cotangents (rows, V) of T, which may be logits
//
// c_label counts as 0 where the label is kNoLabel. Both cotangents count as 0 in a padding row and
// where log_sum is not finite (a row of nothing but -inf, or one with NaN or +inf). A row whose
// cotangents are both 0 is inactive: zeros are written for it, and a granule that holds elements of
// inactive rows alone is not read. The exponent is as good as that of the exact x_v - maximum at
// any offset of the logits (ScaledMaximum).
//
// The backward is bound by its bytes: logits read, cotangents written. It has two kernels:
//
//   PickBackwardFlatKernel takes both tensors as one flat run of granules of 16 bytes that know
//     nothing of rows: a block for each 2048 (float) or 4096 (16-bit) elements, with the parameters
//     of its rows in shared memory (row_cotangents.cuh). Each granule is written by the thread that
//     read it, so that writing over the logits is safe. Share of the copy bandwidth by the logits'
//     bytes alone, in float: 92 % at V = 28, 95 % at V = 50, 98 to 100 % from V = 127 (H100 80GB,
//     2026-11).
//   PickBackwardElementKernel takes a thread for each element, for double and for tensors not
//     aligned to 16 bytes. It was not tuned.
#include <cstdint>
#include <type_traits>

#include "core/row_label.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/divide.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/pick.h"
#include "cuda/rows/row_cotangents.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {
namespace {

// ----------------------------------------------------------------------------------------- Flat

// 128 threads with 4 granules each. With one granule a thread too few loads are in flight: 80 to 86
// %, not 95.
constexpr int kFlatThreads = 128;
constexpr int kFlatGranules = 4;
// Asking for 10 blocks a multiprocessor (40 warps, not 36) gained 2 to 4 % in 16-bit types; with
// 12, registers spilled.
constexpr int kFlatBlocks = ResidentBlocks(kFlatThreads, 10);
// For rows shorter than a granule, 64 threads with one granule each bound the rows' parameters to
// 10 KB.
constexpr int kShortRowsThreads = 64;
constexpr int kShortRowsGranules = 1;
// From this V on, granules inside one row and the two picks take branches of their own: bfloat16 V
// = 500 went from 92 to 99 %. At V = 28 to 129 the divergence costs 8 %.
constexpr int kBranchesMinV = 256;

template <typename T, int kThreads, int kGranules>
constexpr int64_t kFlatBlockElements =
    static_cast<int64_t>(kThreads) * kGranules * Granule<T>::kElements;

// A block takes kThreads * kGranules granules of the flat tensors. kShortRows: V is less than the
// elements of a granule, which may touch many rows; otherwise it touches two at most. kBranches: V
// is at least kBranchesMinV. Logits and cotangents are aligned to 16 bytes. Shared memory:
// row_capacity RowParameters, then as many labels and large maxima.
template <typename T, int kThreads, int kGranules, bool kShortRows, bool kBranches>
__global__ void __launch_bounds__(kThreads, kShortRows ? 1 : kFlatBlocks)
    PickBackwardFlatKernel(const T* logits, T* logits_cotangents, RowArrays<float> arrays,
                           int64_t elements, int32_t V, int32_t blank, int row_capacity,
                           Divider divider) {
  extern __shared__ RowParameters parameters[];
  using G = Granule<T>;
  constexpr uint32_t kElements = G::kElements;
  constexpr int64_t kBlockElements = kFlatBlockElements<T, kThreads, kGranules>;
  int32_t* labels = reinterpret_cast<int32_t*>(parameters + row_capacity);
  const BlockRows rows = {parameters, labels, reinterpret_cast<float*>(labels + row_capacity)};

  const int64_t first_element = static_cast<int64_t>(blockIdx.x) * kBlockElements;
  const uint32_t block_elements =
      static_cast<uint32_t>(min(kBlockElements, elements - first_element));
  uint32_t first_column;
  const int64_t first_row =
      static_cast<int64_t>(divider.Divide64(static_cast<uint64_t>(first_element), &first_column));
  const uint32_t row_count = divider.Divide(first_column + block_elements - 1) + 1;
  // The rows' parameters become visible to all threads.
  const bool has_large = __syncthreads_or(LoadRows(arrays, first_row, row_count, V, rows));

  const T* block_logits = logits + first_element;
  T* block_cotangents = logits_cotangents + first_element;
  const auto to_cotangents = [&](uint32_t row, uint32_t column, float (&values)[kElements]) {
    if constexpr (kShortRows) {
      ToCotangentsInShortRows<kElements>(rows, row_count, row, column, blank, V, values);
    } else {
      ToCotangents<kElements, kBranches>(rows, has_large, row, column, blank, V, values);
    }
  };
  uint4 granules[kGranules];
  uint32_t active_granules = 0;  // one bit each
#pragma unroll
  for (int k = 0; k < kGranules; ++k) {
    const uint32_t element = (k * kThreads + threadIdx.x) * kElements;
    if (element + kElements <= block_elements) {
      uint32_t column;
      const uint32_t row = divider.Divide(first_column + element, &column);
      if (IsAnyActive<kElements, kShortRows>(rows, row_count, row, column, V)) {
        active_granules |= 1u << k;
        granules[k] = *reinterpret_cast<const uint4*>(block_logits + element);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kGranules; ++k) {
    const uint32_t element = (k * kThreads + threadIdx.x) * kElements;
    if (element + kElements <= block_elements) {
      uint4 result = make_uint4(0, 0, 0, 0);
      if ((active_granules >> k & 1u) != 0) {
        uint32_t column;
        const uint32_t row = divider.Divide(first_column + element, &column);
        float values[kElements];
        G::Unpack(granules[k], values);
        to_cotangents(row, column, values);
        result = G::Pack(values);
      }
      *reinterpret_cast<uint4*>(block_cotangents + element) = result;
    }
  }
  // The tensor may end inside a granule.
  const uint32_t element = block_elements / kElements * kElements + threadIdx.x;
  if (element < block_elements) {
    uint32_t column;
    const uint32_t row = divider.Divide(first_column + element, &column);
    float values[kElements] = {ToAccumulator(block_logits[element])};
    to_cotangents(row, column, values);
    FromAccumulator(values[0], block_cotangents + element);
  }
}

template <typename T, int kThreads, int kGranules, bool kShortRows, bool kBranches>
cudaError_t LaunchPickBackwardFlat(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                                   const T* logits, const RowArrays<float>& arrays,
                                   T* logits_cotangents) {
  constexpr int64_t kBlockElements = kFlatBlockElements<T, kThreads, kGranules>;
  const int64_t elements = rows * V;
  // A block touches kBlockElements / V whole rows, part of a row before them and part of one after,
  // and takes the inactive row besides. At most 12 KB: 515 rows.
  const int row_capacity = static_cast<int>(kBlockElements / V + 3);
  const size_t shared_bytes = row_capacity * kBlockRowBytes;
  PickBackwardFlatKernel<T, kThreads, kGranules, kShortRows, kBranches>
      <<<CountBlocks(elements, kBlockElements), kThreads, shared_bytes, stream>>>(
          logits, logits_cotangents, arrays, elements, V, blank, row_capacity,
          Divider(static_cast<uint32_t>(V)));
  return cudaGetLastError();
}

template <typename T>
cudaError_t DispatchFlat(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                         const T* logits, const RowArrays<float>& arrays, T* logits_cotangents) {
  if (V < Granule<T>::kElements) {
    return LaunchPickBackwardFlat<T, kShortRowsThreads, kShortRowsGranules, true, false>(
        stream, rows, V, blank, logits, arrays, logits_cotangents);
  }
  if (V < kBranchesMinV) {
    return LaunchPickBackwardFlat<T, kFlatThreads, kFlatGranules, false, false>(
        stream, rows, V, blank, logits, arrays, logits_cotangents);
  }
  return LaunchPickBackwardFlat<T, kFlatThreads, kFlatGranules, false, true>(
      stream, rows, V, blank, logits, arrays, logits_cotangents);
}

// -------------------------------------------------------------------------------------- Element

constexpr int kElementThreads = 256;

__device__ __forceinline__ float Softmax(float logit, float maximum, float log_sum) {
  return Exp2(fmaf(logit - maximum, kLog2E, -log_sum * kLog2E));
}
__device__ __forceinline__ double Softmax(double logit, double maximum, double log_sum) {
  return exp((logit - maximum) - log_sum);
}

// A thread takes an element, which it reads before it writes over it. Tensors may have any
// alignment.
template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    PickBackwardElementKernel(const T* logits, T* logits_cotangents,
                              RowArrays<typename Accumulator<T>::Type> arrays, int64_t elements,
                              int32_t V, int32_t blank, Divider divider) {
  using Acc = typename Accumulator<T>::Type;
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
  if (element >= elements) return;
  uint32_t unsigned_column;
  const int64_t row =
      static_cast<int64_t>(divider.Divide64(static_cast<uint64_t>(element), &unsigned_column));
  const int32_t column = static_cast<int32_t>(unsigned_column);
  const int32_t label = RowLabelRun(arrays.labels, row).Label(0);
  Acc blank_cotangent = 0;
  Acc label_cotangent = 0;
  const Acc log_sum = __ldg(arrays.log_sums + row);
  if (IsUsableRow(label, V, log_sum)) {
    blank_cotangent = __ldg(arrays.blank_cotangents + row);
    if (label != kNoLabel) label_cotangent = __ldg(arrays.label_cotangents + row);
  }
  Acc cotangent = 0;
  if (blank_cotangent != 0 || label_cotangent != 0) {
    cotangent = -(blank_cotangent + label_cotangent) *
                Softmax(ToAccumulator(logits[element]), __ldg(arrays.maxima + row), log_sum);
    if (column == blank) cotangent += blank_cotangent;
    if (column == label) cotangent += label_cotangent;
  }
  FromAccumulator(cotangent, logits_cotangents + element);
}

template <typename T>
cudaError_t LaunchPickBackwardElement(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                                      const T* logits,
                                      const RowArrays<typename Accumulator<T>::Type>& arrays,
                                      T* logits_cotangents) {
  const int64_t elements = rows * V;
  PickBackwardElementKernel<T>
      <<<CountBlocks(elements, kElementThreads), kElementThreads, 0, stream>>>(
          logits, logits_cotangents, arrays, elements, V, blank, Divider(static_cast<uint32_t>(V)));
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t PickBackward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                         const T* logits, const RowLabels& labels,
                         const typename Accumulator<T>::Type* maxima,
                         const typename Accumulator<T>::Type* log_sums,
                         const typename Accumulator<T>::Type* blank_cotangents,
                         const typename Accumulator<T>::Type* label_cotangents,
                         T* logits_cotangents) {
  if (rows < 0 || V < 1 || blank < 0 || blank >= V) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const RowArrays<typename Accumulator<T>::Type> arrays{DeviceRowLabels(labels), maxima, log_sums,
                                                        blank_cotangents, label_cotangents};
  if constexpr (!std::is_same_v<T, double>) {
    if (IsGranuleAligned(logits) && IsGranuleAligned(logits_cotangents)) {
      return DispatchFlat<T>(stream, rows, V, blank, logits, arrays, logits_cotangents);
    }
  }
  return LaunchPickBackwardElement<T>(stream, rows, V, blank, logits, arrays, logits_cotangents);
}

#define JAX_RNNT_INSTANTIATE(T)                                                                  \
  template cudaError_t PickBackward<T>(cudaStream_t, int64_t, int32_t, int32_t, const T*,        \
                                       const RowLabels&, const Accumulator<T>::Type*,            \
                                       const Accumulator<T>::Type*, const Accumulator<T>::Type*, \
                                       const Accumulator<T>::Type*, T*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
