// Forward of the row kernels: for each row x of V logits
//
//   maximum        = max_v x_v
//   log_sum        = log sum_v exp(x_v - maximum)
//   blank_log_prob = (x_blank - maximum) - log_sum
//   label_log_prob = (x_label - maximum) - log_sum
//
// Pointers (Acc is float, or double for double):
//   logits (rows, V) of T    labels: int32, by row or by column (core/row_label.h)
//   blank_log_probs, label_log_probs, maxima, log_sums (rows) of Acc
//
// The maximum and the log of the sum stay apart, and every exponent is as good as the difference
// x_v - maximum (ScaledMaximum): with logits near 1e4 the last place of maximum + log_sum is 1e-3,
// while the difference is exact there. maximum is 0 in a row of -inf alone, so that nothing is
// inf - inf but a row that holds +inf, whose sum is to be NaN.
//
// The forward is bound by reading the logits. Two kernels split it; figures are shares of the copy
// bandwidth by the logits' bytes alone (H100 80GB, 2026-11):
//
//   PickForwardTileKernel, V <= 512: a block per tile of whole rows, copied to shared memory in
//     granules of 16 bytes; then 1 to 16 lanes per row with the row in registers. Rows this short
//     waste the ends of their memory sectors when read one by one: float V = 28 gets 88 % from
//     tiles, 69 % from rows.
//   PickForwardRowsKernel, every other row: 2 to 32 lanes or a block per row, straight from global
//     memory in one pass with a running maximum: 98 % to 105 % for rows of 2 KB and more. It takes
//     logits of any alignment.
//
// PickForwardDoubleKernel, a warp per row, is a plain kernel for the type of accuracy.
#include <algorithm>
#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/async_copy.cuh"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/divide.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/pick.h"
#include "cuda/rows/row_labels.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {
namespace {

// ---------------------------------------------------------------------------------------- Tiles

// 256 threads and 24 KB of logits a tile up to V = 64, 32 KB beyond. Share of the copy bandwidth by
// the tile's size: 8 KB 66 to 80 %, 16 KB 90 %, 24 to 32 KB the best, 48 KB worse for V <= 50.
constexpr int kTileThreads = 256;
constexpr int kTileBytesShortRows = 24 * 1024;
constexpr int kTileBytes = 32 * 1024;
constexpr int kTileShortRowsMaxV = 64;
constexpr int kTileMaxV = 512;
// Bounds the tile's labels for the shortest rows.
constexpr int kTileMaxRows = 2048;
// Tiles start on a granule whatever V is if they have a multiple of 8 rows of at least 2 bytes.
constexpr int kTileRowsMultiple = 8;
// Rows of a multiple of 64 bytes would lie on the same banks of shared memory: they are moved apart
// by a granule each (float V = 64: 59 to 90 %; the same for multiples of 32 made V = 8 slower).
constexpr int kBankConflictBytes = 64;

struct TileShape {
  int rows;
  uint32_t row_pitch;  // bytes from row to row in shared memory
  bool is_spread;      // a granule of padding lies between rows; rows are whole granules then
  Divider divider;     // by granules a row if is_spread, else by V
};

// Whether a row is read of those that the kElements elements from `column` of `row` on touch.
template <uint32_t kElements>
__device__ __forceinline__ bool HasReadRow(const int32_t* labels, uint32_t row, uint32_t column,
                                           uint32_t V) {
  bool found = labels[row] != kPaddingRow;
  for (uint32_t next = V - column; next < kElements; next += V) {
    found |= labels[++row] != kPaddingRow;
  }
  return found;
}

// Starts this thread's copies of a tile's logits, leaving out granules of padding rows alone.
template <typename T>
__device__ __forceinline__ void CopyTile(unsigned char* tile, const int32_t* labels,
                                         const T* logits, int rows, int32_t V,
                                         const TileShape& shape, bool has_padding) {
  constexpr uint32_t kElements = Granule<T>::kElements;
  const uint32_t elements = static_cast<uint32_t>(rows) * V;
  const uint32_t granules = elements / kElements;
#pragma unroll 4
  for (uint32_t granule = threadIdx.x; granule < granules; granule += kTileThreads) {
    bool is_wanted = true;
    uint32_t offset = granule * kGranuleBytes;
    if (shape.is_spread) {
      const uint32_t row = shape.divider.Divide(granule);
      offset += row * kGranuleBytes;
      is_wanted = labels[row] != kPaddingRow;
    } else if (has_padding) {
      uint32_t column;
      const uint32_t row = shape.divider.Divide(granule * kElements, &column);
      is_wanted = HasReadRow<kElements>(labels, row, column, V);
    }
    if (is_wanted) {
      CopyAsync(reinterpret_cast<uint4*>(tile + offset),
                reinterpret_cast<const uint4*>(logits + granule * kElements));
    }
  }
  // The tensor's last tile may end inside a granule, where rows are not whole granules.
  const uint32_t element = granules * kElements + threadIdx.x;
  if (element < elements && labels[shape.divider.Divide(element)] != kPaddingRow) {
    reinterpret_cast<T*>(tile)[element] = logits[element];
  }
}

// The kWords words, each of a row's words lane + k * kLanes, of the row at byte `offset` of the
// tile, -inf beyond the row's ends. A row of 16-bit elements may start or end inside a word, of
// which the other half is a neighbour's. The first kSureWords of each lane are inside every row,
// and none of them a row's last.
template <typename T, int kLanes, int kWords, int kSureWords>
__device__ __forceinline__ void LoadRowWords(const unsigned char* tile, uint32_t offset, uint32_t V,
                                             uint32_t lane, uint32_t (&words)[kWords]) {
  constexpr uint32_t kElements = Word<T>::kElements;
  // Elements of the row's first word that are its neighbour's.
  const uint32_t skipped = kElements == 1 ? 0 : offset / sizeof(T) % kElements;
  const uint32_t end = skipped + V;
  const uint32_t* source =
      reinterpret_cast<const uint32_t*>(tile + (offset - skipped * sizeof(T))) + lane;
#pragma unroll
  for (int k = 0; k < kWords; ++k) {
    const uint32_t element = (lane + k * kLanes) * kElements;
    if (k < kSureWords) {
      words[k] = source[k * kLanes];
    } else {
      words[k] = element < end ? source[k * kLanes] : Word<T>::kMinusInfinities;
      // Words past the row stay as they are. A test for its last word alone would be compiled to
      // a store to the last word's index, and the array put into a stack frame.
      if (kElements == 2 && element + 1 >= end) words[k] = MaskWord<T>(words[k], true, false);
    }
    if (kElements == 2 && k == 0 && element < skipped) {
      words[k] = MaskWord<T>(words[k], false, true);
    }
  }
}

template <typename T, int kWords>
__device__ __forceinline__ float MaxOfWords(const uint32_t (&words)[kWords]) {
  using W = Word<T>;
  typename W::Maximum maximum = W::ToMaximum(words[0]);
#pragma unroll
  for (int k = 1; k < kWords; ++k) maximum = W::Max(maximum, W::ToMaximum(words[k]));
  return W::Reduce(maximum);
}

template <typename T, int kWords>
__device__ __forceinline__ float SumOfExps(const uint32_t (&words)[kWords], float scaled) {
  constexpr int kElements = Word<T>::kElements;
  float sums[2] = {0.f, 0.f};
#pragma unroll
  for (int k = 0; k < kWords; ++k) {
    float values[kElements];
    Word<T>::Unpack(words[k], values);
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      sums[(k * kElements + j) % 2] += ScaledExp(values[j], scaled);
    }
  }
  return sums[0] + sums[1];
}

