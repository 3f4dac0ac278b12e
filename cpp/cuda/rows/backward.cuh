// The backward of row kernels: each row of logits is turned into the logits' cotangents. How it is
// turned is up to a Rule.
//
// The backward is bound by its bytes: logits read, cotangents written. It has two kernels:
//
//   BackwardFlatKernel takes both tensors as one flat run of granules of 16 bytes that know
//     nothing of rows: a block for each 2048 (float) or 4096 (16-bit) elements, with the parameters
//     of its rows in shared memory. A granule whose rows need no logits is not read. Each granule
//     is written by the thread that read it, so that writing over the logits is safe. Share of the
//     copy bandwidth by the logits' bytes alone, in float, with the rule of pick_backward.cu: 92 %
//     at rows of 28 logits, 95 % at 50, 98 to 100 % from 127 (H100 80GB, 2026-11).
//   BackwardElementKernel takes a thread for each element, for double and for tensors not
//     aligned to 16 bytes. It was not tuned.
//
// A Rule is passed to kernels by value:
//   Arrays             the labels and whatever else there is for each row
//   ShortestRow(width) rows of this many elements or more are met two at most by a granule of as
//                      many; the flat kernel has another way for shorter ones
//   Block<N>           the parameters of a block's rows in shared memory, N elements in all:
//     Bytes            of shared memory
//     Load             fills them, and one row after the last that needs no logits, which a granule
//                      that ends with the tensor takes for its second row; returns whether this
//                      thread has met a large maximum
//     NeedsLogits      whether a granule has to be read
//     ToCotangents     turns a granule's logits into their cotangents, but for what Marks say
//     MarksOf          the elements of a granule to which AddMarked has to add
//   ElementCotangent   the cotangent of one logit
#ifndef JAX_RNNT_CUDA_ROWS_BACKWARD_CUH_
#define JAX_RNNT_CUDA_ROWS_BACKWARD_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "cuda/memory/blocks.cuh"
#include "cuda/memory/divide.cuh"
#include "cuda/memory/granule.cuh"

