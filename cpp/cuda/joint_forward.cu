// Forward of the joint network and the log-softmax behind it. For every cell (n, t, u) that is not
// padding, with x = activation(encoder[n, t] + predictor[n, u]) of H numbers rounded to T:
//
//   logit_v        = sum_h x_h kernel[h, v] + bias_v
//   maximum        = max_v logit_v
//   log_sum        = log sum_v exp(logit_v - maximum)
//   blank_log_prob = (logit_blank - maximum) - log_sum
//   label_log_prob = (logit_label - maximum) - log_sum
//
// Pointers (T is __nv_bfloat16 or __half):
//   encoder (N, T, H)    predictor (N, U, H)    kernel (H, V)    bias (V) or null, of T
//   labels (N, U), frames (N) of int32
//   packed_kernel (V chunks, H slices, 256, kSliceDepth) of T, packed_bias (V chunks, 256) of float
//   blank_log_probs, label_log_probs, maxima, log_sums (N, T, U) of float
//
// A block takes a tile of cells, 8 columns by 16 frames, or by 8 where H is above 704. The tile's
// activations stay in shared memory while the kernel passes by, 256 columns (a chunk) at a time in
// slices of kSliceDepth rows, which one thread copies to a ring of stages. Each warpgroup
// multiplies its 64 cells with every slice; after a chunk's last slice its 64 x 256 logits are in
// registers, where they add to the running maxima and sums and are forgotten. Meanwhile the other
// warpgroup keeps the tensor cores busy: it may be as many slices ahead or behind as there are
// stages.
//
//   - The products of the first chunk are interleaved with the activations they need, which are
//     bound by the special function unit: either hides the other.
//   - Loads: 128 cells take 2 V H bytes of the kernel from the second-level cache. Two blocks in a
//     cluster, each copying half of every slice to both, halve that traffic and took 0.1 % less
//     time for (N, T, U, H, V) = (32, 400, 100, 640, 1024), 2 % less for (16, 400, 100, 640, 4096)
//     (H100): too little for what it adds. Each block copies for itself.
//   - Two rows of a thread's accumulators are two frames of one column: they share their label.
//   - A block per tile, not one per multiprocessor: lengths differ, tiles of padding leave at once,
//     and the hardware hands out the rest. The price is the start of each tile, whose first loads
//     nothing hides.
//   - Nothing is atomic and no order varies: the same inputs give the same bits.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/row_label.h"
#include "cuda/activation.cuh"
#include "cuda/bulk_copy.cuh"
#include "cuda/granule.cuh"
#include "cuda/joint_forward.h"
#include "cuda/row_sums.cuh"
#include "cuda/wgmma.cuh"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "This file is for compute capability 9.0 alone: compile it for sm_90a."
#endif

