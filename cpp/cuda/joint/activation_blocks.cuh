// The activations of a tile, computed into shared memory block by block.
#ifndef JAX_RNNT_CUDA_JOINT_ACTIVATION_BLOCKS_CUH_
#define JAX_RNNT_CUDA_JOINT_ACTIVATION_BLOCKS_CUH_

#include <cstdint>

#include "cuda/joint/activation.cuh"
#include "cuda/joint/dropout.cuh"
#include "cuda/joint/plan.cuh"
#include "cuda/joint/tile.cuh"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/bulk_copy.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/partial_granule.cuh"

namespace jax_rnnt::cuda {

// The place in global memory to which a tile's activations go besides shared memory.
template <typename T>
struct StoredActivations {
  T* rows = nullptr;  // (cells of the tile, H), zeros for those of padding; null for nowhere
  bool has_granules = false;
};

// Computes the activations of a warpgroup's 64 cells into shared memory, a block of 64 numbers for
// each cell at a time. A thread takes one granule of the lines of one column and every other frame.
// What the next block needs is loaded before a block is computed.
template <typename T, bool kIsStored, bool kHasDropout>
class ActivationBlocks {
 public:
  static constexpr int kFrames = kWarpgroupFrames / 2;

  // `lines` are the warpgroup's lines in the first block; those of the next block are block_bytes
  // further.
  __device__ __forceinline__ ActivationBlocks(const TileInputs<T>& inputs, const Tile& tile,
                                              int warpgroup, unsigned char* lines, int block_bytes,
                                              const StoredActivations<T>& stored = {})
      : inputs_(inputs),
        lines_(lines),
        block_bytes_(block_bytes),
        warpgroup_(warpgroup),
        dropout_(inputs.dropout, tile.n) {
    const int thread = threadIdx.x % kWarpgroupThreads;
    chunk_ = thread % kLineGranules;
    const int column = thread / kLineGranules % kTileColumns;
    const int first_frame = thread / (kLineGranules * kTileColumns);
    const int32_t t = tile.first_frame + warpgroup * kWarpgroupFrames + first_frame;
    const int32_t u = tile.first_column + column;
    const int64_t H = inputs.shape.H;
    // The same for the whole block: a thread has registers for offsets, not for pointers.
    encoder_ =
        inputs.encoder +
        (static_cast<int64_t>(tile.n / inputs.shape.K) * inputs.shape.T + tile.first_frame) * H;
    predictor_ =
        inputs.predictor + (static_cast<int64_t>(tile.n) * inputs.shape.U + tile.first_column) * H;
    encoder_offset_ =
        (warpgroup * kWarpgroupFrames + first_frame) * inputs.shape.H + chunk_ * kGranule;
    predictor_offset_ = column * inputs.shape.H + chunk_ * kGranule;
    t_ = t;
    u_ = u;
    // The frames left for this thread, 2 apart; those of padding are not read.
    frames_ = (ReadFrames(inputs, tile.n) - t + 1) >> 1;
    // Columns of padding are not read either.
    has_column_ = ColumnLabel(inputs, tile, column) != kPaddingRow;
    line_ = first_frame * kTileColumns + column;
    if constexpr (kIsStored) {
      stored_ = stored.rows;
      stored_offset_ = (warpgroup * kWgmmaRows + line_) * inputs.shape.H + chunk_ * kGranule;
      stored_has_granules_ = stored.has_granules;
    }
    inputs_.has_granules ? Load<true>(0) : Load<false>(0);
  }

  // Computes a block. Its activations become visible to the products of the warpgroup's four warps.
  __device__ __forceinline__ void Compute(int block) {
    Fill(block);
    FenceForAsync();
    SyncWarpgroup(warpgroup_);
  }

 private:
  static constexpr int kGranule = Granule<T>::kElements;

