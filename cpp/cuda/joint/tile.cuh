// What the kernels over tiles of a joint network share (sm_90a): a tile's activations and their
// products with the kernel,
//
//   x = activation(encoder[n, t] + predictor[n, u]) rounded to T,  logits = x kernel + bias
//
// whose logits each kernel's own epilogue takes from registers.
//
// A tile is 8 columns by 16 frames of one sequence, or by 8 where H is above 704; its row
// 8 frame + column is a cell. The tile's activations stay in shared memory while the kernel passes
// by, 256 columns (a chunk) at a time in slices of kSliceDepth rows, which one thread copies to a
// ring of stages. Each warpgroup multiplies its 64 cells with every slice; after a chunk's last
// slice its 64 x 256 logits are in registers, for the epilogue to use up. Meanwhile the other
// warpgroup keeps the tensor cores busy: it may be as many slices ahead or behind as there are
// stages.
//
//   - The products of the first chunk are interleaved with the activations they need, which are
//     bound by the special function unit: either hides the other.
//   - The kernel's columns are packed in an order in which a thread's logits are runs of eight
//     neighbours (ColumnOfLine): 16 bytes of T.
//   - Loads: 128 cells take 2 V H bytes of the kernel from the second-level cache. Two blocks in a
//     cluster, each copying half of every slice to both, halve that traffic and made the forward
//     0.1 % faster for (N, T, U, H, V) = (32, 400, 100, 640, 1024) and 2 % for
//     (16, 400, 100, 640, 4096) (H100): too little for what they add. Each block copies for itself.
#ifndef JAX_RNNT_CUDA_JOINT_TILE_CUH_
#define JAX_RNNT_CUDA_JOINT_TILE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "core/row_label.h"
#include "cuda/joint/activation.cuh"
#include "cuda/joint/forward.h"
#include "cuda/joint/wgmma.cuh"
#include "cuda/memory/bulk_copy.cuh"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/row_labels.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "This file is for compute capability 9.0 alone: compile it for sm_90a."
#endif

