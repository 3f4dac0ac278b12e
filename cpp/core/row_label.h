// How a row of V logits says which label leaves it. Rows know nothing of lattices: whoever makes
// the rows (padded, packed, tiled) encodes the label, its absence and padding in one int32 a row.
#ifndef JAX_RNNT_CORE_ROW_LABEL_H_
#define JAX_RNNT_CORE_ROW_LABEL_H_

#include <cstdint>

namespace jax_rnnt {

// A label in [0, V) is the row's own. kNoLabel: only the blank leaves the row (the last column of a
// lattice). Any other value: a padding row, which is never read.
inline constexpr int32_t kNoLabel = -1;

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_ROW_LABEL_H_
