"""The definition of what jax_rnnt computes, in jax.numpy.

Rows: a log-softmax of which the blank's and the row's own label's entries are kept.
Lattice: alpha over the lattice of one sequence of T frames and U - 1 labels,

    alpha(0, 0) = 1
    alpha(t, u) = alpha(t - 1, u) P_blank(t - 1, u) + alpha(t, u - 1) P_label(t, u - 1)
    cost = -log(alpha(T - 1, U - 1) P_blank(T - 1, U - 1))

Every probability is carried as a mantissa and an exponent apart (`scaled`), so float32 keeps its
precision at any length. `log_softmax_pick`, `lattice_cost` and `arcs_cost`, whose lattice has any
arcs, are differentiable twice, and by `jax.jvp`, `jax.linearize` and `jax.hessian`.

Platforms without kernels run these functions. The tests compare them, as they do the kernels, with
a float64 oracle in NumPy.
"""

from jax_rnnt.reference.arcs import arcs_backward, arcs_cost, arcs_forward
from jax_rnnt.reference.entries import (
    BIAS_PART_ROWS,
    add_bias,
    bias_parts,
    entries_backward,
    entries_backward_parts,
    entries_forward,
)
from jax_rnnt.reference.kept import arc_cotangents, keep_posteriors
from jax_rnnt.reference.lattice import (
    lattice_backward,
    lattice_cost,
    lattice_forward,
    valid_lengths,
)
from jax_rnnt.reference.rows import (
    NO_LABEL,
    PADDING_ROW,
    expand_columns,
    is_read,
    log_softmax_pick,
    pick_backward,
    pick_forward,
)
from jax_rnnt.reference.scaled import (
    ZERO_EXPONENT,
    Scaled,
    add,
    add_along,
    log,
    multiply,
    normalize,
    ratio,
    split,
)

__all__ = [
    "BIAS_PART_ROWS",
    "NO_LABEL",
    "PADDING_ROW",
    "ZERO_EXPONENT",
    "Scaled",
    "add",
    "add_along",
    "add_bias",
    "arc_cotangents",
    "arcs_backward",
    "arcs_cost",
    "arcs_forward",
    "bias_parts",
    "entries_backward",
    "entries_backward_parts",
    "entries_forward",
    "expand_columns",
    "is_read",
    "keep_posteriors",
    "lattice_backward",
    "lattice_cost",
    "lattice_forward",
    "log",
    "log_softmax_pick",
    "multiply",
    "normalize",
    "pick_backward",
    "pick_forward",
    "ratio",
    "split",
    "valid_lengths",
]