// Blocks asked for on a multiprocessor, as many as leave a lane registers for its words. 6 of them
// (48 warps) fill its shared memory too; the compiler's own choice of registers leaves room for 5.
constexpr int TileBlocks(int words) {
  return ResidentBlocks(kTileThreads, words <= 17 ? 6 : words <= 20 ? 5 : 4);
}

// A block per tile of shape.rows whole rows, then kLanes lanes per row, kWords words of 4 bytes a
// lane: kLanes * kSureWords * 4 < V * sizeof(T) <= kLanes * kWords * 4. Logits aligned to 16 bytes.
// Shared memory: shape.rows rows of row_pitch bytes, then shape.rows labels.
template <typename T, int kLanes, int kWords, int kSureWords>
__global__ void __launch_bounds__(kTileThreads, TileBlocks(kWords))
    PickForwardTileKernel(const T* __restrict__ logits, DeviceRowLabels labels,
                          RowResults<float> results, int64_t rows, int32_t V, int32_t blank,
                          TileShape shape) {
  extern __shared__ __align__(16) unsigned char tile[];
  int32_t* tile_labels = reinterpret_cast<int32_t*>(tile + shape.rows * shape.row_pitch);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * shape.rows;
  const int tile_rows = static_cast<int>(min(static_cast<int64_t>(shape.rows), rows - first_row));

  const RowLabelRun row_labels(labels, first_row);
  bool has_padding = false;
#pragma unroll 1
  for (int row = threadIdx.x; row < tile_rows; row += kTileThreads) {
    const int32_t label = row_labels.Label(row);
    const bool is_padding = IsPaddingRow(label, V);
    tile_labels[row] = is_padding ? kPaddingRow : label;
    has_padding |= is_padding;
  }
  // The block's labels, and whether any is padding, become visible to all threads.
  has_padding = __syncthreads_or(has_padding);
  CopyTile(tile, tile_labels, logits + first_row * V, tile_rows, V, shape, has_padding);
  CommitCopies();
  WaitForCopies<0>();
  // Each thread has waited for its own copies: the tile becomes visible to all threads.
  __syncthreads();

  constexpr int kRowsPerWarp = kWarpSize / kLanes;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kLanes;
  // The bound is the same for all lanes of a warp, as the shuffles need all of them.
  for (int warp_row = warp * kRowsPerWarp; warp_row < tile_rows;
       warp_row += kTileThreads / kLanes) {
    const int row = warp_row + (threadIdx.x % kWarpSize) / kLanes;
    const int32_t label = row < tile_rows ? tile_labels[row] : kPaddingRow;
    const uint32_t row_offset = row * shape.row_pitch;
    uint32_t words[kWords];
    float maximum = kMinusInfinity<float>;
    if (label != kPaddingRow) {
      LoadRowWords<T, kLanes, kWords, kSureWords>(tile, row_offset, V, lane, words);
      maximum = MaxOfWords<T>(words);
    }
    const float reference = ExponentReference(MaxOverLanes<kLanes>(maximum));
    const ScaledMaximum scaled = ScaleForSum(reference);
    float sum = 0.f;
    if (label != kPaddingRow) {
      if (IsLargeMaximum(reference)) {
#pragma unroll
        for (int k = 0; k < kWords; ++k) words[k] = Word<T>::Subtract(words[k], reference);
      }
      sum = SumOfExps<T>(words, scaled.scaled);
    }
    sum = SumOverLanes<kLanes>(sum);
    if (lane == 0 && row < tile_rows) {
      if (label == kPaddingRow) {
        StorePaddingRow(results, first_row + row);
      } else {
        const T* row_logits = reinterpret_cast<const T*>(tile + row_offset);
        StoreRow(results, first_row + row, reference, sum, -scaled.residual * kLn2,
                 ToAccumulator(row_logits[blank]),
                 ToAccumulator(row_logits[label == kNoLabel ? blank : label]), label);
      }
    }
  }
}