namespace jax_rnnt::cuda {

// Columns of the lattice in a tile; the eight lines that a swizzle permutes are the tile's columns
// at one frame, and each warpgroup has as many frames.
constexpr int kTileColumns = 8;
constexpr int kWarpgroupFrames = kWgmmaRows / kTileColumns;

// Activations lie in blocks of 64 numbers a cell: lines of 128 bytes.
constexpr int kBlockDepth = 64;
constexpr int kBlockLineBytes = kBlockDepth * 2;
constexpr int kLineGranules = kBlockLineBytes / kGranuleBytes;

// The finer the slices, the sooner a part of the ring is free for the next load: H = 640 leaves 64
// KB for the ring, four slices of 32 or two of 64.
constexpr int kSliceDepth = 32;
constexpr int kSliceLineBytes = kSliceDepth * 2;
constexpr int kSliceBytes = kWgmmaColumns * kSliceLineBytes;
constexpr int kSlicesPerBlock = kBlockDepth / kSliceDepth;

constexpr int kMinStages = 3;
constexpr int kMaxStages = 8;
// What a block may have on compute capability 9.0.
constexpr int kMaxSharedBytes = 227 * 1024;
// Lines of 128 bytes start at multiples of 1024, which dynamic shared memory need not.
constexpr int kAlignment = 1024;
constexpr int kBarrierBytes = 2 * kMaxStages * sizeof(uint64_t);

// With the 65536 registers of a multiprocessor spread evenly over 384 threads, each would have 168:
// 128 accumulators and too few for the rest. The warpgroup of the copying thread gives up its own.
constexpr int kCopyRegisters = 24;
constexpr int kProductRegisters = 240;

constexpr int64_t RoundUp(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// A chunk's columns in the packed kernel: line 8 j + 2 q + e, which a product gives lane q of each
// quad (kWgmmaAccumulators), holds this one of the chunk.
__host__ __device__ __forceinline__ constexpr int ColumnOfLine(int line) {
  return line / 32 * 32 + line % 8 / 2 * 8 + line / 8 % 4 * 2 + line % 2;
}

// So that accumulator i is of this column of the chunk, kLaneColumns more for each lane before this
// one in its quad, and of the thread's row i / 2 % 2.
constexpr int kLaneColumns = 8;
__host__ __device__ __forceinline__ constexpr int AccumulatorColumn(int i) {
  return i / 16 * 32 + i % 16 / 4 * 2 + i % 2;
}

// This lane's first column of a chunk.
__device__ __forceinline__ int32_t FirstLaneColumn() { return threadIdx.x % 4 * kLaneColumns; }

// Where the columns of this lane have column v, given that the chunk starts at first_v: accumulator
// 4 group + 2 row + is_odd. kPaddingRow and kNoLabel are nowhere.
struct AccumulatorPlace {
  bool is_here;
  bool is_odd;
  uint32_t group;
};
__device__ __forceinline__ AccumulatorPlace PlaceOf(int32_t v, int32_t first_v) {
  const uint32_t offset = static_cast<uint32_t>(v - first_v) - FirstLaneColumn();
  return {offset < kWgmmaColumns && (offset & 24) == 0, (offset & 1) != 0,
          offset / 32 * 4 + (offset & 7) / 2};
}

// How a shape is cut up.
struct JointPlan {
  int warpgroups;  // that multiply; 0 where the shape does not fit
  int stages;
  int depth_blocks;
  int chunks;
  int shared_bytes;
};

inline JointPlan MakePlan(const JointShape& shape) {
  const JointPlan none{0, 0, 0, 0, 0};
  if (shape.N < 1 || shape.T < 1 || shape.U < 1 || shape.H < 1 || shape.V < 1) return none;
  const int64_t depth_blocks = RoundUp(shape.H, kBlockDepth) / kBlockDepth;
  const int64_t chunks = RoundUp(shape.V, kWgmmaColumns) / kWgmmaColumns;
  for (int warpgroups = 2; warpgroups >= 1; --warpgroups) {
    const int64_t fixed_bytes =
        kAlignment + kBarrierBytes + depth_blocks * warpgroups * kWgmmaRows * kBlockLineBytes;
    const int64_t stages =
        std::min<int64_t>(kMaxStages, (kMaxSharedBytes - fixed_bytes) / kSliceBytes);
    if (fixed_bytes <= kMaxSharedBytes && stages >= kMinStages) {
      return JointPlan{warpgroups, static_cast<int>(stages), static_cast<int>(depth_blocks),
                       static_cast<int>(chunks),
                       static_cast<int>(fixed_bytes + stages * kSliceBytes)};
    }
  }
  return none;
}

// What every kernel over tiles takes.
template <typename T>
struct TileInputs {
  JointShape shape;
  Activation activation;
  bool has_granules;  // rows of encoder and predictor are whole granules at aligned addresses
  int stages;
  int depth_blocks;
  int chunks;
  const T* encoder;                    // (N, T, H)
  const T* predictor;                  // (N, U, H)
  const int32_t* labels;               // (N, U)
  const int32_t* frames;               // (N)
  const unsigned char* packed_kernel;  // as JointPack wrote them
  const float* packed_bias;
};

template <typename T>
TileInputs<T> MakeTileInputs(const JointShape& shape, const JointPlan& plan, Activation activation,
                             const T* encoder, const T* predictor, const int32_t* labels,
                             const int32_t* frames, const void* packed_kernel,
                             const float* packed_bias) {
  const bool has_granules =
      shape.H % 8 == 0 && IsGranuleAligned(encoder) && IsGranuleAligned(predictor);
  return {shape,
          activation,
          has_granules,
          plan.stages,
          plan.depth_blocks,
          plan.chunks,
          encoder,
          predictor,
          labels,
          frames,
          static_cast<const unsigned char*>(packed_kernel),
          packed_bias};
}

// ------------------------------------------------------------------------------------------ Tiles

struct Tile {
  int32_t n;
  int32_t first_frame;
  int32_t first_column;
};

// The label of every cell of a column of a tile, kPaddingRow outside the lattice.
template <typename T>
__device__ __forceinline__ int32_t ColumnLabel(const TileInputs<T>& inputs, const Tile& tile,
                                               int column) {
  const int32_t u = tile.first_column + column;
  if (u >= inputs.shape.U) return kPaddingRow;
  const int32_t label = __ldg(inputs.labels + static_cast<int64_t>(tile.n) * inputs.shape.U + u);
  return IsPaddingRow(label, inputs.shape.V) ? kPaddingRow : label;
}

// Frames of sequence n that are not padding, at least 0.
template <typename T>
__device__ __forceinline__ int32_t ReadFrames(const TileInputs<T>& inputs, int32_t n) {
  return max(0, min(__ldg(inputs.frames + n), inputs.shape.T));
}

// Whether a cell of the tile is not padding, as far as this thread's column goes: threads have the
// columns by eights.
template <typename T>
__device__ __forceinline__ bool HasCell(const TileInputs<T>& inputs, const Tile& tile) {
  return tile.first_frame < ReadFrames(inputs, tile.n) &&
         ColumnLabel(inputs, tile, threadIdx.x % kTileColumns) != kPaddingRow;
}

// Which of the lattice's (N, T, U) cells it is.
template <typename T>
__device__ __forceinline__ int64_t CellRow(const TileInputs<T>& inputs, const Tile& tile, int frame,
                                           int column) {
  const int64_t line = static_cast<int64_t>(tile.n) * inputs.shape.T + (tile.first_frame + frame);
  return line * inputs.shape.U + (tile.first_column + column);
}

// ------------------------------------------------------------------------------------ Activations

// 8 elements from `source` on, of which `count` (any number) are in the row; zeros beyond.
template <bool kHasGranules, typename T>
__device__ __forceinline__ uint4 LoadGranule(const T* source, int count) {
  if constexpr (kHasGranules) {
    return count > 0 ? __ldg(reinterpret_cast<const uint4*>(source)) : make_uint4(0, 0, 0, 0);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned short* pair = reinterpret_cast<const unsigned short*>(source) + 2 * i;
      const uint32_t low = 2 * i < count ? __ldg(pair) : 0;
      const uint32_t high = 2 * i + 1 < count ? __ldg(pair + 1) : 0;
      words[i] = low | high << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// The first `count` (any number) elements of a granule to `target`.
template <bool kHasGranules, typename T>
__device__ __forceinline__ void StoreGranule(T* target, int count, const uint4& granule) {
  if constexpr (kHasGranules) {
    if (count > 0) *reinterpret_cast<uint4*>(target) = granule;
  } else {
    const uint32_t words[4] = {granule.x, granule.y, granule.z, granule.w};
    unsigned short* elements = reinterpret_cast<unsigned short*>(target);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) elements[i] = static_cast<unsigned short>(words[i / 2] >> (i % 2 * 16));
    }
  }
}

// A barrier of the threads of one warpgroup of two at most.
__device__ __forceinline__ void SyncWarpgroup(int warpgroup) {
  // Barrier 0 is __syncthreads'. With the number in a register all 16 would count as used.
  if (warpgroup == 0) {
    asm volatile("bar.sync 1, %0;" ::"n"(kWarpgroupThreads) : "memory");
  } else {
    asm volatile("bar.sync 2, %0;" ::"n"(kWarpgroupThreads) : "memory");
  }
}

// Where a tile's activations go besides shared memory.
template <typename T>
struct StoredActivations {
  T* rows = nullptr;  // (cells of the tile, H), zeros for those of padding; null for nowhere
  bool has_granules = false;
};

// The activations of a warpgroup's 64 cells, a block of 64 numbers a cell at a time, into shared
// memory. A thread takes one granule of a line for one column and every other frame. What the next
// block needs is loaded before a block is computed.
template <typename T, bool kIsStored>
class ActivationBlocks {
 public:
  static constexpr int kFrames = kWarpgroupFrames / 2;

  // `lines` are the warpgroup's in the first block; the next one is block_bytes further.
  __device__ __forceinline__ ActivationBlocks(const TileInputs<T>& inputs, const Tile& tile,
                                              int warpgroup, unsigned char* lines, int block_bytes,
                                              const StoredActivations<T>& stored = {})
      : inputs_(inputs), lines_(lines), block_bytes_(block_bytes), warpgroup_(warpgroup) {
    const int thread = threadIdx.x % kWarpgroupThreads;
    chunk_ = thread % kLineGranules;
    const int column = thread / kLineGranules % kTileColumns;
    const int first_frame = thread / (kLineGranules * kTileColumns);
    const int32_t t = tile.first_frame + warpgroup * kWarpgroupFrames + first_frame;
    const int32_t u = tile.first_column + column;
    const int64_t H = inputs.shape.H;
    encoder_ = inputs.encoder + (static_cast<int64_t>(tile.n) * inputs.shape.T + t) * H;
    predictor_ = inputs.predictor + (static_cast<int64_t>(tile.n) * inputs.shape.U + u) * H;
    // Frames 2 apart; those of padding are not read.
    frames_ = (ReadFrames(inputs, tile.n) - t + 1) >> 1;
    // Nor are columns of padding.
    has_column_ = ColumnLabel(inputs, tile, column) != kPaddingRow;
    line_ = first_frame * kTileColumns + column;
    if constexpr (kIsStored) {
      stored_ = stored.rows + (warpgroup * kWgmmaRows + line_) * H + chunk_ * 8;
      stored_has_granules_ = stored.has_granules;
    }
    inputs_.has_granules ? Load<true>(0) : Load<false>(0);
  }

  // The block's activations become visible to the warpgroup's products.
  __device__ __forceinline__ void Compute(int block) {
    Fill(block);
    FenceForAsync();
    SyncWarpgroup(warpgroup_);
  }

 private:
  __device__ __forceinline__ void Fill(int block) {
    uint4 sources[kFrames + 1];
#pragma unroll
    for (int i = 0; i <= kFrames; ++i) sources[i] = next_[i];
    const bool has_next = block + 1 < inputs_.depth_blocks;
    if (has_next && inputs_.has_granules) Load<true>(block + 1);
    Activate(sources, block);
    // Element by element it takes registers that `sources` must have left.
    if (has_next && !inputs_.has_granules) Load<false>(block + 1);
  }

  __device__ __forceinline__ void Activate(uint4 (&sources)[kFrames + 1], int block) const {
    switch (inputs_.activation) {
      case Activation::kNone:
        return Finish<Activation::kNone>(sources, block);
      case Activation::kTanh:
        return Finish<Activation::kTanh>(sources, block);
      case Activation::kRelu:
        return Finish<Activation::kRelu>(sources, block);
      case Activation::kSilu:
        return Finish<Activation::kSilu>(sources, block);
      case Activation::kGelu:
        return Finish<Activation::kGelu>(sources, block);
    }
  }

  // Frames from next_[0] on, then the column.
  template <bool kHasGranules>
  __device__ __forceinline__ void Load(int block) {
    const int h = block * kBlockDepth + chunk_ * 8;
    const int count = inputs_.shape.H - h;
#pragma unroll
    for (int i = 0; i < kFrames; ++i) {
      next_[i] = LoadGranule<kHasGranules>(
          encoder_ + 2 * i * static_cast<int64_t>(inputs_.shape.H) + h, i < frames_ ? count : 0);
    }
    next_[kFrames] = LoadGranule<kHasGranules>(predictor_ + h, has_column_ ? count : 0);
  }

  template <Activation kActivation>
  __device__ __forceinline__ void Finish(uint4 (&sources)[kFrames + 1], int block) const {
    unsigned char* lines = lines_ + static_cast<int64_t>(block) * block_bytes_;
    float predictor[8];
    Granule<T>::Unpack(sources[kFrames], predictor);
// Unrolled, the frames' numbers lie in registers side by side, more than there are.
#pragma unroll 1
    for (int i = 0; i < kFrames; ++i) {
      float values[8];
      Granule<T>::Unpack(sources[0], values);
#pragma unroll
      for (int k = 1; k < kFrames; ++k) sources[k - 1] = sources[k];
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] += predictor[j];
      cuda::Activate<kActivation>(values);
      const uint4 granule = Granule<T>::Pack(values);
      const int line = line_ + 2 * i * kTileColumns;
      reinterpret_cast<uint4*>(
          lines + line * kBlockLineBytes)[SwizzledChunk<kBlockLineBytes>(line, chunk_)] = granule;
      if constexpr (kIsStored) StoreCell(i, block, granule);
    }
  }

  // The granule of the i-th frame to global memory.
  __device__ __forceinline__ void StoreCell(int i, int block, const uint4& granule) const {
    const int count = inputs_.shape.H - block * kBlockDepth - chunk_ * 8;
    T* target = stored_ + 2 * i * kTileColumns * static_cast<int64_t>(inputs_.shape.H) +
                block * kBlockDepth;
    const uint4 kept = has_column_ && i < frames_ ? granule : make_uint4(0, 0, 0, 0);
    stored_has_granules_ ? StoreGranule<true>(target, count, kept)
                         : StoreGranule<false>(target, count, kept);
  }

  const TileInputs<T>& inputs_;
  unsigned char* lines_;
  int block_bytes_;
  int warpgroup_;
  int chunk_;
  int line_;
  int frames_;
  bool has_column_;
  const T* encoder_;
  const T* predictor_;
  uint4 next_[kFrames + 1];
  T* stored_ = nullptr;
  bool stored_has_granules_ = false;
};

// --------------------------------------------------------------------------------------- Products

// The ring of slices in shared memory.
struct SliceRing {
  unsigned char* slices;
  uint64_t* full;   // a stage's slice has arrived
  uint64_t* empty;  // and all warps that read it have done so
  int stages;
};

struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The copying thread: every slice once, in the order in which it lies in memory.
__device__ __forceinline__ void CopySlices(const SliceRing& ring,
                                           const unsigned char* packed_kernel, int64_t slices) {
  RingPosition position;
#pragma unroll 1
  for (int64_t i = 0; i < slices; ++i) {
    // All warps have read what the stage held.
    WaitBarrier(ring.empty + position.stage, position.parity ^ 1);
    uint64_t* full = ring.full + position.stage;
    ArriveExpectBytes(full, kSliceBytes);
    CopyBulk(ring.slices + position.stage * kSliceBytes, packed_kernel + i * kSliceBytes,
             kSliceBytes, full);
    position.Advance(ring.stages);
  }
}

// This warp has read the stage's slice.
__device__ __forceinline__ void ReleaseStage(const SliceRing& ring, int stage) {
  if (threadIdx.x % kWarpSize == 0) Arrive(ring.empty + stage);
}

// A warpgroup's walk along the slices.
template <typename T>
class SliceProducts {
 public:
  __device__ __forceinline__ explicit SliceProducts(const SliceRing& ring)
      : ring_(ring), first_b_(WgmmaStart(ring.slices)) {}

