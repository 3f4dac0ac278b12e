// Where a warp of a walk stands: which 32 columns of which sequence, in memory and in shared
// memory.
#ifndef JAX_RNNT_CUDA_LATTICE_WALK_PLACE_CUH_
#define JAX_RNNT_CUDA_LATTICE_WALK_PLACE_CUH_

#include "core/lattice_layout.h"
#include "cuda/lattice/walk_columns.cuh"

namespace jax_rnnt::cuda {

// Steps from a row's first to when its value is complete in all lanes.
template <class Topo>
constexpr int kSkew = Topo::Skewed() ? kWarpSize : 0;

// The steps of rows 0..rows in chunks.
template <class Topo>
__device__ __forceinline__ int CountChunks(int rows) {
  return (rows + kSkew<Topo>) / kChunk + 1;
}

// C: the columns. Arguments: of the kernel, what its warps look at.
template <class C_, class Arguments_>
struct WalkPlace {
  using C = C_;
  using Arguments = Arguments_;
  using Topo = typename C::Topo;
  using Real = typename C::Real;

  // index: which 32 columns of a panel; block_columns: 32 columns of a block. A block that has all
  // columns keeps to what every GPU has, which is as fast there, and which memory checkers follow.
  __device__ WalkPlace(const Arguments& arguments, const LatticeSequence& sequence, bool is_beta,
                       C* all_columns, int index, int block_columns, int lane, bool is_clustered)
      : arguments(arguments),
        sequence(sequence),
        is_beta(is_beta),
        index(index),
        block_columns(block_columns),
        lane(lane),
        is_clustered(is_clustered),
        row_step(static_cast<int>(is_beta ? -sequence.stride : sequence.stride)),
        all_columns(KeptSharedAddress(all_columns)),
        mine(this->all_columns + index % block_columns * static_cast<uint32_t>(sizeof(C)),
             is_clustered),
        slots(mine.Slots() + lane * static_cast<uint32_t>(sizeof(Real))) {}

  __device__ __forceinline__ int Column(int first_column) const {
    return first_column + index * kWarpSize + lane;
  }

  // Where a column's row 0 is among the sequence's cells; beta's is the row behind the last frame.
  __device__ __forceinline__ int64_t FirstCell(int column) const {
    return is_beta ? sequence.first + sequence.frames * sequence.stride +
                         (sequence.columns - 1 - column)
                   : sequence.first + column;
  }

  // The 32 columns of any index in the panel, which may lie in another block.
  __device__ ColumnsAt<C> Neighbour(int other) const {
    const uint32_t place = other % block_columns * static_cast<uint32_t>(sizeof(C));
    return ColumnsAt<C>(AddressIn(other / block_columns, all_columns + place), is_clustered);
  }

  // This block's address as the cluster's block `rank` has it.
  __device__ __forceinline__ uint32_t AddressIn(unsigned rank, uint32_t address) const {
    return is_clustered ? MapToRank(address, rank) : address;
  }

  // The slots of the i-th row from the one whose slots are `slot`.
  __device__ __forceinline__ uint32_t SlotsOf(int slot, int i) const {
    const int own = slot + i - (slot + i >= C::kRing ? C::kRing : 0);
    return slots + own * static_cast<uint32_t>(C::kWords * kWarpSize * sizeof(Real));
  }
  // `slot` of row 0, and of the row a chunk on.
  __device__ __forceinline__ int FirstSlot() const { return Topo::Skewed() ? lane % C::kRing : 0; }
  static __device__ __forceinline__ int NextSlot(int slot) {
    return slot + kChunk - (slot + kChunk >= C::kRing ? C::kRing : 0);
  }

  const Arguments& arguments;
  const LatticeSequence sequence;
  const bool is_beta;
  const int index;
  const int block_columns;
  const int lane;
  const bool is_clustered;
  const int row_step;
  const uint32_t all_columns;
  const ColumnsAt<C> mine;
  const uint32_t slots;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_LATTICE_WALK_PLACE_CUH_
