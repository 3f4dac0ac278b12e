// The label of a row of V logits, as row kernels take it. Row kernels know nothing of lattices: the
// caller, who lays out the rows (padded, packed, tiled), encodes which label a row has, that it has
// none, or that it is padding, in one int32 for each row or, where labels repeat from line to line,
// for each column.
#ifndef JAX_RNNT_CORE_ROW_LABEL_H_
#define JAX_RNNT_CORE_ROW_LABEL_H_

#include <cstdint>

namespace jax_rnnt {

// A label in [0, V) is the row's own. kNoLabel means that only the blank leaves the row (the last
// column of a lattice). Every other value, such as kPaddingRow, makes the row padding, whose logits
// are never read.
inline constexpr int32_t kNoLabel = -1;
inline constexpr int32_t kPaddingRow = -2;

// The labels of rows, in one of two forms:
//   by row, counts null:  labels (rows)
//   by column:            rows are (groups, lines, columns), labels (groups, columns) and
//                         counts (groups); row (g, l, c) is padding if l >= counts[g], otherwise
//                         its label is labels[g, c].
// Any int32 may stand in either array. columns and lines are in [1, 2^31) if there are rows.
struct RowLabels {
  const int32_t* labels = nullptr;
  const int32_t* counts = nullptr;
  int64_t columns = 1;
  int64_t lines = 1;
};

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_ROW_LABEL_H_