  // logits += the block of activations that starts at `a`, times the next slices. The last product
  // is under way until Finish or the next block.
  __device__ __forceinline__ void AddBlock(uint32_t a, float (&logits)[kWgmmaAccumulators]) {
#pragma unroll
    for (int slice = 0; slice < kSlicesPerBlock; ++slice) {
      WaitBarrier(ring_.full + position_.stage, position_.parity);
      // Lanes may leave the wait apart; the products take whole warps.
      __syncwarp();
      const uint32_t b = first_b_ + position_.stage * (kSliceBytes / 16);
      FenceWgmma();
#pragma unroll
      for (int k = 0; k < kSliceDepth / kWgmmaDepth; ++k) {
        constexpr int kSteps = kSliceDepth / kWgmmaDepth;
        Wgmma<T>(logits,
                 WgmmaDescriptor<kBlockLineBytes>(a + (slice * kSteps + k) * kWgmmaDepthStep),
                 WgmmaDescriptor<kSliceLineBytes>(b + k * kWgmmaDepthStep));
      }
      CommitWgmma();
      WaitForWgmma<1>();
      if (unfinished_ >= 0) ReleaseStage(ring_, unfinished_);
      unfinished_ = position_.stage;
      position_.Advance(ring_.stages);
    }
  }

  __device__ __forceinline__ void Finish(float (&logits)[kWgmmaAccumulators]) {
    WaitForWgmma<0>();
    PinAccumulators(logits);
    ReleaseStage(ring_, unfinished_);
    unfinished_ = -1;
  }