namespace jax_rnnt::cuda {
namespace {

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

// How a shape is cut up.
struct JointPlan {
  int warpgroups;  // that multiply; 0 where the shape does not fit
  int stages;
  int depth_blocks;
  int chunks;
  int shared_bytes;
};

JointPlan MakePlan(const JointShape& shape) {
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

template <typename T>
struct JointArguments {
  JointShape shape;
  Activation activation;
  int32_t blank;
  bool has_granules;  // rows of encoder and predictor are whole granules at aligned addresses
  int stages;
  int depth_blocks;
  int chunks;
  uint32_t frame_tiles;   // of a sequence
  uint32_t column_tiles;  // of a sequence
  const T* encoder;
  const T* predictor;
  const int32_t* labels;
  const int32_t* frames;
  const unsigned char* packed_kernel;
  const float* packed_bias;
  RowResults<float> results;
};

// ---------------------------------------------------------------------------------------- Packing

// A block per slice of a chunk, a thread per column: kernel rows are read along V, and each column
// becomes a line, swizzled as the products want it. Zeros beyond H and V.
template <typename T>
__global__ void __launch_bounds__(kWgmmaColumns)
    PackKernel(const T* __restrict__ kernel, const T* __restrict__ bias, int32_t H, int32_t V,
               unsigned char* __restrict__ packed_kernel, float* __restrict__ packed_bias) {
  const int slices = gridDim.x;
  const int slice = blockIdx.x;
  const int line = threadIdx.x;
  const int64_t v = static_cast<int64_t>(blockIdx.y) * kWgmmaColumns + line;
  unsigned char* target =
      packed_kernel + ((static_cast<int64_t>(blockIdx.y) * slices + slice) * kWgmmaColumns + line) *
                          kSliceLineBytes;
#pragma unroll
  for (int chunk = 0; chunk < kSliceLineBytes / kGranuleBytes; ++chunk) {
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t h = static_cast<int64_t>(slice) * kSliceDepth + chunk * 8 + i;
      values[i] = h < H && v < V ? ToAccumulator(kernel[h * V + v]) : 0.f;
    }
    reinterpret_cast<uint4*>(target)[SwizzledChunk<kSliceLineBytes>(line, chunk)] =
        Granule<T>::Pack(values);
  }
  if (slice == 0) {
    packed_bias[v] = v >= V            ? kMinusInfinity<float>
                     : bias == nullptr ? 0.f
                                       : ToAccumulator(bias[v]);
  }
}

// ------------------------------------------------------------------------------------------ Tiles

struct Tile {
  int32_t n;
  int32_t first_frame;
  int32_t first_column;
};

template <int kTileFrames, typename T>
__device__ __forceinline__ Tile TileAt(uint32_t index, const JointArguments<T>& arguments) {
  const uint32_t line = index / arguments.frame_tiles;
  const uint32_t n = line / arguments.column_tiles;
  return {static_cast<int32_t>(n),
          static_cast<int32_t>((index - line * arguments.frame_tiles) * kTileFrames),
          static_cast<int32_t>((line - n * arguments.column_tiles) * kTileColumns)};
}

// The label of every cell of a column of a tile, kPaddingRow outside the lattice.
template <typename T>
__device__ __forceinline__ int32_t ColumnLabel(const JointArguments<T>& arguments, const Tile& tile,
                                               int column) {
  const int32_t u = tile.first_column + column;
  if (u >= arguments.shape.U) return kPaddingRow;
  const int32_t label =
      __ldg(arguments.labels + static_cast<int64_t>(tile.n) * arguments.shape.U + u);
  return IsPaddingRow(label, arguments.shape.V) ? kPaddingRow : label;
}

// Frames of sequence n that are not padding, at least 0.
template <typename T>
__device__ __forceinline__ int32_t ReadFrames(const JointArguments<T>& arguments, int32_t n) {
  return max(0, min(__ldg(arguments.frames + n), arguments.shape.T));
}

template <typename T>
__device__ __forceinline__ int64_t CellRow(const JointArguments<T>& arguments, const Tile& tile,
                                           int frame, int column) {
  const int64_t line =
      static_cast<int64_t>(tile.n) * arguments.shape.T + (tile.first_frame + frame);
  return line * arguments.shape.U + (tile.first_column + column);
}

template <int kTileFrames, typename T>
__device__ __forceinline__ void StorePaddingTile(const JointArguments<T>& arguments,
                                                 const Tile& tile) {
  const int column = threadIdx.x % kTileColumns;
  const int frame = threadIdx.x / kTileColumns;
  if (frame < kTileFrames && tile.first_frame + frame < arguments.shape.T &&
      tile.first_column + column < arguments.shape.U) {
    StorePaddingRow(arguments.results, CellRow(arguments, tile, frame, column));
  }
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

// A barrier of the threads of one warpgroup of two at most.
__device__ __forceinline__ void SyncWarpgroup(int warpgroup) {
  // Barrier 0 is __syncthreads'. With the number in a register all 16 would count as used.
  if (warpgroup == 0) {
    asm volatile("bar.sync 1, %0;" ::"n"(kWarpgroupThreads) : "memory");
  } else {
    asm volatile("bar.sync 2, %0;" ::"n"(kWarpgroupThreads) : "memory");
  }
}

// The activations of a warpgroup's 64 cells, a block of 64 numbers a cell at a time, into shared
// memory. A thread takes one granule of a line for one column and every other frame. What the next
// block needs is loaded before a block is computed.
template <typename T>
class ActivationBlocks {
 public:
  static constexpr int kFrames = kWarpgroupFrames / 2;

  // `lines` are the warpgroup's in the first block; the next one is block_bytes further.
  __device__ __forceinline__ ActivationBlocks(const JointArguments<T>& arguments, const Tile& tile,
                                              int warpgroup, unsigned char* lines, int block_bytes)
      : arguments_(arguments), lines_(lines), block_bytes_(block_bytes), warpgroup_(warpgroup) {
    const int thread = threadIdx.x % kWarpgroupThreads;
    chunk_ = thread % kLineGranules;
    const int column = thread / kLineGranules % kTileColumns;
    const int first_frame = thread / (kLineGranules * kTileColumns);
    const int32_t t = tile.first_frame + warpgroup * kWarpgroupFrames + first_frame;
    const int32_t u = tile.first_column + column;
    const int64_t H = arguments.shape.H;
    encoder_ = arguments.encoder + (static_cast<int64_t>(tile.n) * arguments.shape.T + t) * H;
    predictor_ = arguments.predictor + (static_cast<int64_t>(tile.n) * arguments.shape.U + u) * H;
    // Frames 2 apart; those of padding are not read.
    frames_ = (ReadFrames(arguments, tile.n) - t + 1) >> 1;
    has_column_ = u < arguments.shape.U;
    line_ = first_frame * kTileColumns + column;
    arguments_.has_granules ? Load<true>(0) : Load<false>(0);
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
    const bool has_next = block + 1 < arguments_.depth_blocks;
    if (has_next && arguments_.has_granules) Load<true>(block + 1);
    Activate(sources, block);
    // Element by element it takes registers that `sources` must have left.
    if (has_next && !arguments_.has_granules) Load<false>(block + 1);
  }

  __device__ __forceinline__ void Activate(uint4 (&sources)[kFrames + 1], int block) const {
    unsigned char* lines = lines_ + static_cast<int64_t>(block) * block_bytes_;
    switch (arguments_.activation) {
      case Activation::kNone:
        return Store<Activation::kNone>(sources, lines);
      case Activation::kTanh:
        return Store<Activation::kTanh>(sources, lines);
      case Activation::kRelu:
        return Store<Activation::kRelu>(sources, lines);
      case Activation::kSilu:
        return Store<Activation::kSilu>(sources, lines);
      case Activation::kGelu:
        return Store<Activation::kGelu>(sources, lines);
    }
  }

  // Frames from next_[0] on, then the column.
  template <bool kHasGranules>
  __device__ __forceinline__ void Load(int block) {
    const int h = block * kBlockDepth + chunk_ * 8;
    const int count = arguments_.shape.H - h;
#pragma unroll
    for (int i = 0; i < kFrames; ++i) {
      next_[i] = LoadGranule<kHasGranules>(
          encoder_ + 2 * i * static_cast<int64_t>(arguments_.shape.H) + h, i < frames_ ? count : 0);
    }
    next_[kFrames] = LoadGranule<kHasGranules>(predictor_ + h, has_column_ ? count : 0);
  }

  template <Activation kActivation>
  __device__ __forceinline__ void Store(uint4 (&sources)[kFrames + 1], unsigned char* lines) const {
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
      const int line = line_ + 2 * i * kTileColumns;
      reinterpret_cast<uint4*>(
          lines + line * kBlockLineBytes)[SwizzledChunk<kBlockLineBytes>(line, chunk_)] =
          Granule<T>::Pack(values);
    }
  }

  const JointArguments<T>& arguments_;
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
  if (threadIdx.x % kWarpLanes == 0) Arrive(ring.empty + stage);
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
// called with the thread's logits of columns first_v on, laid out as kWgmmaAccumulators says, for
// it to do with as it likes. Logits of columns beyond V mean nothing. `lines` are the warpgroup's
// activations.
template <typename T, typename Activations, typename Epilogue>
__device__ __forceinline__ void MultiplySlices(const SliceRing& ring, const unsigned char* lines,
                                               int block_bytes, const float* packed_bias,
                                               int depth_blocks, int chunks,
                                               const Activations& activations, Epilogue& epilogue) {
  const uint32_t first_a = WgmmaStart(lines);
  const uint32_t block_step = block_bytes / 16;
  const float* bias = packed_bias + 2 * (threadIdx.x % 4);
  SliceProducts<T> products(ring);
  float logits[kWgmmaAccumulators];
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
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
      for (int block = 0; block < depth_blocks; ++block, a += block_step) {
        blocks.Compute(block);
        products.AddBlock(a, logits);
      }
    } else {
#pragma unroll 1
      for (int block = 0; block < depth_blocks; ++block, a += block_step) {
        products.AddBlock(a, logits);
      }
    }
    products.Finish(logits);
    epilogue(chunk * kWgmmaColumns, logits);
  }
}

// --------------------------------------------------------------------------------------- Epilogue

// The log-softmax of a thread's two rows, over the columns whose logits the thread has; a quad has
// all of them.
class LogSoftmaxEpilogue {
 public:
  // `label` is both rows'; kPaddingRow and kNoLabel match no column.
  __device__ __forceinline__ LogSoftmaxEpilogue(int32_t V, int32_t blank, int32_t label)
      : V_(V), blank_(blank), label_(label) {}

