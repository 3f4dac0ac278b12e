// Backward of the entries of rows with a bias (entries.h has the equations).
//
// A thread keeps kElements columns, with their biases and the sums of their cotangents in
// registers, and goes through the rows of a part of its bias: a block takes kPartThreads *
// kElements columns of kBiasPartRows rows, with what it needs of each row but logits in shared
// memory. Each logit is read by the thread that writes its cotangent, so that writing over it is
// safe.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/entries.h"
#include "core/row_label.h"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/divide.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/rows/entries.h"
#include "cuda/rows/entry_cotangents.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kPartThreads = 128;
// The logits of so many rows are on their way to a thread at a time.
constexpr int kRowsAhead = 4;

// What the sum's term of a row needs. The scale is 0 where there is none, and logits are not
// needed.
template <typename Acc>
struct PartTerm;

template <>
struct PartTerm<float> {
  __device__ __forceinline__ void Set(float maximum, float log_sum, float sum_cotangent) {
    const bool is_large = IsLargeMaximum(maximum);
    large_maximum = is_large ? maximum : 0.f;
    term = MakeSumTerm(is_large ? 0.f : maximum, log_sum, sum_cotangent);
  }
  __device__ __forceinline__ bool IsThere() const { return term.scale != 0.f; }
  __device__ __forceinline__ float Of(float logit) const {
    return term.scale * ScaledExp(logit - large_maximum, term.scaled_maximum);
  }

  SumTerm term = {0.f, 0.f};
  float large_maximum = 0.f;
};

template <>
struct PartTerm<double> {
  __device__ __forceinline__ void Set(double row_maximum, double log_sum, double sum_cotangent) {
    maximum = row_maximum;
    scale = sum_cotangent * exp(-log_sum);
  }
  __device__ __forceinline__ bool IsThere() const { return scale != 0; }
  __device__ __forceinline__ double Of(double logit) const { return scale * exp(logit - maximum); }

  double maximum = 0;
  double scale = 0;
};

// A row of a part, but for its logits and its entries' cotangents.
template <typename Acc>
struct PartRow {
  PartTerm<Acc> term;
  Acc bound;
  int32_t label;
};

template <typename Acc>
struct PartRows {
  PartRow<Acc> rows[kBiasPartRows];
  Acc entries[kMaxEntries][kBiasPartRows];  // cotangents; 0 in padding
};

template <typename Acc>
__device__ __forceinline__ void LoadPart(const EntryCotangentArrays<Acc>& arrays, const Acc* bounds,
                                         int64_t first_row, int count, int32_t tokens,
                                         PartRows<Acc>* part) {
  const RowLabelRun row_labels(arrays.labels, first_row);
  for (int i = threadIdx.x; i < count; i += kPartThreads) {
    const int64_t row = first_row + i;
    const Acc maximum = __ldg(arrays.maxima + row);
    const Acc log_sum = __ldg(arrays.log_sums + row);
    const Acc sum_cotangent = __ldg(arrays.sums + row);
    const int32_t label = row_labels.Label(i);
    PartRow<Acc> loaded;
    loaded.bound = __ldg(bounds + row);
    loaded.label = IsPaddingRow(label, tokens) ? kPaddingRow : label;
    if (loaded.label != kPaddingRow && HasSumTerm(sum_cotangent, log_sum)) {
      loaded.term.Set(maximum, log_sum, sum_cotangent);
    }
    part->rows[i] = loaded;
  }
  // The labels become visible to all threads.
  __syncthreads();
  for (int i = threadIdx.x; i < arrays.count * kBiasPartRows; i += kPartThreads) {
    const int entry = i / kBiasPartRows, row = i % kBiasPartRows;
    if (row >= count) continue;
    const Acc cotangent = __ldg(arrays.entries[entry] + first_row + row);
    part->entries[entry][row] = part->rows[row].label == kPaddingRow ? 0 : cotangent;
  }
  // So do the entries' cotangents.
  __syncthreads();
}

template <typename T, int kElements>
struct alignas(kElements * sizeof(T)) Elements {
  T values[kElements];
};

// The first of the elements is at `column`.
template <int kElements, typename Acc>
__device__ __forceinline__ void AddEntries(const EntryCotangentArrays<Acc>& arrays,
                                           const CoreColumns& core, const PartRows<Acc>& part,
                                           int row, int32_t column, Acc (&values)[kElements]) {
  const int32_t label = part.rows[row].label;
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    if (core.IsLeftOut(column + j, label)) values[j] = 0;
  }
#pragma unroll 1
  for (int entry = 0; entry < arrays.count; ++entry) {
    const int32_t at = (entry == kLabelEntry ? label : arrays.columns[entry]) - column;
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      if (j == at) values[j] += part.entries[entry][row];
    }
  }
}

