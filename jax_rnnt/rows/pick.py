"""Rows: from V logits (or log-probabilities) to the two arcs that leave a lattice cell.

Nothing here knows of time or label sequences: a row has a label, no label, or is padding. Labels
come one for each row or, where they repeat from line to line, one for each column. An array of one
label for each row would be written once and read twice, 12 bytes a row beside 112 of float32 logits
at V = 28.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt import _checks, reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt._xla.residuals import to_bits
from jax_rnnt._xla.sharding import vary_alike


class ColumnLabels(NamedTuple):
    """Labels of rows (..., R, C) by column: row [..., r, c] is padding where r >= counts."""

    labels: jax.Array  # (..., C) int32: in [0, V), NO_LABEL, or anything else for padding
    counts: jax.Array  # (...) int32

    def of_rows(self, lines: int) -> jax.Array:
        """(..., R, C), the label of each row."""
        return reference.expand_columns(self.labels, self.counts, lines)


class Kernels(NamedTuple):
    """A row kernel and the one of its gradient."""

    forward: Kernel
    backward: Kernel


# A row kernel takes labels in one of two forms; its other operands have one entry for each row.
_BY_ROW = Kernels(
    Kernel(
        "pick_forward",
        operands=("V", ""),
        results=("",) * 4,
        result_dtype="accumulator",
        fallback=reference.pick_forward,
    ),
    Kernel(
        "pick_backward",
        operands=("V", "", "", "", "", ""),
        results=("V",),
        result_dtype="operand",
        bits=(2, 3),
        overwrites=True,
        fallback=lambda *operands, blank: [reference.pick_backward(*operands, blank=blank)],
    ),
)
BY_COLUMN = Kernels(
    Kernel(
        "pick_forward_columns",
        operands=("RCV", "C", ""),
        results=("RC",) * 4,
        result_dtype="accumulator",
        fallback=lambda logits, *labels, blank: reference.pick_forward(
            logits, each_row(logits, ColumnLabels(*labels)), blank=blank
        ),
    ),
    Kernel(
        "pick_backward_columns",
        operands=("RCV", "C", "", "RC", "RC", "RC", "RC"),
        results=("RCV",),
        result_dtype="operand",
        bits=(3, 4),
        overwrites=True,
        fallback=lambda logits, labels, counts, *rows, blank: [
            reference.pick_backward(
                logits, each_row(logits, ColumnLabels(labels, counts)), *rows, blank=blank
            )
        ],
    ),
)


def log_softmax_pick(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    blank: int = 0,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Keep two entries of each row's log-softmax: the blank's and the row's own label's.

    .. math:: \log P(v) = x_v - \log \sum_w \exp x_w, \quad v \in \{blank, label\}

    The row half of the RNN-T loss, differentiable with respect to the logits; other transducer
    losses are other lattices over the same rows. The log-softmax never exists as an array.

    Args:
        logits: (..., V), float32, bfloat16, float16 or float64, not normalised.
        labels: (...), integers, one for each row. In [0, V): the label that may leave the row.
            -1: no label leaves it. Anything else: the row is padding and is never read.
        blank: index of the blank; negative counts from the end.
        implementation: None for the native kernel where there is one, "native" to insist on it,
            "reference" for plain JAX (differentiable twice).

    Returns:
        (blank_log_probs, label_log_probs), each (...), in nats, float32 (float64 for float64
        logits). Where there is no such arc: -inf, with zero gradient. A row of nothing but -inf
        has no arcs; one with NaN or +inf has NaN arcs.

    Raises:
        TypeError: If logits are not floats or labels not integers.
        ValueError: If shapes do not fit, or blank is not a symbol.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> blank, label = jax_rnnt.log_softmax_pick(jnp.zeros((3, 4)), jnp.array([1, -1, 3]))
        >>> print(blank, label)
        [-1.3862944 -1.3862944 -1.3862944] [-1.3862944       -inf -1.3862944]

    See Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711.
    """
    logits = _checks.floats("logits", logits)
    labels = _checks.integers("labels", labels)
    if logits.ndim < 1 or logits.shape[-1] < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            "labels must have one entry for each row of logits (..., V), V at least 1, "
            f"got labels of shape {labels.shape} and logits of shape {logits.shape}."
        )
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    blank = _checks.blank_index(blank, logits.shape[-1])
    return softmax_arcs(logits, jnp.asarray(labels), blank=blank, implementation=implementation)


