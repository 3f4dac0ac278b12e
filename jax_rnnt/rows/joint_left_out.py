"""Which tiles of a joint's lattices the backward visits, and which it leaves out."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt.rows.joint_grid import Grid
from jax_rnnt.rows.joint_network import Rows


def left_out(dtype) -> float:
    """The part of the logits' gradient, by its L1 norm, that the backward may leave out.

    It may do so in each block of frames and in each block of labels, which are as wide as a tile.
    """
    return {"float64": 1e-13, "float32": 1e-6, "float16": 2**-13, "bfloat16": 2**-10}[dtype.name]


def visited(
    grid: Grid,
    rows: Rows,
    labels: jax.Array,
    blank_cotangents: jax.Array,
    label_cotangents: jax.Array,
    *,
    dtype: np.dtype,
    blank: int,
    min_posterior: float | None,
) -> jax.Array:
    """(N, frames, labels), whether the backward visits each tile of the grid.

    Args:
        grid: the tiles.
        rows: what the forward kept, (N, T, U).
        labels: (N, U), by column.
        blank_cotangents, label_cotangents: of both arcs, (N, T, U).
        dtype: of the matrix products.
        blank: the blank's index.
        min_posterior: as of the loss.
    """
    if min_posterior is None:
        norms = _gradient_norms(rows, labels, blank_cotangents, label_cotangents, blank=blank)
        norms, part = grid.tiles(norms).sum((-2, -1)), left_out(dtype)
        return _enough(norms, part, axis=1) | _enough(norms, part, axis=2)
    posteriors = jnp.abs(blank_cotangents) + jnp.abs(label_cotangents)
    # The last blank arc of a sequence is taken with certainty: no other is above it.
    certain = jnp.abs(blank_cotangents).max((-2, -1))
    highest = grid.tiles(posteriors).max((-2, -1))
    return ~(highest <= min_posterior * certain[:, None, None]) | ~jnp.isfinite(highest)


def _gradient_norms(rows, labels, blank_cotangents, label_cotangents, *, blank):
    """(N, T, U), the L1 norm of each row of the logits' gradient, known without the logits.

    |c_blank - s P_blank| + |c_label - s P_label| + |s| (1 - P_blank - P_label) with s = c_blank +
    c_label. The first two are written such that nothing cancels where a model is confident.
    """
    same = labels[:, None] == blank
    blank_cotangents += jnp.where(same, label_cotangents, 0)
    label_cotangents = jnp.where(same, 0, label_cotangents)
    label_log_probs = jnp.where(same, -jnp.inf, rows.label_log_probs)
    blank_probs, label_probs = jnp.exp(rows.blank_log_probs), jnp.exp(label_log_probs)
    not_blank, not_label = -jnp.expm1(rows.blank_log_probs), -jnp.expm1(label_log_probs)
    total = blank_cotangents + label_cotangents
    norms = (
        jnp.abs(blank_cotangents * not_blank - label_cotangents * blank_probs)
        + jnp.abs(label_cotangents * not_label - blank_cotangents * label_probs)
        + jnp.abs(total) * jnp.maximum(not_blank - label_probs, 0)
    )
    return jnp.where((blank_cotangents != 0) | (label_cotangents != 0), norms, 0)


def _enough(norms, part, axis):
    """Whether to take each tile: the norms of the others sum to at most this part of the axis'."""
    ascending = jnp.sort(norms, axis)
    sums = jnp.cumsum(ascending, axis)
    dropped = (sums <= part * norms.sum(axis, keepdims=True)).sum(axis, keepdims=True)
    last = jnp.minimum(dropped, norms.shape[axis] - 1)
    least = jnp.take_along_axis(ascending, last, axis)
    return ~(norms < least) & (norms != 0)
