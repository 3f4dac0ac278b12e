// The activations of a tile, computed into shared memory block by block.
#ifndef JAX_RNNT_CUDA_JOINT_ACTIVATION_BLOCKS_CUH_
#define JAX_RNNT_CUDA_JOINT_ACTIVATION_BLOCKS_CUH_

#include <cstdint>

#include "cuda/joint/activation.cuh"
#include "cuda/joint/dropout.cuh"
#include "cuda/joint/plan.h"
#include "cuda/joint/tile.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/partial_granule.cuh"
#include "cuda/memory/swizzle.cuh"

namespace jax_rnnt::cuda {

// The place in global memory to which a tile's activations go besides shared memory.
template <typename T>
struct StoredActivations {
  T* rows = nullptr;  // (cells of the tile, H), zeros for those of padding; null for nowhere
  bool has_granules = false;
};

// Computes the activations of the 64 cells of a group of kThreads threads into shared memory, a
// block of 64 numbers for each cell at a time. A thread takes one granule of the lines of one
// column and every kStride-th frame.
//
// Granules that a block needs are loaded before the block in front of it is computed, single
// elements after it. kFramesAtOnce frames of a block are computed side by side, as many as there
// are registers for: one where accumulators take them.
template <typename T, int kThreads, int kFramesAtOnce, bool kIsStored, bool kHasDropout>
class ActivationBlocks {
 public:
  static constexpr int kStride = kThreads / (kLineGranules * kTileColumns);
  static constexpr int kFrames = kGroupFrames / kStride;

  // `lines` are the group's lines in the first block; those of the next block are block_bytes
  // further.
  __device__ __forceinline__ ActivationBlocks(const TileInputs<T>& inputs, const Tile& tile,
                                              int group, unsigned char* lines, int block_bytes,
                                              const StoredActivations<T>& stored = {})
      : inputs_(inputs), block_bytes_(block_bytes), dropout_(inputs.dropout, tile.n) {
    const int thread = threadIdx.x % kThreads;
    const int chunk = thread % kLineGranules;
    const int column = thread / kLineGranules % kTileColumns;
    const int frame = group * kGroupFrames + thread / (kLineGranules * kTileColumns);
    const int line = frame * kTileColumns + column;
    const int64_t H = inputs.shape.H;
    t_ = tile.first_frame + frame;
    u_ = tile.first_column + column;
    h_ = chunk * kGranule;
    const int64_t encoder_row = static_cast<int64_t>(tile.n / inputs.shape.K) * inputs.shape.T + t_;
    encoder_ = inputs.encoder + encoder_row * H + h_;
    predictor_ = inputs.predictor + (static_cast<int64_t>(tile.n) * inputs.shape.U + u_) * H + h_;
    // The frames left for this thread, kStride apart; those of padding are not read, none of them
    // in a column of padding.
    frames_ = ColumnLabel(inputs, tile, column) == kPaddingRow
                  ? 0
                  : (ReadFrames(inputs, tile.n) - t_ + kStride - 1) >> kStrideBits;
    granule_ = lines + (line - group * kGroupCells) * kBlockLineBytes +
               SwizzledChunk<kBlockLineBytes>(line, chunk) * kGranuleBytes;
    if constexpr (kIsStored) {
      stored_ = stored.rows + line * H + h_;
      stored_has_granules_ = stored.has_granules;
    }
    Load();
  }

  // Computes this thread's share of the next block.
  __device__ __forceinline__ void Compute() {
    const int h = h_;
    h_ += kBlockDepth;
    encoder_ += kBlockDepth;
    predictor_ += kBlockDepth;
    uint4 sources[kFrames + 1];
#pragma unroll
    for (int i = 0; i <= kFrames; ++i) sources[i] = next_[i];
    // Loading element by element takes the registers that `sources` must have left.
    if (inputs_.has_granules) Load<true>();
    Activate(sources, h);
    if (!inputs_.has_granules) Load<false>();
    granule_ += block_bytes_;
    if constexpr (kIsStored) stored_ += kBlockDepth;
  }

 private:
  static constexpr int kGranule = Granule<T>::kElements;
  static constexpr int kStrideBits = kStride == 4 ? 2 : 1;
  static_assert(kStride == 1 << kStrideBits);

  __device__ __forceinline__ void Activate(uint4 (&sources)[kFrames + 1], int h) const {
    DispatchActivation(inputs_.activation,
                       [&](auto tag) { Finish<decltype(tag)::value>(sources, h); });
  }

  // Loads what the next block needs: the frames of the encoder from next_[0] on, then the column of
  // the predictor. There is nothing behind the last block.
  __device__ __forceinline__ void Load() { inputs_.has_granules ? Load<true>() : Load<false>(); }
  template <bool kHasGranules>
  __device__ __forceinline__ void Load() {
    const int count = inputs_.shape.H - h_;
#pragma unroll
    for (int i = 0; i < kFrames; ++i) {
      next_[i] = LoadGranule<kHasGranules>(
          encoder_ + static_cast<int64_t>(kStride * i) * inputs_.shape.H, i < frames_ ? count : 0);
    }
    next_[kFrames] = LoadGranule<kHasGranules>(predictor_, frames_ > 0 ? count : 0);
  }

  template <Activation kActivation>
  __device__ __forceinline__ void Finish(uint4 (&sources)[kFrames + 1], int h) const {
    float predictor[8];
    Granule<T>::Unpack(sources[kFrames], predictor);
    T* stored = stored_;
#pragma unroll kFramesAtOnce
    for (int i = 0; i < kFrames; ++i) {
      float values[8];
      Granule<T>::Unpack(sources[0], values);
#pragma unroll
      for (int k = 1; k < kFrames; ++k) sources[k - 1] = sources[k];
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] += predictor[j];
      cuda::Activate<kActivation>(values);
      if constexpr (kHasDropout) {
        bool is_kept[8];
        dropout_.KeptUnits(h, t_ + kStride * i, u_, is_kept);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float scaled = __fmul_rn(values[j], dropout_.Scale());
          values[j] = is_kept[j] ? scaled : 0.f;
        }
      }
      const uint4 granule = Granule<T>::Pack(values);
      *reinterpret_cast<uint4*>(granule_ + kStride * i * kTileColumns * kBlockLineBytes) = granule;
      if constexpr (kIsStored) {
        StoreCell(stored, i, inputs_.shape.H - h, granule);
        stored += static_cast<int64_t>(kStride * kTileColumns) * inputs_.shape.H;
      }
    }
  }

  // Stores the granule of the thread's i-th frame to global memory.
  __device__ __forceinline__ void StoreCell(T* target, int i, int count,
                                            const uint4& granule) const {
    // A mask, not a choice between two granules: with that the compiler stores four words.
    const uint32_t mask = i < frames_ ? 0xffffffffu : 0u;
    const uint4 kept =
        make_uint4(granule.x & mask, granule.y & mask, granule.z & mask, granule.w & mask);
    stored_has_granules_ ? StoreGranule<true>(target, count, kept)
                         : StoreGranule<false>(target, count, kept);
  }

  const TileInputs<T>& inputs_;
  int block_bytes_;
  int32_t t_;  // of the first frame
  int32_t u_;
  int32_t h_;  // of what is loaded, or is to be computed next
  int frames_;
  Dropout<kHasDropout> dropout_;
  const T* encoder_;        // the thread's first frame, from h_ on
  const T* predictor_;      // its column, from h_ on
  unsigned char* granule_;  // the thread's first one of the next block
  uint4 next_[kFrames + 1];
  T* stored_ = nullptr;
  bool stored_has_granules_ = false;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_ACTIVATION_BLOCKS_CUH_