  __device__ __forceinline__ void operator()(int32_t first_v, float (&logits)[kWgmmaAccumulators]) {
    const int32_t left = V_ - first_v - 2 * static_cast<int32_t>(threadIdx.x % 4);
    if (V_ - first_v < kWgmmaColumns) {
#pragma unroll
      for (int i = 0; i < kWgmmaAccumulators; ++i) {
        if (i / 4 * 8 + i % 2 >= left) logits[i] = kMinusInfinity<float>;
      }
    }
    Pick(blank_, first_v, logits, blank_logits_);
    Pick(label_, first_v, logits, label_logits_);
    Add<0>(logits);
    Add<1>(logits);
  }

  // Row `row` of the thread's two, merged over the quad, in all of its lanes.
  __device__ __forceinline__ PartialRow Merge(int row) const {
    PartialRow merged;
    const PartialRow part = parts_[row];
    merged.maximum = MaxOverLanes<4>(part.maximum);
    merged.sum = SumOverLanes<4>(part.sum * RescaleFactor(part.maximum, merged.maximum));
    return merged;
  }
  // A NaN may be lost here, but not from the sum.
  __device__ __forceinline__ float BlankLogit(int row) const {
    return MaxOverLanes<4>(blank_logits_[row]);
  }
  __device__ __forceinline__ float LabelLogit(int row) const {
    return MaxOverLanes<4>(label_logits_[row]);
  }