TileShape MakeTileShape(int32_t V, int element_bytes) {
  const int row_bytes = V * element_bytes;
  const bool is_spread = row_bytes % kBankConflictBytes == 0;
  const int tile_bytes = V <= kTileShortRowsMaxV ? kTileBytesShortRows : kTileBytes;
  const int fitting_rows = tile_bytes / row_bytes / kTileRowsMultiple * kTileRowsMultiple;
  return TileShape{std::min(kTileMaxRows, std::max(kTileRowsMultiple, fitting_rows)),
                   static_cast<uint32_t>(is_spread ? row_bytes + kGranuleBytes : row_bytes),
                   is_spread,
                   Divider(static_cast<uint32_t>(is_spread ? row_bytes / kGranuleBytes : V))};
}

template <typename T, int kLanes, int kWords, int kSureWords>
cudaError_t LaunchPickForwardTile(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                                  const T* logits, const DeviceRowLabels& labels,
                                  const RowResults<float>& results) {
  const TileShape shape = MakeTileShape(V, sizeof(T));
  // At most 35 KB: 168 rows of 208 bytes and their labels.
  const size_t shared_bytes = shape.rows * (shape.row_pitch + sizeof(int32_t));
  PickForwardTileKernel<T, kLanes, kWords, kSureWords>
      <<<CountBlocks(rows, shape.rows), kTileThreads, shared_bytes, stream>>>(
          logits, labels, results, rows, V, blank, shape);
  return cudaGetLastError();
}