// A bias has `rows` rows, in `parts` parts. Blocks that take a part lie side by side, one for each
// of `slabs` runs of its columns. Logits, biases and cotangents are aligned to kElements of theirs,
// as is each row.
template <typename T, int kElements, typename Acc>
__global__ void __launch_bounds__(kPartThreads)
    BackwardPartsKernel(const Acc* logits, const Acc* __restrict__ biases, T* logits_cotangents,
                        Acc* __restrict__ bias_parts, EntryCotangentArrays<Acc> arrays,
                        const Acc* __restrict__ bounds, int32_t rows, int32_t width,
                        CoreColumns core, Divider parts, Divider slabs) {
  __shared__ PartRows<Acc> part;
  uint32_t slab, part_of_bias;
  const uint32_t part_of_all = slabs.Divide(blockIdx.x, &slab);
  const int64_t bias = parts.Divide(part_of_all, &part_of_bias);
  const int32_t row_of_bias = static_cast<int32_t>(part_of_bias) * kBiasPartRows;
  const int64_t first_row = bias * rows + row_of_bias;
  const int count = min(kBiasPartRows, rows - row_of_bias);
  LoadPart(arrays, bounds, first_row, count, core.tokens, &part);

  const int64_t first_column =
      (static_cast<int64_t>(slab) * kPartThreads + threadIdx.x) * kElements;
  if (first_column >= width) return;
  const int32_t column = static_cast<int32_t>(first_column);
  bool has_entry = false;
#pragma unroll 1
  for (int entry = 0; entry < arrays.count; ++entry) {
    const uint32_t at = static_cast<uint32_t>(arrays.columns[entry] - column);
    has_entry |= entry != kLabelEntry && at < kElements;
  }
  const int core_end = core.tokens - column;  // 0 or less where all columns are behind the tokens
  using Row = Elements<Acc, kElements>;
  const Row own_bias = *reinterpret_cast<const Row*>(biases + bias * width + column);
  Row sums = {};
  const int64_t start = first_row * width + column;
#pragma unroll 1
  for (int first = 0; first < count; first += kRowsAhead) {
    Row ahead[kRowsAhead];
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) {
      const int row = first + k;
      if (row < count && core_end > 0 && part.rows[row].term.IsThere()) {
        ahead[k] =
            *reinterpret_cast<const Row*>(logits + start + static_cast<int64_t>(row) * width);
      }
    }
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) {
      const int row = first + k;
      if (row >= count) break;
      const PartRow<Acc> own = part.rows[row];
      Acc values[kElements] = {};
      if (core_end > 0 && own.term.IsThere()) {
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          const Acc term = own.term.Of(ahead[k].values[j] + own_bias.values[j]);
          values[j] = j < core_end ? term : 0;
        }
      }
      if (has_entry || static_cast<uint32_t>(own.label - column) < kElements) {
        AddEntries(arrays, core, part, row, column, values);
      }
      if (own.bound < -kMinusInfinity<Acc>) {
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          values[j] = values[j] > own.bound ? own.bound : values[j];
          values[j] = values[j] < -own.bound ? -own.bound : values[j];
        }
      }
      Elements<T, kElements> rounded;
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        sums.values[j] += values[j];
        FromAccumulator(values[j], rounded.values + j);
      }
      *reinterpret_cast<Elements<T, kElements>*>(logits_cotangents + start +
                                                 static_cast<int64_t>(row) * width) = rounded;
    }
  }
  *reinterpret_cast<Row*>(bias_parts + static_cast<int64_t>(part_of_all) * width + column) = sums;
}

template <typename T, int kElements>
bool IsAligned(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (kElements * sizeof(T)) == 0;
}

}  // namespace

template <typename T>
cudaError_t EntriesBackwardBiased(
    cudaStream_t stream, int64_t rows, const EntriesOptions& options,
    const typename Accumulator<T>::Type* logits,
    const RowBiases<typename Accumulator<T>::Type>& biases, const RowLabels& labels,
    const typename Accumulator<T>::Type* bounds, const typename Accumulator<T>::Type* maxima,
    const typename Accumulator<T>::Type* log_sums,
    const EntriesCotangents<typename Accumulator<T>::Type>& cotangents, T* logits_cotangents,
    typename Accumulator<T>::Type* bias_parts) {
  using Acc = typename Accumulator<T>::Type;
  if (rows < 0 || !options.IsValid()) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  if (!biases.IsValid() || rows % biases.rows != 0) return cudaErrorInvalidValue;
  const int64_t parts = PartsOfBias(biases.rows);
  const auto arrays = MakeEntryCotangentArrays(options, labels, maxima, log_sums, cotangents);
  const CoreColumns core{options.tokens, options.blank, options.without_blank,
                         options.without_label};
  const auto launch = [&](auto elements) {
    constexpr int kElements = decltype(elements)::value;
    const unsigned slabs = CountBlocks(options.width, kPartThreads * kElements);
    const int64_t blocks = rows / biases.rows * parts * slabs;
    if (blocks > INT32_MAX) return cudaErrorInvalidValue;
    BackwardPartsKernel<T, kElements><<<blocks, kPartThreads, 0, stream>>>(
        logits, biases.values, logits_cotangents, bias_parts, arrays, bounds,
        static_cast<int32_t>(biases.rows), options.width, core,
        Divider(static_cast<uint32_t>(parts)), Divider(slabs));
    return cudaGetLastError();
  };
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int kElements = Granule<float>::kElements;
    if (options.width % kElements == 0 && IsAligned<Acc, kElements>(logits) &&
        IsAligned<Acc, kElements>(biases.values) && IsAligned<Acc, kElements>(bias_parts) &&
        IsAligned<T, kElements>(logits_cotangents)) {
      return launch(std::integral_constant<int, kElements>());
    }
  }
  return launch(std::integral_constant<int, 1>());
}

#define JAX_RNNT_INSTANTIATE(T)                                                              \
  template cudaError_t EntriesBackwardBiased<T>(                                             \
      cudaStream_t, int64_t, const EntriesOptions&, const Accumulator<T>::Type*,             \
      const RowBiases<Accumulator<T>::Type>&, const RowLabels&, const Accumulator<T>::Type*, \
      const Accumulator<T>::Type*, const Accumulator<T>::Type*,                              \
      const EntriesCotangents<Accumulator<T>::Type>&, T*, Accumulator<T>::Type*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