 private:
  // Keeps the logits of column v if the thread has it.
  static __device__ __forceinline__ void Pick(int32_t v, int32_t first_v,
                                              const float (&logits)[kWgmmaAccumulators],
                                              float (&picked)[2]) {
    const uint32_t offset = static_cast<uint32_t>(v - first_v) - 2 * (threadIdx.x % 4);
    if (offset >= kWgmmaColumns || (offset & 6) != 0) return;
    const uint32_t group = offset / 8;
    const bool is_odd = (offset & 1) != 0;
#pragma unroll
    for (int j = 0; j < kWgmmaColumns / 8; ++j) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float logit = is_odd ? logits[4 * j + 2 * row + 1] : logits[4 * j + 2 * row];
        picked[row] = group == j ? logit : picked[row];
      }
    }
  }

  template <int kRow>
  __device__ __forceinline__ void Add(float (&logits)[kWgmmaAccumulators]) {
    PartialRow& part = parts_[kRow];
    float maxima[2] = {part.maximum, kMinusInfinity<float>};
#pragma unroll
    for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
      maxima[0] = fmaxf(maxima[0], logits[i]);
      maxima[1] = fmaxf(maxima[1], logits[i + 1]);
    }
    const float maximum = fmaxf(maxima[0], maxima[1]);
    const float reference = ExponentReference(maximum);
    const ScaledMaximum scaled = ScaleForSum(reference);
    if (IsLargeMaximum(reference)) {
#pragma unroll
      for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
        logits[i] -= reference;
        logits[i + 1] -= reference;
      }
    }
    float sums[2] = {0.f, 0.f};
#pragma unroll
    for (int i = 2 * kRow; i < kWgmmaAccumulators; i += 4) {
      sums[0] += ScaledExp(logits[i], scaled.scaled);
      sums[1] += ScaledExp(logits[i + 1], scaled.scaled);
    }
    part.sum = fmaf(part.sum, RescaleFactor(part.maximum, maximum),
                    (sums[0] + sums[1]) * Exp2(-scaled.residual));
    part.maximum = maximum;
  }

  int32_t V_;
  int32_t blank_;
  int32_t label_;
  PartialRow parts_[2];
  float blank_logits_[2] = {kMinusInfinity<float>, kMinusInfinity<float>};
  float label_logits_[2] = {kMinusInfinity<float>, kMinusInfinity<float>};
};