template <int kLanesValue, int kWordsValue>
struct TileSplit {
  static constexpr int kLanes = kLanesValue;
  static constexpr int kWords = kWordsValue;
};

// kTooFewWords: what the split before the first of these holds, less than row_words.
template <typename T, int kTooFewWords, typename Split, typename... Splits, typename... Arguments>
cudaError_t LaunchFirstFittingTile(int row_words, const Arguments&... arguments) {
  if constexpr (sizeof...(Splits) > 0) {
    if (row_words > Split::kLanes * Split::kWords) {
      return LaunchFirstFittingTile<T, Split::kLanes * Split::kWords, Splits...>(row_words,
                                                                                 arguments...);
    }
  }
  return LaunchPickForwardTile<T, Split::kLanes, Split::kWords, kTooFewWords / Split::kLanes>(
      arguments...);
}

// Splits of a row over lanes in ascending order of the words they hold; beyond 8 words the next is
// at most 1.4 times the last (2 from 8 to 16), as words beyond the row cost the
// same as its own. With the number of words known at run time only, their array goes to local
// memory: 49 %, not 72 %, at bfloat16 V = 28.
template <typename T>
cudaError_t DispatchTile(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                         const T* logits, const DeviceRowLabels& labels,
                         const RowResults<float>& results) {
  const int row_words = static_cast<int>((V * sizeof(T) + 3) / 4);
  if constexpr (sizeof(T) == 4) {
    return LaunchFirstFittingTile<
        T, 0, TileSplit<1, 4>, TileSplit<1, 8>, TileSplit<2, 8>, TileSplit<2, 10>, TileSplit<2, 14>,
        TileSplit<2, 16>, TileSplit<4, 10>, TileSplit<4, 13>, TileSplit<4, 16>, TileSplit<4, 20>,
        TileSplit<4, 26>, TileSplit<8, 17>, TileSplit<16, 10>, TileSplit<16, 13>, TileSplit<16, 16>,
        TileSplit<16, 20>, TileSplit<16, 26>, TileSplit<16, 32>>(row_words, stream, rows, V, blank,
                                                                 logits, labels, results);
  } else {
    return LaunchFirstFittingTile<
        T, 0, TileSplit<1, 4>, TileSplit<1, 8>, TileSplit<1, 14>, TileSplit<1, 17>,
        TileSplit<2, 10>, TileSplit<2, 13>, TileSplit<2, 16>, TileSplit<2, 20>, TileSplit<2, 26>,
        TileSplit<2, 33>, TileSplit<4, 20>, TileSplit<8, 13>, TileSplit<8, 16>, TileSplit<8, 20>,
        TileSplit<8, 26>, TileSplit<16, 16>>(row_words, stream, rows, V, blank, logits, labels,
                                             results);
  }
}

// ----------------------------------------------------------------------------------------- Rows

constexpr int kRowsThreads = 128;

// Threads of a block, and blocks asked for on a multiprocessor. A block per row waits for its
// label, its row and its other warps in turn: what keeps the memory busy is other blocks, so blocks
// of up to 256 threads are held to the 32 registers with which a multiprocessor is full of them.
constexpr int RowsThreads(int lanes) { return lanes > kWarpSize ? lanes : kRowsThreads; }
constexpr int RowsBlocks(int lanes) {
  const bool is_full = lanes > kWarpSize && lanes <= 256;
  return is_full ? ResidentBlocks(lanes, 2048 / lanes) : 0;  // 0: the compiler decides
}

__device__ __forceinline__ void AddElement(float logit, PartialRow* part) {
  const float maximum = fmaxf(part->maximum, logit);
  part->sum = fmaf(part->sum, RescaleFactor(part->maximum, maximum),
                   Exp(logit - ExponentReference(maximum)));
  part->maximum = maximum;
}

