// ForwardTileKernel: the forward of rows of up to kTileMaxWidth logits (forward.cuh has the choice
// between the kernels, and says what a Rule is).
#ifndef JAX_RNNT_CUDA_ROWS_FORWARD_TILE_CUH_
#define JAX_RNNT_CUDA_ROWS_FORWARD_TILE_CUH_

#include <algorithm>
#include <cstdint>

#include "core/row_label.h"
#include "cuda/memory/async_copy.cuh"
#include "cuda/memory/blocks.cuh"
#include "cuda/memory/divide.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/exponents.cuh"
#include "cuda/rows/row_labels.cuh"
#include "cuda/rows/row_sums.cuh"

namespace jax_rnnt::cuda {

// A tile has 24 KB of logits up to a width of 64, 32 KB beyond. Share of the copy bandwidth by the
// tile's size: 8 KB 66 to 80 %, 16 KB 90 %, 24 to 32 KB the best, 48 KB worse for a width of 50 or
// less.
constexpr int kTileBytesShortRows = 24 * 1024;
constexpr int kTileBytes = 32 * 1024;
constexpr int kTileShortRowsMaxWidth = 64;
constexpr int kTileMaxWidth = 512;
// The most rows of a tile, which bounds its labels where rows are shortest.
constexpr int kTileMaxRows = 2048;
// With a multiple of 8 rows, of at least 2 bytes each, every tile starts on a granule whatever the
// width is.
constexpr int kTileRowsMultiple = 8;
// Rows of a multiple of 64 bytes would lie on the same banks of shared memory: a granule of padding
// after each moves them apart (64 floats: 59 to 90 %; the same for multiples of 32 made 8 slower).
constexpr int kBankConflictBytes = 64;

struct TileShape {
  int rows;
  uint32_t row_pitch;  // bytes from row to row in shared memory
  bool is_spread;      // a granule of padding lies between rows; rows are whole granules then
  Divider divider;     // by granules a row if is_spread, else by the width
};

// Whether the kElements elements from `column` of `row` on touch a row that is not padding.
template <uint32_t kElements>
__device__ __forceinline__ bool HasReadRow(const int32_t* labels, uint32_t row, uint32_t column,
                                           uint32_t width) {
  bool found = labels[row] != kPaddingRow;
  for (uint32_t next = width - column; next < kElements; next += width) {
    found |= labels[++row] != kPaddingRow;
  }
  return found;
}

// Threads of a tile. Where padding is, its time is what starting threads takes, 37 cycles of a
// multiprocessor for each warp: with half of them the rows of LibriSpeech, 500 floats, take 497 us
// and not 522, full ones 887 and not 881. With fewer words a lane, half the threads are slower.
template <int kWords>
constexpr int kTileThreads = kWords >= 26 ? 128 : 256;

// Starts this thread's copies of a tile's logits, but for granules in which all rows are padding.
template <int kThreads, typename T>
__device__ __forceinline__ void CopyTile(unsigned char* tile, const int32_t* labels,
                                         const T* logits, int rows, int32_t width,
                                         const TileShape& shape, bool has_padding) {
  constexpr uint32_t kElements = Granule<T>::kElements;
  const uint32_t elements = static_cast<uint32_t>(rows) * width;
  const uint32_t granules = elements / kElements;
#pragma unroll 4
  for (uint32_t granule = threadIdx.x; granule < granules; granule += kThreads) {
    bool is_wanted = true;
    uint32_t offset = granule * kGranuleBytes;
    if (shape.is_spread) {
      const uint32_t row = shape.divider.Divide(granule);
      offset += row * kGranuleBytes;
      is_wanted = labels[row] != kPaddingRow;
    } else if (has_padding) {
      uint32_t column;
      const uint32_t row = shape.divider.Divide(granule * kElements, &column);
      is_wanted = HasReadRow<kElements>(labels, row, column, width);
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

// Loads this lane's kWords words of the V elements at byte `offset` of the tile: words
// lane + k * kLanes of them, with -inf beyond the ends. 16-bit elements may start or end inside a
// word, whose other half is a neighbour's. The first kSureWords words of each lane are inside, and
// none of them is cut by the end.
template <typename T, int kLanes, int kWords, int kSureWords>
__device__ __forceinline__ void LoadRowWords(const unsigned char* tile, uint32_t offset, uint32_t V,
                                             uint32_t lane, uint32_t (&words)[kWords]) {
  constexpr uint32_t kElements = Word<T>::kElements;
  // The number of elements of the row's first word that are its neighbour's.
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
      // The test holds for words past the row too, which it leaves as they are. A test for the
      // row's last word alone would be compiled to a store to the last word's index, and the array
      // put into a stack frame.
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

// Blocks asked for on a multiprocessor: as many as leave a lane enough registers for its words. 6
// blocks fill its shared memory too; of 256 threads, with the compiler's own choice of registers,
// there is room for 5.
template <int kWords>
constexpr int kTileBlocks =
    ResidentBlocks(kTileThreads<kWords>, kWords > 17 && kTileThreads<kWords> == 256 ? 5 : 6);

// A block takes a tile of shape.rows whole rows; then kLanes lanes take each row, kWords words of 4
// bytes a lane: kLanes * kSureWords < RowWords(V, width) <= kLanes * kWords. Logits are aligned to
// 16 bytes. Shared memory: shape.rows rows of row_pitch bytes, then shape.rows labels.
template <typename T, int kLanes, int kWords, int kSureWords, typename Rule>
__global__ void __launch_bounds__(kTileThreads<kWords>, kTileBlocks<kWords>)
    ForwardTileKernel(const T* __restrict__ logits, DeviceRowLabels labels,
                      typename Rule::Results results, int64_t rows, int32_t V, Rule rule,
                      TileShape shape) {
  constexpr int kThreads = kTileThreads<kWords>;
  // 16-bit rows this short are bound by instructions: float16 rows of 50 would take 3 % longer.
  constexpr bool kEndsEarly =
      Word<T>::kElements == 1 || kLanes * kWords * Word<T>::kElements > kTileShortRowsMaxWidth;
  extern __shared__ __align__(16) unsigned char tile[];
  int32_t* tile_labels = reinterpret_cast<int32_t*>(tile + shape.rows * shape.row_pitch);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * shape.rows;
  const int tile_rows = static_cast<int>(min(static_cast<int64_t>(shape.rows), rows - first_row));

  const RowLabelRun row_labels(labels, first_row);
  bool has_padding = false, has_read = false;
#pragma unroll 1
  for (int row = threadIdx.x; row < tile_rows; row += kThreads) {
    const int32_t label = row_labels.Label(row);
    const bool is_padding = IsPaddingRow(label, V);
    tile_labels[row] = is_padding ? kPaddingRow : label;
    has_padding |= is_padding;
    has_read |= !is_padding;
  }
  // The block's labels, and whether any is padding, become visible to all threads.
  has_padding = __syncthreads_or(has_padding);
  const bool is_padding_tile = kEndsEarly && has_padding && !__syncthreads_or(has_read);
  if (!is_padding_tile) {
    CopyTile<kThreads>(tile, tile_labels, logits + first_row * rule.Width(V), tile_rows,
                       rule.Width(V), shape, has_padding);
    CommitCopies();
    WaitForCopies<0>();
    // Each thread has waited for its own copies: the tile becomes visible to all threads.
    __syncthreads();
  }
  rule.template TakeFromTile<T>(results, first_row, tile, shape.row_pitch, tile_labels, tile_rows);
  if (is_padding_tile) {
    for (int row = threadIdx.x; row < tile_rows; row += kThreads) {
      rule.StorePaddingFromTile(results, first_row + row);
    }
    return;
  }

  constexpr int kRowsPerWarp = kWarpSize / kLanes;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kLanes;
  // The bound is the same for all lanes of a warp: the shuffles need all of them.
  for (int warp_row = warp * kRowsPerWarp; warp_row < tile_rows; warp_row += kThreads / kLanes) {
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
        rule.StorePaddingFromTile(results, first_row + row);
      } else {
        rule.StoreFromTile(results, first_row + row, reference, sum, -scaled.residual * kLn2,
                           reinterpret_cast<const T*>(tile + row_offset), label);
      }
    }
  }
}

inline TileShape MakeTileShape(int32_t width, int element_bytes) {
  const int row_bytes = width * element_bytes;
  const bool is_spread = row_bytes % kBankConflictBytes == 0;
  const int tile_bytes = width <= kTileShortRowsMaxWidth ? kTileBytesShortRows : kTileBytes;
  const int fitting_rows = tile_bytes / row_bytes / kTileRowsMultiple * kTileRowsMultiple;
  return TileShape{std::min(kTileMaxRows, std::max(kTileRowsMultiple, fitting_rows)),
                   static_cast<uint32_t>(is_spread ? row_bytes + kGranuleBytes : row_bytes),
                   is_spread,
                   Divider(static_cast<uint32_t>(is_spread ? row_bytes / kGranuleBytes : width))};
}

template <typename T, int kLanes, int kWords, int kSureWords, typename Rule>
cudaError_t LaunchForwardTile(cudaStream_t stream, int64_t rows, int32_t V, const T* logits,
                              const DeviceRowLabels& labels, const typename Rule::Results& results,
                              const Rule& rule) {
  const TileShape shape = MakeTileShape(rule.Width(V), sizeof(T));
  // At most 35 KB: 168 rows of 208 bytes and their labels.
  const size_t shared_bytes = shape.rows * (shape.row_pitch + sizeof(int32_t));
  ForwardTileKernel<T, kLanes, kWords, kSureWords>
      <<<CountBlocks(rows, shape.rows), kTileThreads<kWords>, shared_bytes, stream>>>(
          logits, labels, results, rows, V, rule, shape);
  return cudaGetLastError();
}

// The words that V elements touch at most, where rows start at multiples of `width` elements.
template <typename T>
int RowWords(int32_t V, int32_t width) {
  constexpr int kElements = Word<T>::kElements;
  return (V + width % kElements + kElements - 1) / kElements;
}

template <int kLanesValue, int kWordsValue>
struct TileSplit {
  static constexpr int kLanes = kLanesValue;
  static constexpr int kWords = kWordsValue;
};

// Launches with the first split that holds row_words words. kTooFewWords is what the split before
// the first of these holds, less than row_words.
template <typename T, int kTooFewWords, typename Split, typename... Splits, typename... Arguments>
cudaError_t LaunchFirstFittingTile(int row_words, const Arguments&... arguments) {
  if constexpr (sizeof...(Splits) > 0) {
    if (row_words > Split::kLanes * Split::kWords) {
      return LaunchFirstFittingTile<T, Split::kLanes * Split::kWords, Splits...>(row_words,
                                                                                 arguments...);
    }
  }
  return LaunchForwardTile<T, Split::kLanes, Split::kWords, kTooFewWords / Split::kLanes>(
      arguments...);
}

// The splits of a row over lanes, in ascending order of the words that they hold. Beyond 8 words a
// split holds at most 1.4 times the words of the one before it (2 from 8 to 16), as words beyond
// the row cost the same as its own. The number of words is a template argument: with one known at
// run time only, the array of words goes to local memory: 49 %, not 72 %, at bfloat16 V = 28.
template <typename T, typename Rule>
cudaError_t DispatchTile(cudaStream_t stream, int64_t rows, int32_t V, const T* logits,
                         const DeviceRowLabels& labels, const typename Rule::Results& results,
                         const Rule& rule) {
  const int row_words = RowWords<T>(V, rule.Width(V));
  if constexpr (sizeof(T) == 4) {
    return LaunchFirstFittingTile<
        T, 0, TileSplit<1, 4>, TileSplit<1, 8>, TileSplit<2, 8>, TileSplit<2, 10>, TileSplit<2, 14>,
        TileSplit<2, 16>, TileSplit<4, 10>, TileSplit<4, 13>, TileSplit<4, 16>, TileSplit<4, 20>,
        TileSplit<4, 26>, TileSplit<8, 17>, TileSplit<16, 10>, TileSplit<16, 13>, TileSplit<16, 16>,
        TileSplit<16, 20>, TileSplit<16, 26>, TileSplit<16, 32>>(row_words, stream, rows, V, logits,
                                                                 labels, results, rule);
  } else {
    return LaunchFirstFittingTile<
        T, 0, TileSplit<1, 4>, TileSplit<1, 8>, TileSplit<1, 14>, TileSplit<1, 17>,
        TileSplit<2, 10>, TileSplit<2, 13>, TileSplit<2, 16>, TileSplit<2, 20>, TileSplit<2, 26>,
        TileSplit<2, 33>, TileSplit<4, 20>, TileSplit<8, 13>, TileSplit<8, 16>, TileSplit<8, 20>,
        TileSplit<8, 26>, TileSplit<16, 16>>(row_words, stream, rows, V, logits, labels, results,
                                             rule);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_FORWARD_TILE_CUH_