namespace jax_rnnt::cuda {

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
// From this width on, granules inside one row and the single logits take branches of their own:
// bfloat16 rows of 500 went from 92 to 99 %. At 28 to 129 the divergence costs 8 %.
constexpr int kBranchesMinWidth = 256;

template <typename T, int kThreads, int kGranules>
constexpr int kFlatBlockElements = kThreads * kGranules * Granule<T>::kElements;

// A block takes kThreads * kGranules granules of the flat tensors. kShortRows: a granule may touch
// many rows; otherwise it touches two at most. kBranches: rows have at least kBranchesMinWidth
// elements. Logits and cotangents are aligned to 16 bytes.
template <typename T, int kThreads, int kGranules, bool kShortRows, bool kBranches, typename Rule>
__global__ void __launch_bounds__(kThreads, kShortRows ? 1 : kFlatBlocks)
    BackwardFlatKernel(const T* logits, T* logits_cotangents, typename Rule::Arrays arrays,
                       int64_t elements, int32_t width, Rule rule, int row_capacity,
                       Divider divider) {
  extern __shared__ __align__(16) unsigned char shared[];
  using G = Granule<T>;
  constexpr uint32_t kElements = G::kElements;
  constexpr int kBlockElements = kFlatBlockElements<T, kThreads, kGranules>;
  using Block = typename Rule::template Block<kBlockElements>;
  const Block block(rule, shared, row_capacity);

  const int64_t first_element = static_cast<int64_t>(blockIdx.x) * kBlockElements;
  const uint32_t block_elements =
      static_cast<uint32_t>(min(static_cast<int64_t>(kBlockElements), elements - first_element));
  uint32_t first_column;
  const int64_t first_row =
      static_cast<int64_t>(divider.Divide64(static_cast<uint64_t>(first_element), &first_column));
  const uint32_t row_count = divider.Divide(first_column + block_elements - 1) + 1;
  // The rows' parameters become visible to all threads.
  const bool has_large =
      __syncthreads_or(block.Load(arrays, first_row, first_column, row_count, width));

  const T* block_logits = logits + first_element;
  T* block_cotangents = logits_cotangents + first_element;
  const auto to_cotangents = [&](uint32_t row, uint32_t column, float (&values)[kElements]) {
    if constexpr (kShortRows) {
      block.ToCotangentsInShortRows(row_count, row, column, width, values);
    } else {
      block.template ToCotangents<kBranches>(has_large, row, column, width, values);
    }
  };
  uint4 granules[kGranules];
  uint32_t read_granules = 0;  // one bit each
#pragma unroll
  for (int k = 0; k < kGranules; ++k) {
    const uint32_t element = (k * kThreads + threadIdx.x) * kElements;
    if (element + kElements <= block_elements) {
      uint32_t column;
      const uint32_t row = divider.Divide(first_column + element, &column);
      if (block.template NeedsLogits<kElements, kShortRows>(row_count, row, column, width)) {
        read_granules |= 1u << k;
        granules[k] = *reinterpret_cast<const uint4*>(block_logits + element);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kGranules; ++k) {
    const uint32_t element = (k * kThreads + threadIdx.x) * kElements;
    if (element + kElements <= block_elements) {
      uint4 result = make_uint4(0, 0, 0, 0);
      const bool is_read = (read_granules >> k & 1u) != 0;
      const auto marks = block.template MarksOf<kElements>(element);
      if (is_read || marks.HasAny()) {
        float values[kElements] = {};
        if (is_read) {
          uint32_t column;
          const uint32_t row = divider.Divide(first_column + element, &column);
          G::Unpack(granules[k], values);
          to_cotangents(row, column, values);
        }
        if (marks.HasAny()) block.AddMarked(marks, element, values);
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
    float value[1] = {values[0]};
    const auto marks = block.template MarksOf<1>(element);
    if (marks.HasAny()) block.AddMarked(marks, element, value);
    FromAccumulator(value[0], block_cotangents + element);
  }
}

template <typename T, int kThreads, int kGranules, bool kShortRows, bool kBranches, typename Rule>
cudaError_t LaunchBackwardFlat(cudaStream_t stream, int64_t rows, int32_t width, const T* logits,
                               const typename Rule::Arrays& arrays, const Rule& rule,
                               T* logits_cotangents) {
  constexpr int kBlockElements = kFlatBlockElements<T, kThreads, kGranules>;
  const int64_t elements = rows * width;
  // A block touches kBlockElements / width whole rows, part of a row before them and part of one
  // after, and takes the row after the last besides. At most 515 rows.
  const int row_capacity = static_cast<int>(kBlockElements / width + 3);
  const size_t shared_bytes = Rule::template Block<kBlockElements>::Bytes(row_capacity);
  BackwardFlatKernel<T, kThreads, kGranules, kShortRows, kBranches>
      <<<CountBlocks(elements, kBlockElements), kThreads, shared_bytes, stream>>>(
          logits, logits_cotangents, arrays, elements, width, rule, row_capacity,
          Divider(static_cast<uint32_t>(width)));
  return cudaGetLastError();
}

template <typename T, typename Rule>
cudaError_t DispatchFlat(cudaStream_t stream, int64_t rows, int32_t width, const T* logits,
                         const typename Rule::Arrays& arrays, const Rule& rule,
                         T* logits_cotangents) {
  if (rule.ShortestRow(width) < Granule<T>::kElements) {
    return LaunchBackwardFlat<T, kShortRowsThreads, kShortRowsGranules, true, false>(
        stream, rows, width, logits, arrays, rule, logits_cotangents);
  }
  if (width < kBranchesMinWidth) {
    return LaunchBackwardFlat<T, kFlatThreads, kFlatGranules, false, false>(
        stream, rows, width, logits, arrays, rule, logits_cotangents);
  }
  return LaunchBackwardFlat<T, kFlatThreads, kFlatGranules, false, true>(
      stream, rows, width, logits, arrays, rule, logits_cotangents);
}

// -------------------------------------------------------------------------------------- Element

constexpr int kElementThreads = 256;

// A thread takes an element, which it reads before it writes over it. Tensors may have any
// alignment.
template <typename T, typename Rule>
__global__ void __launch_bounds__(kElementThreads)
    BackwardElementKernel(const T* logits, T* logits_cotangents, typename Rule::Arrays arrays,
                          int64_t elements, int32_t width, Rule rule, Divider divider) {
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
  if (element >= elements) return;
  uint32_t column;
  const int64_t row =
      static_cast<int64_t>(divider.Divide64(static_cast<uint64_t>(element), &column));
  FromAccumulator(
      rule.ElementCotangent(arrays, logits + element, row, static_cast<int32_t>(column), width),
      logits_cotangents + element);
}

template <typename T, typename Rule>
cudaError_t LaunchBackwardElement(cudaStream_t stream, int64_t rows, int32_t width, const T* logits,
                                  const typename Rule::Arrays& arrays, const Rule& rule,
                                  T* logits_cotangents) {
  const int64_t elements = rows * width;
  BackwardElementKernel<T><<<CountBlocks(elements, kElementThreads), kElementThreads, 0, stream>>>(
      logits, logits_cotangents, arrays, elements, width, rule,
      Divider(static_cast<uint32_t>(width)));
  return cudaGetLastError();
}

template <typename T, typename Rule>
cudaError_t Backward(cudaStream_t stream, int64_t rows, int32_t width, const T* logits,
                     const typename Rule::Arrays& arrays, const Rule& rule, T* logits_cotangents) {
  if constexpr (!std::is_same_v<T, double>) {
    if (IsGranuleAligned(logits) && IsGranuleAligned(logits_cotangents)) {
      return DispatchFlat<T>(stream, rows, width, logits, arrays, rule, logits_cotangents);
    }
  }
  return LaunchBackwardElement<T>(stream, rows, width, logits, arrays, rule, logits_cotangents);
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_BACKWARD_CUH_
