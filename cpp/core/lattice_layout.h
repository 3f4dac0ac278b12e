// Where the cells of each sequence lie in memory, and which sequences are valid. Shared by host and
// device.
//
// Padded: arcs (N, T, U), cell (t, u) of sequence n at (n T + t) U + u.
// Compact: arcs (groups, S), cell (t, u) at group S + offset_n + t (U_n + 1) + u. A group is one
// packed batch of N sequences; several groups occur under vmap only.
//
// What a forward keeps of each cell for its backward, alphas and betas, is one array of two planes
// for each padded sequence or compact group: (N, 2, T, U), (groups, 2, S). One array of 16 bytes a
// cell is what XLA can put where the logits' gradient comes afterwards, of several only one.
#ifndef JAX_RNNT_CORE_LATTICE_LAYOUT_H_
#define JAX_RNNT_CORE_LATTICE_LAYOUT_H_

#include <cstdint>

#include "core/host_device.h"

namespace jax_rnnt {

// One sequence's cells: (t, u) at first + t * stride + u, 0 <= t < frames, 0 <= u < columns.
struct LatticeSequence {
  bool valid;       // false: the cost is NaN, nothing else is read
  int64_t first;    // index of cell (0, 0)
  int64_t stride;   // cells from one frame to the next
  int32_t frames;   // T_n
  int32_t columns;  // U_n + 1
  int64_t to_kept;  // from a cell's index to its index in what is kept
};

struct LatticeLayout {
  int64_t sequences;              // in all groups together
  int64_t max_frames;             // T; compact: S
  int64_t max_columns;            // U; compact: an upper bound of U_n + 1
  const int32_t* frames_lengths;  // (sequences)
  const int32_t* labels_lengths;  // (sequences)
  // Compact only, else null.
  const int32_t* offsets = nullptr;  // (sequences), from the first cell of their group
  int64_t sequences_per_group = 0;   // N
  int64_t rows_per_group = 0;        // S
  int64_t planes = 1;                // of what is kept

  JAX_RNNT_HOST_DEVICE bool compact() const { return offsets != nullptr; }

  // Cells of a plane.
  JAX_RNNT_HOST_DEVICE int64_t plane() const {
    return compact() ? rows_per_group : max_frames * max_columns;
  }

  // Lengths and offsets may hold any value: a sequence that does not fit into its array is not
  // valid.
  JAX_RNNT_HOST_DEVICE LatticeSequence Sequence(int64_t n) const {
    const int64_t frames = frames_lengths[n];
    const int64_t columns = static_cast<int64_t>(labels_lengths[n]) + 1;
    bool valid = frames >= 1 && frames <= max_frames && columns >= 1 && columns <= max_columns;
    int64_t group = n;
    int64_t first = n * max_frames * max_columns;
    int64_t stride = max_columns;
    if (compact()) {
      const int64_t offset = offsets[n];
      valid = valid && offset >= 0 && offset + frames * columns <= rows_per_group;
      group = n / sequences_per_group;
      first = group * rows_per_group + offset;
      stride = columns;
    }
    return {valid,
            first,
            stride,
            static_cast<int32_t>(frames),
            static_cast<int32_t>(columns),
            (planes - 1) * group * plane()};
  }
};

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_LATTICE_LAYOUT_H_
