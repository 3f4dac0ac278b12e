"""Rows: a log-softmax of which two entries are kept, the blank's and the row's own label's."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.program import one_program
from jax_rnnt.reference.axes import positions

# Labels of rows: in [0, V); NO_LABEL where only the blank leaves the row; anything else outside
# [0, V), such as PADDING_ROW, for padding.
NO_LABEL = -1
PADDING_ROW = -2


@functools.partial(one_program, static_argnames=("blank",))
def log_softmax_pick(
    logits: jax.Array, labels: jax.Array, *, blank: int
) -> tuple[jax.Array, jax.Array]:
    """The two entries of each row's log-softmax that a lattice needs.

    Args:
        logits: (..., V) floats.
        labels: (...) int32, one a row; see NO_LABEL and PADDING_ROW.
        blank: in [0, V).

    Returns:
        (blank_log_probs, label_log_probs), each (...) nats, float32 or float64.
    """
    blank_log_probs, label_log_probs, _, _ = pick_forward(logits, labels, blank=blank)
    return blank_log_probs, label_log_probs


def is_read(labels: jax.Array, vocabulary: int) -> jax.Array:
    """Whether a row with this label is not padding."""
    return (labels >= NO_LABEL) & (labels < vocabulary)


def expand_columns(labels: jax.Array, counts: jax.Array, lines: int) -> jax.Array:
    """The label of each of the rows (..., R, C), from labels by column.

    Args:
        labels: (..., C) int32.
        counts: (...) int32; row [..., r, c] is padding where r >= counts.
        lines: R.

    Returns:
        (..., R, C) int32.
    """
    inside = positions(lines, counts.ndim + 2, -2) < counts[..., None, None]
    return jnp.where(inside, labels[..., None, :], PADDING_ROW)


def pick_forward(
    logits: jax.Array, labels: jax.Array, *, blank: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """log_softmax_pick's results, and each row's maximum and log of its sum, as kernels have it."""
    wanted = is_read(labels, logits.shape[-1])
    rows = jnp.where(wanted[..., None], logits, 0).astype(accumulator_dtype(logits.dtype))
    # Rows without a log-softmax are taken out, so that no derivative meets their numbers.
    senseless = ~(rows < jnp.inf).all(-1)  # NaN or +inf
    impossible = (rows == -jnp.inf).all(-1)
    usable = ~senseless & ~impossible
    rows = jnp.where(usable[..., None], rows, 0)
    maxima = lax.stop_gradient(rows.max(-1))
    shifted = rows - maxima[..., None]
    log_sums = jnp.log(jnp.exp(shifted).sum(-1))
    column = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1)
    own_label = jnp.where(column == labels[..., None], shifted, 0).sum(-1)
    missing = jnp.where(senseless, jnp.nan, -jnp.inf).astype(rows.dtype)
    keep = wanted & usable
    blank_log_probs = jnp.where(keep, shifted[..., blank] - log_sums, missing)
    label_log_probs = jnp.where(keep, own_label - log_sums, missing)
    label_log_probs = jnp.where(labels >= 0, label_log_probs, -jnp.inf)
    marks = jnp.where(wanted, -missing, 0)  # +inf or NaN for rows without a log-softmax
    return blank_log_probs, label_log_probs, maxima, jnp.where(keep, log_sums, marks)


def pick_backward(
    logits: jax.Array,
    labels: jax.Array,
    maxima: jax.Array,
    log_sums: jax.Array,
    blank_cotangents: jax.Array,
    label_cotangents: jax.Array,
    *,
    blank: int,
) -> jax.Array:
    """c_blank [v = blank] + c_label [v = label] - softmax_v (c_blank + c_label) for each row."""
    wanted = is_read(labels, logits.shape[-1])
    wanted &= (log_sums < jnp.inf) & ((blank_cotangents != 0) | (label_cotangents != 0))
    rows = jnp.where(wanted[..., None], logits, 0).astype(maxima.dtype)
    softmax = jnp.exp((rows - maxima[..., None]) - log_sums[..., None])
    column = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1)
    label_cotangents = jnp.where(labels >= 0, label_cotangents, 0)
    cotangents = (
        jnp.where(column == blank, blank_cotangents[..., None], 0)
        + jnp.where(column == labels[..., None], label_cotangents[..., None], 0)
        - softmax * (blank_cotangents + label_cotangents)[..., None]
    )
    return jnp.where(wanted[..., None], cotangents, 0).astype(logits.dtype)
