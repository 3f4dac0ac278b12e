"""The lattice: from the arcs' log-probabilities to the cost, and the arcs' posteriors back.

Nothing here knows of V. Two layouts share one mathematics: padded, (..., T, U), and compact, where
the cells of sequence n stand at rows offset_n + t (U_n + 1) + u of one axis.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt._xla.program import one_program
from jax_rnnt._xla.residuals import to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.lattice import compact as compact_form
from jax_rnnt.lattice.arguments import check_two_arcs

# A dimension of 2 is a pair (mantissa, exponent), one of 4 two pairs. A forward keeps two results
# for its backward: alphas and betas, a pair each for each cell, and totals, a pair for each
# sequence; what of them it needs, and in which order, is the platform's own. On CUDA this lattice
# is an instance of that of any arcs, whose kernels take this scratch.
_cost = Kernel(
    "lattice_cost",
    operands=("TU", "TU", "", ""),
    results=("",),
    result_dtype="accumulator",
    fallback=lambda *operands: [reference.lattice_cost(*operands)],
    scratch={"cuda": ("TU2", "2", "2")},
)
_forward = Kernel(
    "lattice_forward",
    operands=("TU", "TU", "", ""),
    results=("", "TU4", "2"),
    result_dtype="accumulator",
    kept=(1, 2),
    fallback=reference.lattice_forward,
    scratch={"cuda": ("2",)},
)
_backward = Kernel(
    "lattice_backward",
    operands=("TU", "TU", "", "", "TU4", "2", ""),
    results=("TU", "TU"),
    result_dtype="accumulator",
    bits=(0, 1),
    fallback=reference.lattice_backward,
)


def lattice_cost(
    blank_log_probs: ArrayLike,
    label_log_probs: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    compact: bool = False,
    max_labels: int | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""-log P(labels | frames) from the log-probabilities of a lattice's arcs.

    .. math::
        \alpha(t, u) &= \alpha(t-1, u) P_{blank}(t-1, u) + \alpha(t, u-1) P_{label}(t, u-1), \\
        cost &= -\log \alpha(T_n-1, U_n) P_{blank}(T_n-1, U_n)

    The lattice half of the RNN-T loss. Minus its gradient is the posterior probability that the
    alignment takes each arc; the blank posteriors of a frame and the label posteriors of a label
    each sum to one. Probabilities are carried as a mantissa and an exponent apart, so neither the
    cost nor the posteriors lose precision with the length.

    Args:
        blank_log_probs: (..., T, U) nats, the arcs (t, u) -> (t + 1, u). Compact: (S,), the cells
            of one sequence after the other, T_n (U_n + 1) each, frame by frame.
        label_log_probs: the same shape, the arcs (t, u) -> (t, u + 1); those at u = U_n are unused.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        compact: whether the cells are packed; lengths may be traced all the same.
        max_labels: compact only, an upper bound of the labels' lengths known in advance; a longer
            sequence's cost is NaN.
        implementation: None for the native kernel where there is one, "native" to insist on it,
            "reference" for plain JAX (differentiable twice where not compact).

    Returns:
        (...) nats, float32 (float64 for float64 arcs). +inf with zero gradients where no alignment
        is possible; NaN with zero gradients where a traced length makes no sense or an arc within
        the lengths is NaN or +inf. Log-probabilities below -6.9e36 count as -inf. Posteriors are
        exact to rounding for costs up to 1e7 (float32); beyond, they stay in [0, 1]. Posteriors
        below 2^-64 may count as 0.

    Raises:
        TypeError: If arcs are not floats or lengths not integers.
        ValueError: If shapes do not fit, or a concrete length makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> arcs = jnp.log(jnp.full((2, 2), 0.5))  # two frames, one label: two alignments
        >>> print(jnp.exp(-jax_rnnt.lattice_cost(arcs, arcs, 2, 1)))
        0.25

    See Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711.
    """
    arrays, max_labels = check_two_arcs(
        blank_log_probs,
        label_log_probs,
        frames_lengths,
        labels_lengths,
        compact=compact,
        max_labels=max_labels,
        implementation=implementation,
    )
    return _cells(*arrays, max_labels=max_labels, implementation=implementation)


@functools.partial(one_program, static_argnames=("max_labels", "implementation"))
def _cells(
    blank_log_probs, label_log_probs, frames_lengths, labels_lengths, *, max_labels, implementation
):
    dtype = accumulator_dtype(blank_log_probs.dtype, label_log_probs.dtype)
    arcs = blank_log_probs.astype(dtype), label_log_probs.astype(dtype)
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    if max_labels is None:
        return padded_cells(*arcs, *lengths, implementation)
    offsets = compact_form.offsets(*lengths, blank_log_probs.shape[0])
    return compact_form.cells(*arcs, *lengths, offsets, max_labels, implementation)


def padded_cells(blank_log_probs, label_log_probs, frames_lengths, labels_lengths, implementation):
    """lattice_cost on checked arguments (..., T, U); a length outside its range gives NaN."""
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths
    if implementation == "reference":
        return reference.lattice_cost(*operands)
    return _lattice_cost(*vary_alike(*operands), implementation == "native")


@custom_vjp(4)
def _lattice_cost(blank_log_probs, label_log_probs, frames_lengths, labels_lengths, insist):
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths
    return _cost(*operands, insist=insist)[0]


def _lattice_cost_forward(*arguments):
    *operands, insist = arguments
    costs, *kept = _forward(*operands, insist=insist)
    return costs, (*to_bits(*operands[:2]), *operands[2:], *kept)


def _lattice_cost_backward(insist, residuals, cotangents):
    return *_backward(*residuals, cotangents, insist=insist), None, None


_lattice_cost.defvjp(_lattice_cost_forward, _lattice_cost_backward)
