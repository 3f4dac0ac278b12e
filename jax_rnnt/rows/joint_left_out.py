"""Which tiles of a joint's lattices the backward visits, and which it leaves out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt.rows.entries import Entries, Selection
from jax_rnnt.rows.joint_grid import Grid


def left_out(dtype) -> float:
    """The part of the logits' gradient, by its L1 norm, that the backward may leave out.

    It may do so in each block of frames and in each block of labels, which are as wide as a tile.
    """
    return {"float64": 1e-13, "float32": 1e-6, "float16": 2**-13, "bfloat16": 2**-10}[dtype.name]


def visited(
    grid: Grid,
    rows: Entries,
    labels: jax.Array,
    cotangents: Entries,
    *,
    dtype: np.dtype,
    selection: Selection,
    min_posterior: float | None,
) -> jax.Array:
    """(N, frames, labels), whether the backward visits each tile of the grid.

    Args:
        grid: the tiles.
        rows: what the forward kept, (N, T, U) each.
        labels: (N, U), by column.
        cotangents: of the sums and entries, (N, T, U) each; those of maxima mean nothing.
        dtype: of the matrix products.
        selection: what the rows' sums count and which entries there are.
        min_posterior: as of the loss.
    """
    if min_posterior is None:
        norms = _gradient_norms(rows, labels, cotangents, selection)
        norms, part = grid.tiles(norms).sum((-2, -1)), left_out(dtype)
        return _enough(norms, part, axis=1) | _enough(norms, part, axis=2)
    symbols = [x for x, v in zip(cotangents.picks, selection.picks) if v < selection.tokens]
    durations = [x for x, v in zip(cotangents.picks, selection.picks) if v >= selection.tokens]
    posteriors = sum(map(jnp.abs, (cotangents.blank, cotangents.label, *symbols)))
    # Those of durations are no larger where they come from a lattice.
    posteriors = functools.reduce(jnp.maximum, map(jnp.abs, durations), posteriors)
    # The last arc of a sequence is taken with certainty, and none is above it: where labels have a
    # distribution of their own, a sum's cotangent is that of their arcs.
    certain = cotangents.log_sums if selection.without_blank else cotangents.blank
    certain = jnp.abs(certain).max((-2, -1))
    highest = grid.tiles(posteriors).max((-2, -1))
    return ~(highest <= min_posterior * certain[:, None, None]) | ~jnp.isfinite(highest)


def _gradient_norms(rows, labels, cotangents, selection):
    """(N, T, U), the L1 norm of each row of the logits' gradient, known without the logits.

    With c_s the cotangent of the log-sum, c_i those of the entries and P the softmax over what is
    summed, |c_i + c_s P_i| of each entry and |c_s| (1 - sum P_i) of all others. Where two entries
    are the same symbol this is no less than the norm.
    """
    labels = labels[:, None]
    total = cotangents.log_sums

    def share(logits, column):
        """P of an entry; 0 where it is not in the sum."""
        in_core = selection.in_core(column, labels)
        found = jnp.exp((logits - rows.maxima) - rows.log_sums)
        return jnp.where(in_core & jnp.isfinite(rows.log_sums), found, 0)

    same = labels == selection.blank
    label_cotangents = jnp.where(labels >= 0, cotangents.label, 0)
    blank_cotangents = cotangents.blank + jnp.where(same, label_cotangents, 0)
    shares = [share(rows.blank, selection.blank)]
    norms = jnp.abs(blank_cotangents + total * shares[0])
    shares.append(jnp.where(same, 0, share(rows.label, labels)))
    norms += jnp.where(same, 0, jnp.abs(label_cotangents + total * shares[1]))
    picks = zip(selection.picks, rows.picks, cotangents.picks, strict=True)
    for i, (column, logits, own) in enumerate(picks):
        known = column in (selection.blank, *selection.picks[:i])
        shares.append(jnp.where(known | (labels == column), 0, share(logits, column)))
        norms += jnp.abs(own + total * shares[-1])
    norms += jnp.abs(total) * jnp.maximum(1 - sum(shares), 0)
    inputs = total, cotangents.blank, cotangents.label, *cotangents.picks
    has_gradient = functools.reduce(jnp.logical_or, (x != 0 for x in inputs))
    return jnp.where(has_gradient, norms, 0)


def _enough(norms, part, axis):
    """Whether to take each tile: the norms of the others sum to at most this part of the axis'."""
    ascending = jnp.sort(norms, axis)
    sums = jnp.cumsum(ascending, axis)
    dropped = (sums <= part * norms.sum(axis, keepdims=True)).sum(axis, keepdims=True)
    last = jnp.minimum(dropped, norms.shape[axis] - 1)
    least = jnp.take_along_axis(ascending, last, axis)
    return ~(norms < least) & (norms != 0)
