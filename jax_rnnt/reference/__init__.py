"""The definition of what jax_rnnt computes, in jax.numpy.

Rows: a log-softmax of which the blank's and the row's own label's entries are kept.
Lattice: alpha over the (frame, label) lattice of one sequence,

    alpha(0, 0) = 1
    alpha(t, u) = alpha(t - 1, u) P_blank(t - 1, u) + alpha(t, u - 1) P_label(t, u - 1)
    cost = -log(alpha(T - 1, U - 1) P_blank(T - 1, U - 1))

Every probability is carried as `mantissa * 2**exponent` with the exponent in an array of its own,
so no step takes a logarithm of a whole prefix and float32 keeps its precision at any length (a
float32 log alpha near 10,000 is good to 0.001 only). The exponents are constants to autodiff; the
mantissas carry the derivative, and since the cotangent of a mantissa is (posterior / mantissa) it
needs no scaling either. `log_softmax_pick` and `lattice_cost` are therefore differentiable twice.

They serve platforms without kernels and are the oracle of the tests.
"""

from jax_rnnt.reference.lattice import (
    NO_LABEL,
    PADDING_ROW,
    ZERO_EXPONENT,
    Scaled,
    add,
    arc_cotangents,
    expand_columns,
    is_read,
    keep_posteriors,
    lattice_backward,
    lattice_cost,
    lattice_forward,
    log,
    log_softmax_pick,
    multiply,
    normalize,
    pick_backward,
    pick_forward,
    split,
    valid_lengths,
)

__all__ = [
    "NO_LABEL",
    "PADDING_ROW",
    "ZERO_EXPONENT",
    "Scaled",
    "add",
    "arc_cotangents",
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
    "split",
    "valid_lengths",
]