template <typename T, int kBatch>
__device__ __forceinline__ void AddGranules(uint4 (&granules)[kBatch],
                                            typename Granule<T>::Maximum batch_maximum,
                                            PartialRow* part) {
  constexpr int kElements = Granule<T>::kElements;
  const float maximum = fmaxf(part->maximum, Granule<T>::Reduce(batch_maximum));
  const float reference = ExponentReference(maximum);
  const ScaledMaximum scaled = ScaleForSum(reference);
  if (IsLargeMaximum(reference)) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      granules[k] = Granule<T>::Subtract(granules[k], reference);
    }
  }
  float sums[2] = {0.f, 0.f};
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    float values[kElements];
    Granule<T>::Unpack(granules[k], values);
#pragma unroll
    for (int j = 0; j < kElements; ++j) sums[j % 2] += ScaledExp(values[j], scaled.scaled);
  }
  part->sum = fmaf(part->sum, RescaleFactor(part->maximum, maximum),
                   (sums[0] + sums[1]) * Exp2(-scaled.residual));
  part->maximum = maximum;
}

// This lane's share of the row at `row`: every kLanes-th granule, kBatch of them in flight. The row
// may start anywhere. Its first and last granule hold elements of its neighbours, which are masked;
// a granule that leaves the tensor [tensor_begin, tensor_end) is not loaded, lane 0 takes the row's
// elements in it one by one.
template <typename T, int kLanes, int kBatch>
__device__ __forceinline__ PartialRow SumShareOfRow(const T* row, const T* tensor_begin,
                                                    const T* tensor_end, uint32_t V,
                                                    uint32_t lane) {
  using G = Granule<T>;
  constexpr uint32_t kElements = G::kElements;
  const uint32_t skipped =
      static_cast<uint32_t>((reinterpret_cast<uintptr_t>(row) % kGranuleBytes) / sizeof(T));
  const T* aligned_row = row - skipped;
  const uint32_t granules = (skipped + V + kElements - 1) / kElements;
  const uint32_t begin = aligned_row < tensor_begin ? 1 : 0;
  const bool passes_end = aligned_row + static_cast<int64_t>(granules) * kElements > tensor_end;
  const uint32_t end = granules - (passes_end ? 1 : 0);

  // Before the loop: after it, what this needs would be kept in 8 registers.
  PartialRow part;
  if (lane == 0 && (begin != 0 || passes_end)) {
    const uint32_t head = begin != 0 ? min(kElements - skipped, V) : 0;
#pragma unroll 1
    for (uint32_t column = 0; column < head; ++column) {
      AddElement(ToAccumulator(row[column]), &part);
    }
    if (passes_end) {
#pragma unroll 1
      for (uint32_t column = max(head, end * kElements > skipped ? end * kElements - skipped : 0);
           column < V; ++column) {
        AddElement(ToAccumulator(row[column]), &part);
      }
    }
  }
// Unrolled, this loop takes 96 to 227 registers, not 32 to 48.
#pragma unroll 1
  for (uint32_t first = lane; first < end; first += kLanes * kBatch) {
    uint4 batch[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const uint32_t index = first + k * kLanes;
      batch[k] = index >= begin && index < end
                     ? __ldg(reinterpret_cast<const uint4*>(aligned_row) + index)
                     : G::MinusInfinities();
    }
    typename G::Maximum batch_maximum = G::LowestMaximum();
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const uint32_t index = first + k * kLanes;
      if (index == 0 || index == granules - 1) {
        batch[k] = G::MaskColumns(batch[k], index * kElements - skipped, V);
      }
      batch_maximum = G::Max(batch_maximum, batch[k]);
    }
    AddGranules<T>(batch, batch_maximum, &part);
  }
  return part;
}

template <int kLanes>
__device__ __forceinline__ PartialRow CombineLanes(PartialRow part) {
  PartialRow row;
  row.maximum = MaxOverLanes<kLanes>(part.maximum);
  row.sum = SumOverLanes<kLanes>(part.sum * RescaleFactor(part.maximum, row.maximum));
  return row;
}