def softmax_arcs(
    logits: jax.Array,
    labels: jax.Array | ColumnLabels,
    *,
    blank: int,
    implementation: str | None,
) -> tuple[jax.Array, jax.Array]:
    """log_softmax_pick on checked arguments, with labels by row or by column."""
    if implementation == "reference":
        return reference.log_softmax_pick(logits, each_row(logits, labels), blank=blank)
    logits, labels = vary_with_labels(logits, labels)
    return _log_softmax_pick(logits, labels, blank, implementation == "native")


def each_row(logits: jax.Array, labels: jax.Array | ColumnLabels) -> jax.Array:
    """(...), one label for each row of logits (..., V)."""
    return labels.of_rows(logits.shape[-3]) if isinstance(labels, ColumnLabels) else labels


def vary_with_labels(logits: jax.Array, labels: Any) -> tuple[jax.Array, Any]:
    """Logits and labels in one of the two forms that vary over the same manual mesh axes."""
    leaves, structure = jax.tree.flatten(labels)
    logits, *leaves = vary_alike(logits, *leaves)
    return logits, jax.tree.unflatten(structure, leaves)


@custom_vjp(2, 3)
def _log_softmax_pick(logits, labels, blank, insist):
    return _log_softmax_pick_forward(logits, labels, blank, insist)[0]


def _log_softmax_pick_forward(logits, labels, blank, insist):
    kernels = BY_COLUMN if isinstance(labels, ColumnLabels) else _BY_ROW
    blank_log_probs, label_log_probs, maxima, log_sums = kernels.forward(
        logits, *jax.tree.leaves(labels), insist=insist, blank=blank
    )
    return (blank_log_probs, label_log_probs), (logits, labels, *to_bits(maxima, log_sums))


def _log_softmax_pick_backward(blank, insist, residuals, cotangents):
    logits, labels, *normalisers = residuals
    kernels = BY_COLUMN if isinstance(labels, ColumnLabels) else _BY_ROW
    (logits_cotangents,) = kernels.backward(
        logits,
        *jax.tree.leaves(labels),
        *normalisers,
        *cotangents,
        insist=insist,
        blank=blank,
    )
    return logits_cotangents, None


_log_softmax_pick.defvjp(_log_softmax_pick_forward, _log_softmax_pick_backward)


def gather_rows(
    log_probs: jax.Array,
    labels: jax.Array | ColumnLabels,
    *,
    blank: int,
    implementation: str | None,
) -> tuple[jax.Array, jax.Array]:
    """The blank's and the label's entries of rows that are normalised already, by a gather.

    The dense gradient is one fused pass that only writes, and exists only if autodiff asks for it.
    """
    del implementation
    log_probs, labels = vary_with_labels(log_probs, labels)
    return _gather_rows(log_probs, each_row(log_probs, labels), blank, log_probs.shape[-1])


@custom_vjp(2, 3)
def _gather_rows(log_probs, labels, blank, vocabulary):
    dtype = accumulator_dtype(log_probs.dtype)
    index = jnp.clip(labels, 0, vocabulary - 1)[..., None]
    own_label = jnp.take_along_axis(log_probs, index, -1, mode="promise_in_bounds")[..., 0]
    wanted = reference.is_read(labels, vocabulary)
    return (
        jnp.where(wanted, log_probs[..., blank].astype(dtype), -np.inf),
        jnp.where(wanted & (labels >= 0), own_label.astype(dtype), -np.inf),
    )


def _gather_rows_forward(log_probs, labels, blank, vocabulary):
    # An empty slice carries the dtype without keeping log_probs alive.
    return _gather_rows(log_probs, labels, blank, vocabulary), (log_probs[..., :0], labels)


def _gather_rows_backward(blank, vocabulary, residuals, cotangents):
    empty, labels = residuals
    column = lax.broadcasted_iota(jnp.int32, (*labels.shape, vocabulary), labels.ndim)
    wanted = reference.is_read(labels, vocabulary)
    blank_cotangents = jnp.where(wanted, cotangents[0], 0)[..., None]
    label_cotangents = jnp.where(wanted & (labels >= 0), cotangents[1], 0)[..., None]
    dense = jnp.where(column == blank, blank_cotangents, 0)
    dense += jnp.where(column == labels[..., None], label_cotangents, 0)
    return dense.astype(empty.dtype), None


_gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)
