// Tiles of a joint network. The two kernels over tiles, JointForward's and JointGradients', compute
// a tile's activations and their products with the kernel,
//
//   x = dropout(activation(encoder[n / K, t] + predictor[n, u])) rounded to T
//   logits = x kernel + bias
//
// and each has an epilogue of its own, which takes the logits from registers. Both exist twice,
// with the two instructions that multiply matrices (target.h): what differs is how a product is
// made.
//
// A tile is 8 columns by 16 frames of one sequence, or by 8 where shared memory does not hold the
// activations of 16; row 8 frame + column of the tile is a cell. The tile's activations stay in
// shared memory while the kernel passes by, 256 columns (a chunk) at a time. Groups of threads have
// 64 cells each. After a chunk's last product its logits are in registers, for the epilogue to use
// up, while other threads keep the tensor cores busy.
//
//   - The kernel's columns are packed in an order in which a thread's logits are runs of eight
//     neighbours (ColumnOfLine): 16 bytes of T.
//
// wgmma (9.0): a group is a warpgroup. Slices of kSliceDepth rows of the kernel pass a ring of
// stages in shared memory, to which one thread copies them; a warpgroup may be as many slices ahead
// or behind as there are stages.
//   - The products of the first chunk are interleaved with the activations that they need, which
//     are bound by the special function unit: either hides the other.
//   - Columns behind the last whole chunk pass in narrow chunks of 32, whose slices are deeper.
//   - Loads: 128 cells take 2 V H bytes of the kernel from the second-level cache. Two blocks in a
//     cluster, each copying half of every slice to both, halve that traffic and made the forward
//     0.1 % faster for (N, T, U, H, V) = (32, 400, 100, 640, 1024) and 2 % for
//     (16, 400, 100, 640, 4096) (H100): too little for what they add. Each block copies for itself.
// mma.sync (8.0 and up): a group is eight warps, each of which multiplies all cells of the group
// with its own 32 columns of every chunk, straight from registers (mma/products.cuh).
//
// In this room:
//   shape.h, target.h, plan.h     a joint network's sizes, the GPU's kind, how the one is cut for
//   the
//                                 other
//   inputs.h                      the network's inputs, and what dropout is
//   tile.cuh                      the inputs of a kernel over tiles; the cells of a tile
//   activation_blocks.cuh         the activations, computed into shared memory
//   columns.cuh                   which logits a thread has where
//   forward.cu, forward_tiles.cuh, entries_epilogue.cuh      the forward, whatever the instruction
//   gradients.cu, gradient_rows.cuh, gradient_epilogue.cuh   the gradients, likewise
//   pack.cu, launch_pack.h        the kernel and bias in the order in which products take them
//   wgmma/, mma/                  in each: the instruction, products.cuh, and the three kernels
//   launch_blocks.cuh             how these are enqueued
//   list.h                        lists of tiles
//   hidden.cu, add_blocks.cu      what the backward does with a list's tiles, on any GPU
//   activation.cuh, dropout.cuh   activations and their derivatives, dropout
#ifndef JAX_RNNT_CUDA_JOINT_TILE_CUH_
#define JAX_RNNT_CUDA_JOINT_TILE_CUH_

#include <cstdint>

#include "core/row_label.h"
#include "cuda/joint/columns.cuh"
#include "cuda/joint/dropout.cuh"
#include "cuda/joint/inputs.h"
#include "cuda/joint/plan.h"
#include "cuda/joint/shape.h"
#include "cuda/memory/granule.cuh"
#include "cuda/memory/lanes.cuh"
#include "cuda/rows/row_labels.cuh"