// The parts of a block's warps; the result holds in the first warp.
template <int kWarps>
__device__ __forceinline__ PartialRow CombineWarps(PartialRow part) {
  __shared__ float maxima[kWarps];
  __shared__ float sums[kWarps];
  const int lane = threadIdx.x % kWarpSize;
  if (lane == 0) {
    maxima[threadIdx.x / kWarpSize] = part.maximum;
    sums[threadIdx.x / kWarpSize] = part.sum;
  }
  // The warps' parts become visible to the first warp.
  __syncthreads();
  if (threadIdx.x >= kWarpSize) return part;
  PartialRow warp_part;
  if (lane < kWarps) {
    warp_part.maximum = maxima[lane];
    warp_part.sum = sums[lane];
  }
  return CombineLanes<kWarpSize>(warp_part);
}

// kLanes lanes per row: up to a warp, several rows share a block of kRowsThreads; beyond, a block
// of kLanes threads takes a row.
template <typename T, int kLanes, int kBatch>
__global__ void __launch_bounds__(RowsThreads(kLanes), RowsBlocks(kLanes))
    PickForwardRowsKernel(const T* __restrict__ logits, DeviceRowLabels labels,
                          RowResults<float> results, int64_t rows, int32_t V, int32_t blank) {
  constexpr bool kIsBlockPerRow = kLanes > kWarpSize;
  constexpr int kRowsPerBlock = kIsBlockPerRow ? 1 : kRowsThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock;
  const uint32_t block_row = threadIdx.x / kLanes;
  const int64_t row = first_row + block_row;
  const RowLabelRun row_labels(labels, first_row);
  const int32_t label = row < rows ? row_labels.Label(block_row) : kPaddingRow;
  const bool is_padding = IsPaddingRow(label, V);

  PartialRow part;
  float blank_logit = 0.f;
  float label_logit = 0.f;
  if (!is_padding) {
    const T* row_logits = logits + row * V;
    if (lane == 0) {
      blank_logit = ToAccumulator(row_logits[blank]);
      label_logit = ToAccumulator(row_logits[label == kNoLabel ? blank : label]);
    }
    part = SumShareOfRow<T, kLanes, kBatch>(row_logits, logits, logits + rows * V, V, lane);
  }
  part = CombineLanes<kIsBlockPerRow ? kWarpSize : kLanes>(part);
  if constexpr (kIsBlockPerRow) part = CombineWarps<kLanes / kWarpSize>(part);
  if (lane == 0 && row < rows) {
    if (is_padding) {
      StorePaddingRow(results, row);
    } else {
      StoreRow(results, row, ExponentReference(part.maximum), part.sum, 0.f, blank_logit,
               label_logit, label);
    }
  }
}

template <typename T, int kLanes, int kBatch>
cudaError_t LaunchPickForwardRows(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                                  const T* logits, const DeviceRowLabels& labels,
                                  const RowResults<float>& results) {
  constexpr int kThreads = RowsThreads(kLanes);
  PickForwardRowsKernel<T, kLanes, kBatch>
      <<<CountBlocks(rows, kThreads / kLanes), kThreads, 0, stream>>>(logits, labels, results, rows,
                                                                      V, blank);
  return cudaGetLastError();
}

template <int kLanesValue, int kBatchValue>
struct RowsSplit {
  static constexpr int kLanes = kLanesValue;
  static constexpr int kBatch = kBatchValue;
};

// Lanes follow the row's bytes so that each has 4 to 5 granules or loops: threads that outnumber
// the granules leave 13 to 60 % of the bandwidth. 16-bit rows have twice the arithmetic in a
// granule and are bound by instructions up to 1.5 KB, where fewer lanes spend less on combining:
// with the packed maximum, 16 lanes in place of 32 took bfloat16 V = 1024 from 79 to 99 %.
template <typename T>
cudaError_t DispatchRows(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                         const T* logits, const DeviceRowLabels& labels,
                         const RowResults<float>& results) {
  const int64_t row_bytes = static_cast<int64_t>(V) * sizeof(T);
  const auto launch = [&](auto split) {
    return LaunchPickForwardRows<T, decltype(split)::kLanes, decltype(split)::kBatch>(
        stream, rows, V, blank, logits, labels, results);
  };
  if (row_bytes <= 512) return launch(RowsSplit<2, 4>());
  if constexpr (sizeof(T) == 2) {
    if (row_bytes <= 1536) return launch(RowsSplit<8, 4>());
  }
  if (row_bytes <= 2560) return launch(RowsSplit<16, 4>());
  if (row_bytes <= 6144) return launch(RowsSplit<32, 4>());
  if (row_bytes <= 12288) return launch(RowsSplit<128, 3>());
  if (row_bytes <= 49152) return launch(RowsSplit<256, 3>());
  return launch(RowsSplit<512, 4>());
}

