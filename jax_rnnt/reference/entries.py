"""Rows: the log of the sum over a row's symbols, and entries of it: what normalisers are made of.

A row has W logits: `tokens` symbols, then others that no sum counts, such as those of durations.
Its core is its symbols without the blank, without its own label, or with both, as asked.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt.reference.rows import is_read


def entries_forward(
    logits: jax.Array,
    labels: jax.Array,
    *,
    blank: int,
    tokens: int,
    without_blank: int,
    without_label: int,
    picks: tuple[int, ...],
) -> tuple[jax.Array, ...]:
    """The log-sum over each row's core, in two terms, and entries of the row as they are.

    Args:
        logits: (..., W) floats.
        labels: (...) int32, one a row, in [0, tokens); see NO_LABEL and PADDING_ROW.
        blank: in [0, tokens).
        tokens: the number of symbols, in [1, W].
        without_blank: whether the core leaves out the blank.
        without_label: whether the core leaves out the row's own label.
        picks: in [0, W), the indices of further entries.

    Returns:
        (maxima, log_sums, blank_logits, label_logits, *pick_logits), each (...), float32 or
        float64. The sum over the core of exp(logit) is exp(maxima + log_sums); derivatives take
        maxima for a constant. A core that is empty or all -inf has maxima 0 and log_sums -inf; one
        with NaN or +inf 0 and NaN. Without a label, label_logits are -inf. Of padding, maxima and
        log_sums are 0 and all entries -inf.
    """
    wanted = is_read(labels, tokens)
    rows = jnp.where(wanted[..., None], logits, -np.inf).astype(accumulator_dtype(logits.dtype))
    core = jnp.where(
        _is_core(rows, labels, blank, tokens, without_blank, without_label), rows, -np.inf
    )
    # Sums that are no numbers are taken out, so that no derivative meets them.
    senseless = ~(core < jnp.inf).all(-1)  # NaN or +inf
    usable = ~senseless & ~(core == -jnp.inf).all(-1)
    core = jnp.where(usable[..., None], core, 0)
    maxima = lax.stop_gradient(core.max(-1))
    log_sums = jnp.log(jnp.exp(core - maxima[..., None]).sum(-1))
    marks = jnp.where(senseless, jnp.nan, jnp.where(wanted, -jnp.inf, 0)).astype(rows.dtype)
    column = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1)
    label_logits = jnp.where(column == labels[..., None], rows, 0).sum(-1)
    return (
        maxima,
        jnp.where(usable, log_sums, marks),
        rows[..., blank],
        jnp.where(wanted & (labels >= 0), label_logits, -np.inf),
        *(rows[..., pick] for pick in picks),
    )


def entries_backward(
    logits: jax.Array,
    labels: jax.Array,
    maxima: jax.Array,
    log_sums: jax.Array,
    sum_cotangents: jax.Array,
    blank_cotangents: jax.Array,
    label_cotangents: jax.Array,
    *pick_cotangents: jax.Array,
    blank: int,
    tokens: int,
    without_blank: int,
    without_label: int,
    picks: tuple[int, ...],
) -> jax.Array:
    """c_sum [v in core] exp(logit_v - log-sum), and the cotangents of the entries that are v."""
    wanted = is_read(labels, tokens)
    summed = wanted & jnp.isfinite(log_sums) & (sum_cotangents != 0)
    core = _is_core(logits, labels, blank, tokens, without_blank, without_label)
    core &= summed[..., None]
    rows = jnp.where(core, logits, 0).astype(maxima.dtype)
    shares = jnp.exp((rows - maxima[..., None]) - log_sums[..., None])
    cotangents = jnp.where(core, shares * sum_cotangents[..., None], 0)
    column = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1)
    cotangents += jnp.where(column == labels[..., None], label_cotangents[..., None], 0)
    for pick, pick_cotangent in zip((blank, *picks), (blank_cotangents, *pick_cotangents)):
        cotangents += jnp.where(column == pick, pick_cotangent[..., None], 0)
    return jnp.where(wanted[..., None], cotangents, 0).astype(logits.dtype)


# Rows of each of the parts in which a bias' gradient comes.
BIAS_PART_ROWS = 32


def bias_parts(rows: int) -> int:
    """The number of parts of the gradient of a bias with so many rows."""
    return -(-rows // BIAS_PART_ROWS)


def add_bias(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Logits (..., G, R, C, W) with their bias (..., W)."""
    return logits + bias[..., None, None, None, :]


def entries_backward_parts(
    logits: jax.Array,
    labels: jax.Array,
    bounds: jax.Array,
    *rows: jax.Array,
    dtype: np.dtype,
    **selection: Any,
) -> tuple[jax.Array, jax.Array]:
    """`entries_backward` of groups of rows (..., G, R, C, W), and its sums over parts of a group.

    Args:
        logits: with their bias.
        labels: (..., G, R, C), one a row.
        bounds: (..., G, R, C), to which the row's gradients are cut; NaN stays NaN.
        rows: what `entries_backward` takes behind the labels.
        dtype: of the gradients.
        selection: as of `entries_backward`.

    Returns:
        Gradients; and of each BIAS_PART_ROWS rows of the groups, as they follow each other, the
        sum before they were rounded, (..., parts W).
    """
    gradients = entries_backward(logits, labels, *rows, **selection)
    gradients = lax.clamp(*jnp.broadcast_arrays(-bounds[..., None], gradients, bounds[..., None]))
    *batch, G, R, C, W = gradients.shape
    flat = gradients.reshape(*batch, G * R * C, W)
    padding = [(0, 0)] * flat.ndim
    padding[-2] = (0, -flat.shape[-2] % BIAS_PART_ROWS)
    parts = jnp.pad(flat, padding).reshape(*batch, -1, BIAS_PART_ROWS, W).sum(-2)
    return gradients.astype(dtype), parts.reshape(*batch, -1)


def _is_core(logits, labels, blank, tokens, without_blank, without_label):
    """(..., W), whether a logit is one of its row's core."""
    column = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    core = column < tokens
    if without_blank:
        core &= column != blank
    if without_label:
        core &= column != labels[..., None]
    return core
