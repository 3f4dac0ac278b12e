// Lists of tiles of lattices. A tile is 16 frames by 8 columns of one sequence's cells, those
// beyond T or U being padding. Number (n * frame_blocks + i) * column_blocks + j is the tile of
// sequence n with frames from 16 i on and columns from 8 j on. Any other number in a list means no
// tile.
#ifndef JAX_RNNT_CUDA_JOINT_LIST_H_
#define JAX_RNNT_CUDA_JOINT_LIST_H_

#include <cstdint>
#include <limits>

#include "cuda/joint/shape.h"

namespace jax_rnnt::cuda {

inline constexpr int kListedFrames = 16;
inline constexpr int kListedColumns = 8;
inline constexpr int kListedCells = kListedFrames * kListedColumns;

struct TileGrid {
  uint32_t numbers;        // of tiles; 0 if they are 2^31 or more
  uint32_t frame_blocks;   // of a sequence
  uint32_t column_blocks;  // of a sequence
};

inline TileGrid MakeTileGrid(const JointShape& shape) {
  const int64_t frame_blocks = (static_cast<int64_t>(shape.T) + kListedFrames - 1) / kListedFrames;
  const int64_t column_blocks =
      (static_cast<int64_t>(shape.U) + kListedColumns - 1) / kListedColumns;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (frame_blocks * column_blocks > kMost / shape.N) return {0, 0, 0};
  return {static_cast<uint32_t>(shape.N * frame_blocks * column_blocks),
          static_cast<uint32_t>(frame_blocks), static_cast<uint32_t>(column_blocks)};
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_LIST_H_