// ----------------------------------------------------------------------------------------- Kernel

constexpr int JointThreads(int warpgroups) { return (warpgroups + 1) * kWarpgroupThreads; }

// A tile's row is a cell: row 8 t + u of frame t and column u of the tile. kWarpgroups of 64 rows
// each multiply, one more copies. Dynamic shared memory, from a multiple of kAlignment on:
// depth_blocks blocks of activations, `stages` slices, then the barriers.
template <typename T, int kWarpgroups>
__global__ void __launch_bounds__(JointThreads(kWarpgroups), 1)
    JointForwardKernel(const __grid_constant__ JointArguments<T> arguments) {
  constexpr int kTileFrames = kWarpgroups * kWarpgroupFrames;
  constexpr int kBlockBytes = kWarpgroups * kWgmmaRows * kBlockLineBytes;
  extern __shared__ unsigned char shared[];
  const Tile tile = TileAt<kTileFrames>(blockIdx.x, arguments);
  // Each thread asks for one column. The answers of all reach all threads.
  const bool has_cell = tile.first_frame < ReadFrames(arguments, tile.n) &&
                        ColumnLabel(arguments, tile, threadIdx.x % kTileColumns) != kPaddingRow;
  if (!__syncthreads_or(has_cell)) {
    StorePaddingTile<kTileFrames>(arguments, tile);
    return;
  }

  unsigned char* lines = shared + (kAlignment - SharedAddress(shared) % kAlignment) % kAlignment;
  unsigned char* slices = lines + arguments.depth_blocks * kBlockBytes;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(slices + arguments.stages * kSliceBytes);
  const SliceRing ring{slices, barriers, barriers + kMaxStages, arguments.stages};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < arguments.stages; ++stage) {
      InitBarrier(ring.full + stage, 1);
      InitBarrier(ring.empty + stage, kWarpgroups * kWarpgroupThreads / kWarpLanes);
    }
    FenceBarrierInit();
  }
  // The ring's barriers become visible to all threads.
  __syncthreads();

  const int warpgroup = threadIdx.x / kWarpgroupThreads;
  if (warpgroup == kWarpgroups) {
    if constexpr (kWarpgroups > 1) ReleaseRegisters<kCopyRegisters>();
    if (threadIdx.x % kWarpgroupThreads == 0) {
      CopySlices(ring, arguments.packed_kernel,
                 static_cast<int64_t>(arguments.chunks) * arguments.depth_blocks * kSlicesPerBlock);
    }
  } else {
    if constexpr (kWarpgroups > 1) TakeRegisters<kProductRegisters>();
    unsigned char* warpgroup_lines = lines + warpgroup * (kWgmmaRows * kBlockLineBytes);
    // A quad has two rows; its first two lanes store one each.
    const int row = threadIdx.x % 4;
    const int frame = threadIdx.x / kWarpLanes * 2 + row;
    const int column = threadIdx.x % kWarpLanes / 4;
    const int64_t cell = CellRow(arguments, tile, frame, column);
    const int32_t label = ColumnLabel(arguments, tile, column);
    const bool is_stored = row < 2 && tile.first_frame + frame < arguments.shape.T &&
                           tile.first_column + column < arguments.shape.U;
    const bool is_padding =
        label == kPaddingRow || tile.first_frame + frame >= ReadFrames(arguments, tile.n);

    const auto activations = [&] {
      return ActivationBlocks<T>(arguments, tile, warpgroup, warpgroup_lines, kBlockBytes);
    };
    LogSoftmaxEpilogue epilogue(arguments.shape.V, arguments.blank, label);
    MultiplySlices<T>(ring, warpgroup_lines, kBlockBytes, arguments.packed_bias,
                      arguments.depth_blocks, arguments.chunks, activations, epilogue);

    const PartialRow parts[2] = {epilogue.Merge(0), epilogue.Merge(1)};
    const float blank_logits[2] = {epilogue.BlankLogit(0), epilogue.BlankLogit(1)};
    const float label_logits[2] = {epilogue.LabelLogit(0), epilogue.LabelLogit(1)};
    if (!is_stored) return;
    if (is_padding) {
      StorePaddingRow(arguments.results, cell);
    } else {
      StoreRow(arguments.results, cell,
               ExponentReference(row == 0 ? parts[0].maximum : parts[1].maximum),
               row == 0 ? parts[0].sum : parts[1].sum, 0.f,
               row == 0 ? blank_logits[0] : blank_logits[1],
               row == 0 ? label_logits[0] : label_logits[1], label);
    }
  }
}