  __device__ __forceinline__ void Fill(int block) {
    uint4 sources[kFrames + 1];
#pragma unroll
    for (int i = 0; i <= kFrames; ++i) sources[i] = next_[i];
    const bool has_next = block + 1 < inputs_.plan.depth_blocks;
    if (has_next && inputs_.has_granules) Load<true>(block + 1);
    Activate(sources, block);
    // Loading element by element takes the registers that `sources` must have left.
    if (has_next && !inputs_.has_granules) Load<false>(block + 1);
  }

  __device__ __forceinline__ void Activate(uint4 (&sources)[kFrames + 1], int block) const {
    DispatchActivation(inputs_.activation,
                       [&](auto tag) { Finish<decltype(tag)::value>(sources, block); });
  }

  // Loads what a block needs: the frames of the encoder from next_[0] on, then the column of the
  // predictor.
  template <bool kHasGranules>
  __device__ __forceinline__ void Load(int block) {
    const int first_h = block * kBlockDepth;
    const int count = inputs_.shape.H - first_h - chunk_ * kGranule;
#pragma unroll
    for (int i = 0; i < kFrames; ++i) {
      next_[i] = LoadGranule<kHasGranules>(
          encoder_ + (encoder_offset_ + first_h + 2 * i * inputs_.shape.H),
          i < frames_ ? count : 0);
    }
    next_[kFrames] = LoadGranule<kHasGranules>(predictor_ + (predictor_offset_ + first_h),
                                               has_column_ ? count : 0);
  }

  template <Activation kActivation>
  __device__ __forceinline__ void Finish(uint4 (&sources)[kFrames + 1], int block) const {
    unsigned char* lines = lines_ + static_cast<int64_t>(block) * block_bytes_;
    float predictor[8];
    Granule<T>::Unpack(sources[kFrames], predictor);
    int stored_offset = stored_offset_ + block * kBlockDepth;
// Unrolled, the numbers of all frames would lie in registers side by side, more than there are.
#pragma unroll 1
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
        dropout_.KeptUnits(block * kBlockDepth + chunk_ * kGranule, t_ + 2 * i, u_, is_kept);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float scaled = __fmul_rn(values[j], dropout_.Scale());
          values[j] = is_kept[j] ? scaled : 0.f;
        }
      }
      const uint4 granule = Granule<T>::Pack(values);
      const int line = line_ + 2 * i * kTileColumns;
      reinterpret_cast<uint4*>(
          lines + line * kBlockLineBytes)[SwizzledChunk<kBlockLineBytes>(line, chunk_)] = granule;
      if constexpr (kIsStored) {
        StoreCell(stored_ + stored_offset, i, block, granule);
        stored_offset += 2 * kTileColumns * inputs_.shape.H;
      }
    }
  }

  // Stores the granule of the thread's i-th frame to global memory.
  __device__ __forceinline__ void StoreCell(T* target, int i, int block,
                                            const uint4& granule) const {
    const int count = inputs_.shape.H - block * kBlockDepth - chunk_ * kGranule;
    // A mask, not a choice between two granules: with that the compiler stores four words.
    const uint32_t mask = has_column_ && i < frames_ ? 0xffffffffu : 0u;
    const uint4 kept =
        make_uint4(granule.x & mask, granule.y & mask, granule.z & mask, granule.w & mask);
    stored_has_granules_ ? StoreGranule<true>(target, count, kept)
                         : StoreGranule<false>(target, count, kept);
  }

  const TileInputs<T>& inputs_;
  unsigned char* lines_;
  int block_bytes_;
  int warpgroup_;
  int chunk_;
  int line_;
  int32_t t_;  // of the first frame
  int32_t u_;
  int frames_;
  bool has_column_;
  Dropout<kHasDropout> dropout_;
  const T* encoder_;    // the tile's first row
  const T* predictor_;  // the tile's first row
  int encoder_offset_;
  int predictor_offset_;
  uint4 next_[kFrames + 1];
  T* stored_ = nullptr;
  int stored_offset_ = 0;
  bool stored_has_granules_ = false;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_ACTIVATION_BLOCKS_CUH_