 private:
  const SliceRing& ring_;
  uint32_t first_b_;
  RingPosition position_;
  int unfinished_ = -1;  // the stage that the products under way read
};

// A warpgroup's part of the products. `activations()` is asked once for an object whose
// Compute(block) is called for each block in turn. Each chunk ends with epilogue(first_v, logits),
// called with the thread's logits of columns first_v on, laid out as AccumulatorColumn says, for it
// to do with as it likes. Logits of columns beyond V mean nothing. `lines` are the warpgroup's
// activations, its blocks block_bytes apart.
template <typename T, typename Activations, typename Epilogue>
__device__ __forceinline__ void MultiplySlices(const TileInputs<T>& inputs, const SliceRing& ring,
                                               const unsigned char* lines, int block_bytes,
                                               const Activations& activations, Epilogue& epilogue) {
  const uint32_t first_a = WgmmaStart(lines);
  const uint32_t block_step = block_bytes / 16;
  const float* bias = inputs.packed_bias + 2 * (threadIdx.x % 4);
  SliceProducts<T> products(ring);
  float logits[kWgmmaAccumulators];
#pragma unroll 1
  for (int chunk = 0; chunk < inputs.chunks; ++chunk) {
#pragma unroll
    for (int j = 0; j < kWgmmaColumns / 8; ++j) {
      const float2 pair = __ldg(
          reinterpret_cast<const float2*>(bias + static_cast<int64_t>(chunk) * kWgmmaColumns) +
          4 * j);
      logits[4 * j] = logits[4 * j + 2] = pair.x;
      logits[4 * j + 1] = logits[4 * j + 3] = pair.y;
    }
    PinAccumulators(logits);
    // Two loops: what the activations keep in registers is gone with the first.
    uint32_t a = first_a;
    if (chunk == 0) {
      auto blocks = activations();
#pragma unroll 1
      for (int block = 0; block < inputs.depth_blocks; ++block, a += block_step) {
        blocks.Compute(block);
        products.AddBlock(a, logits);
      }
    } else {
#pragma unroll 1
      for (int block = 0; block < inputs.depth_blocks; ++block, a += block_step) {
        products.AddBlock(a, logits);
      }
    }
    products.Finish(logits);
    epilogue(chunk * kWgmmaColumns, logits);
  }
}

// ------------------------------------------------------------------------------------------ Block

constexpr int JointThreads(int warpgroups) { return (warpgroups + 1) * kWarpgroupThreads; }

// A block of JointThreads(kWarpgroups) threads: kWarpgroups of 64 rows each multiply, one more
// copies. Each of the former calls multiply(ring, warpgroup, lines, block_bytes), in which it goes
// through MultiplySlices once; the latter does nothing else. `shared`, from a multiple of
// kAlignment on: depth_blocks blocks of activations, `stages` slices, then the barriers.
template <typename T, int kWarpgroups, typename Multiply>
__device__ __forceinline__ void RunTile(const TileInputs<T>& inputs, unsigned char* shared,
                                        const Multiply& multiply) {
  constexpr int kBlockBytes = kWarpgroups * kWgmmaRows * kBlockLineBytes;
  unsigned char* lines = shared + (kAlignment - SharedAddress(shared) % kAlignment) % kAlignment;
  unsigned char* slices = lines + inputs.depth_blocks * kBlockBytes;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(slices + inputs.stages * kSliceBytes);
  const SliceRing ring{slices, barriers, barriers + kMaxStages, inputs.stages};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < inputs.stages; ++stage) {
      InitBarrier(ring.full + stage, 1);
      InitBarrier(ring.empty + stage, kWarpgroups * kWarpgroupThreads / kWarpSize);
    }
    FenceBarrierInit();
  }
  // The ring's barriers become visible to all threads.
  __syncthreads();

  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (warpgroup == kWarpgroups) {
    if constexpr (kWarpgroups > 1) ReleaseRegisters<kCopyRegisters>();
    if (threadIdx.x % kWarpgroupThreads == 0) {
      CopySlices(ring, inputs.packed_kernel,
                 static_cast<int64_t>(inputs.chunks) * inputs.depth_blocks * kSlicesPerBlock);
    }
  } else {
    if constexpr (kWarpgroups > 1) TakeRegisters<kProductRegisters>();
    multiply(ring, warpgroup, lines + warpgroup * (kWgmmaRows * kBlockLineBytes), kBlockBytes);
  }
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_TILE_CUH_