template <typename T, int kWarpgroups>
cudaError_t LaunchTiles(cudaStream_t stream, const JointPlan& plan, JointArguments<T> arguments) {
  constexpr int64_t kTileFrames = kWarpgroups * kWarpgroupFrames;
  const int64_t frame_tiles = RoundUp(arguments.shape.T, kTileFrames) / kTileFrames;
  const int64_t column_tiles = RoundUp(arguments.shape.U, kTileColumns) / kTileColumns;
  constexpr int64_t kMaxTiles = std::numeric_limits<int32_t>::max();
  if (frame_tiles * column_tiles > kMaxTiles / arguments.shape.N) return cudaErrorInvalidValue;
  const int64_t tiles = arguments.shape.N * frame_tiles * column_tiles;
  arguments.frame_tiles = static_cast<uint32_t>(frame_tiles);
  arguments.column_tiles = static_cast<uint32_t>(column_tiles);
  const auto kernel = JointForwardKernel<T, kWarpgroups>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<unsigned int>(tiles), JointThreads(kWarpgroups), plan.shared_bytes,
           stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace

bool JointForwardFits(const JointShape& shape) { return MakePlan(shape).warpgroups > 0; }

int JointForwardSharedBytes(const JointShape& shape) { return MakePlan(shape).shared_bytes; }

JointForwardScratch JointForwardScratchBytes(const JointShape& shape) {
  const int64_t lines = RoundUp(shape.V, kWgmmaColumns);
  return {lines * RoundUp(shape.H, kBlockDepth) * 2, lines * static_cast<int64_t>(sizeof(float))};
}

template <typename T>
cudaError_t LaunchJointForward(cudaStream_t stream, const JointShape& shape, Activation activation,
                               int32_t blank, const T* encoder, const T* predictor, const T* kernel,
                               const T* bias, const int32_t* labels, const int32_t* frames,
                               void* packed_kernel, float* packed_bias, float* blank_log_probs,
                               float* label_log_probs, float* maxima, float* log_sums) {
  const JointPlan plan = MakePlan(shape);
  // Chunks are the pack grid's second dimension.
  constexpr int kMaxChunks = 65535;
  if (plan.warpgroups == 0 || plan.chunks > kMaxChunks || blank < 0 || blank >= shape.V) {
    return cudaErrorInvalidValue;
  }
  unsigned char* packed = static_cast<unsigned char*>(packed_kernel);
  PackKernel<T>
      <<<dim3(plan.depth_blocks * kSlicesPerBlock, plan.chunks), kWgmmaColumns, 0, stream>>>(
          kernel, bias, shape.H, shape.V, packed, packed_bias);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  const bool has_granules =
      shape.H % 8 == 0 && IsGranuleAligned(encoder) && IsGranuleAligned(predictor);
  const JointArguments<T> arguments{
      shape,       activation,
      blank,       has_granules,
      plan.stages, plan.depth_blocks,
      plan.chunks, 0,
      0,           encoder,
      predictor,   labels,
      frames,      packed,
      packed_bias, {blank_log_probs, label_log_probs, maxima, log_sums}};
  return plan.warpgroups == 2 ? LaunchTiles<T, 2>(stream, plan, arguments)
                              : LaunchTiles<T, 1>(stream, plan, arguments);
}

#define JAX_RNNT_INSTANTIATE(T)                                                           \
  template cudaError_t LaunchJointForward<T>(                                             \
      cudaStream_t, const JointShape&, Activation, int32_t, const T*, const T*, const T*, \
      const T*, const int32_t*, const int32_t*, void*, float*, float*, float*, float*, float*)
JAX_RNNT_INSTANTIATE(__nv_bfloat16);
JAX_RNNT_INSTANTIATE(__half);
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
