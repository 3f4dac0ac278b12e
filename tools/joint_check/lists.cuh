// Lists of tiles in any order, and arrays that tell when something else was written.
#ifndef JAX_RNNT_TOOLS_JOINT_CHECK_LISTS_CUH_
#define JAX_RNNT_TOOLS_JOINT_CHECK_LISTS_CUH_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../device_array.h"
#include "cuda/joint/list.h"
#include "problems.cuh"

namespace jax_rnnt::joint_check {

// An array between two runs of poison, which must be there afterwards.
template <typename T>
class GuardedArray {
 public:
  explicit GuardedArray(int64_t count, int shift = 0)
      : first_(kGuard + shift), count_(count), all_(count + 2 * kGuard) {
    Check(cudaMemset(all_.get(), kPoison, all_.size() * sizeof(T)), "poison");
  }
  T* get() const { return all_.get() + first_; }
  std::vector<T> ToHost() const { return all_.ToHost(first_, count_); }
  bool IsIntact() const {
    return IsPoison(all_.ToHost(0, first_)) &&
           IsPoison(all_.ToHost(first_ + count_, all_.size() - first_ - count_));
  }

 private:
  static constexpr int kGuard = 256;
  static constexpr int kPoison = 0x7b;
  static bool IsPoison(const std::vector<T>& values) {
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values.data());
    return std::all_of(bytes, bytes + values.size() * sizeof(T),
                       [](unsigned char byte) { return byte == kPoison; });
  }

  int64_t first_;
  int64_t count_;
  DeviceArray<T> all_;
};

// Tiles of the shape in any order, some of them missing.
inline std::vector<int32_t> RandomTiles(const JointShape& shape) {
  const int32_t numbers = static_cast<int32_t>(cuda::MakeTileGrid(shape).numbers);
  std::vector<int32_t> tiles(numbers);
  for (int32_t i = 0; i < numbers; ++i) tiles[i] = i;
  std::shuffle(tiles.begin(), tiles.end(), generator);
  for (int32_t none : {numbers, numbers + 3, std::numeric_limits<int32_t>::max(), -1,
                       std::numeric_limits<int32_t>::min()}) {
    tiles.insert(tiles.begin() + generator() % (tiles.size() + 1), none);
  }
  return tiles;
}

struct CellOfList {
  bool is_tile;
  int64_t n, t, u;
};

// Cell `row` of a tile.
__host__ __device__ inline CellOfList FindCell(const cuda::TileGrid& grid, int32_t number,
                                               int row) {
  if (number < 0 || number >= static_cast<int64_t>(grid.numbers)) return {false, 0, 0, 0};
  const int64_t block = number / grid.column_blocks;
  return {true, block / grid.frame_blocks, block % grid.frame_blocks * 16 + row / 8,
          static_cast<int64_t>(number % grid.column_blocks) * 8 + row % 8};
}

}  // namespace jax_rnnt::joint_check

#endif  // JAX_RNNT_TOOLS_JOINT_CHECK_LISTS_CUH_