// --------------------------------------------------------------------------------------- Double

// Double is here for accuracy: one warp per row, which reads it once for the maximum and once, from
// the caches unless it is long, for the sum. Its block of kRowsThreads was not tuned.
__global__ void __launch_bounds__(kRowsThreads)
    PickForwardDoubleKernel(const double* __restrict__ logits, DeviceRowLabels labels,
                            RowResults<double> results, int64_t rows, int32_t V, int32_t blank) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * (kRowsThreads / kWarpSize);
  const int64_t row = first_row + threadIdx.x / kWarpSize;
  if (row >= rows) return;
  const int32_t label = RowLabelRun(labels, first_row).Label(threadIdx.x / kWarpSize);
  if (IsPaddingRow(label, V)) {
    if (lane == 0) StorePaddingRow(results, row);
    return;
  }
  const double* row_logits = logits + row * V;
  double maximum = kMinusInfinity<double>;
  for (uint32_t v = lane; v < static_cast<uint32_t>(V); v += kWarpSize) {
    maximum = fmax(maximum, row_logits[v]);
  }
  const double reference = ExponentReference(MaxOverLanes<kWarpSize>(maximum));
  double sum = 0;
  for (uint32_t v = lane; v < static_cast<uint32_t>(V); v += kWarpSize) {
    sum += exp(row_logits[v] - reference);
  }
  sum = SumOverLanes<kWarpSize>(sum);
  if (lane == 0) {
    StoreRow(results, row, reference, sum, 0., row_logits[blank],
             row_logits[label == kNoLabel ? blank : label], label);
  }
}

cudaError_t LaunchPickForwardDouble(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                                    const double* logits, const DeviceRowLabels& labels,
                                    const RowResults<double>& results) {
  PickForwardDoubleKernel<<<CountBlocks(rows, kRowsThreads / kWarpSize), kRowsThreads, 0, stream>>>(
      logits, labels, results, rows, V, blank);
  return cudaGetLastError();
}

}  // namespace

template <typename T>
cudaError_t PickForward(cudaStream_t stream, int64_t rows, int32_t V, int32_t blank,
                        const T* logits, const RowLabels& row_labels,
                        typename Accumulator<T>::Type* blank_log_probs,
                        typename Accumulator<T>::Type* label_log_probs,
                        typename Accumulator<T>::Type* maxima,
                        typename Accumulator<T>::Type* log_sums) {
  if (rows < 0 || V < 1 || blank < 0 || blank >= V) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  const DeviceRowLabels labels(row_labels);
  const RowResults<typename Accumulator<T>::Type> results{blank_log_probs, label_log_probs, maxima,
                                                          log_sums};
  if constexpr (sizeof(T) == sizeof(double)) {
    return LaunchPickForwardDouble(stream, rows, V, blank, logits, labels, results);
  } else if (V <= kTileMaxV && IsGranuleAligned(logits)) {
    return DispatchTile<T>(stream, rows, V, blank, logits, labels, results);
  } else {
    return DispatchRows<T>(stream, rows, V, blank, logits, labels, results);
  }
}

#define JAX_RNNT_INSTANTIATE(T)                                                                   \
  template cudaError_t PickForward<T>(                                                            \
      cudaStream_t, int64_t, int32_t, int32_t, const T*, const RowLabels&, Accumulator<T>::Type*, \
      Accumulator<T>::Type*, Accumulator<T>::Type*, Accumulator<T>::Type*)
JAX_RNNT_INSTANTIATE(float);
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
JAX_RNNT_INSTANTIATE(double);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