namespace jax_rnnt::cuda {

// The inputs that both kernels over tiles take.
template <typename T>
struct TileInputs {
  JointShape shape;
  Activation activation;
  bool has_granules;  // rows of encoder and predictor are whole granules at aligned addresses
  JointPlan plan;
  const T* encoder;       // (N / K, T, H)
  const T* predictor;     // (N, U, H)
  const int32_t* labels;  // (N, U)
  const int32_t* frames;  // (N)
  DropoutArguments dropout;
  const unsigned char* packed_kernel;  // as JointPack wrote them
  const float* packed_bias;
};

template <typename T>
TileInputs<T> MakeTileInputs(const JointShape& shape, const JointPlan& plan, Activation activation,
                             const JointInputs<T>& inputs, const JointPacked& packed) {
  const bool has_granules =
      shape.H % 8 == 0 && IsGranuleAligned(inputs.encoder) && IsGranuleAligned(inputs.predictor);
  return {shape,
          activation,
          has_granules,
          plan,
          inputs.encoder,
          inputs.predictor,
          inputs.labels,
          inputs.frames,
          MakeDropoutArguments(inputs.dropout),
          static_cast<const unsigned char*>(packed.kernel),
          packed.bias};
}

struct Tile {
  int32_t n;
  int32_t first_frame;
  int32_t first_column;
};

// The label of the cells in a column of a tile; kPaddingRow outside the lattice.
template <typename T>
__device__ __forceinline__ int32_t ColumnLabel(const TileInputs<T>& inputs, const Tile& tile,
                                               int column) {
  const int32_t u = tile.first_column + column;
  if (u >= inputs.shape.U) return kPaddingRow;
  const int32_t label = __ldg(inputs.labels + static_cast<int64_t>(tile.n) * inputs.shape.U + u);
  return IsPaddingRow(label, inputs.shape.V) ? kPaddingRow : label;
}

// The number of frames of sequence n that are not padding, at least 0.
template <typename T>
__device__ __forceinline__ int32_t ReadFrames(const TileInputs<T>& inputs, int32_t n) {
  return max(0, min(__ldg(inputs.frames + n), inputs.shape.T));
}

// Whether this thread's column has a cell in the tile that is not padding. Any eight neighbouring
// threads have all columns among them.
template <typename T>
__device__ __forceinline__ bool HasCell(const TileInputs<T>& inputs, const Tile& tile) {
  return tile.first_frame < ReadFrames(inputs, tile.n) &&
         ColumnLabel(inputs, tile, threadIdx.x % kTileColumns) != kPaddingRow;
}

// The index of a cell of the tile among the lattice's (N, T, U).
template <typename T>
__device__ __forceinline__ int64_t CellRow(const TileInputs<T>& inputs, const Tile& tile, int frame,
                                           int column) {
  const int64_t line = static_cast<int64_t>(tile.n) * inputs.shape.T + (tile.first_frame + frame);
  return line * inputs.shape.U + (tile.first_column + column);
}

// A thread's two cells, of one column and neighbouring frames.
struct CellPair {
  int64_t first;   // its index among (N, T, U); the other one's is U more
  int32_t stored;  // how many are in the lattice's array: up to 2, or less than 1
  int32_t real;    // how many are not padding, likewise
};

// The thread's number, read anew: what is derived from it need not stay in registers.
__device__ __forceinline__ int ReadThread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// The column of the tile whose logits a thread's accumulators are.
__device__ __forceinline__ int AccumulatorCellColumn(int thread) { return thread % kWarpSize / 4; }

// The cells of a thread's accumulators, `label` being the label of its column and `frame` the
// tile's first frame of the two. Found anew where it is needed, as registers are few.
template <typename T>
__device__ __forceinline__ CellPair FindCells(const TileInputs<T>& inputs, const Tile& tile,
                                              int frame, int32_t label) {
  const int column = AccumulatorCellColumn(ReadThread());
  const int32_t t = tile.first_frame + frame;
  return {CellRow(inputs, tile, frame, column),
          tile.first_column + column < inputs.shape.U ? inputs.shape.T - t : 0,
          label == kPaddingRow ? 0 : ReadFrames(inputs, tile.n) - t};
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_TILE_CUH_
