"""The derivative of a path's score with respect to the arcs: 1 on the path, elsewhere 0."""

import jax
import jax.numpy as jnp

from jax_rnnt.reference.align import NO_FRAME
from jax_rnnt.reference.axes import positions
from jax_rnnt.reference.compact import sequence_of_rows, take


def path_cotangents(
    label_frames: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    cotangents: jax.Array,
    T: int,
) -> tuple[jax.Array, jax.Array]:
    """The cotangents of both arcs (..., T, U): that of a path's score on the path, elsewhere 0.

    Args:
        label_frames: (..., U), as lattice_trace returns them.
        frames_lengths, labels_lengths: (...).
        cotangents: (...), zero where there is no path.
    """
    *batch, U = label_frames.shape
    column = positions(U, len(batch) + 2, -1)
    frame = positions(T, len(batch) + 2, -2)
    own = label_frames[..., None, :]
    arrived = jnp.pad(own, [(0, 0)] * (len(batch) + 1) + [(1, 0)], constant_values=NO_FRAME)
    lengths = frames_lengths[..., None, None], labels_lengths[..., None, None]
    is_path = _on_path(frame, column, own, arrived[..., :-1], *lengths)
    return _spread(is_path, cotangents[..., None, None])


def path_cotangents_compact(
    label_frames: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    cotangents: jax.Array,
    rows: int,
) -> tuple[jax.Array, jax.Array]:
    """The same of packed arcs (rows,), from label_frames (N, U)."""
    N, U = label_frames.shape
    sequence, cell = sequence_of_rows(frames_lengths, labels_lengths, offsets, rows)
    labels = take(labels_lengths, sequence, 0)
    column = cell % jnp.maximum(labels + 1, 1)
    frame = cell // jnp.maximum(labels + 1, 1)
    flat = label_frames.reshape(N * U)
    place = jnp.minimum(sequence, N) * U + jnp.minimum(column, U - 1)
    own = take(flat, place, NO_FRAME)
    arrived = jnp.where(column > 0, take(flat, jnp.maximum(place - 1, 0), NO_FRAME), NO_FRAME)
    frames = take(frames_lengths, sequence, 0)
    is_path = _on_path(frame, column, own, arrived, frames, labels)
    return _spread(is_path, take(cotangents, sequence, 0))


def _on_path(frame, column, own, arrived, frames, labels):
    """Which cells' blank and label arcs are on the path."""
    inside = (frame < frames) & (column <= labels)
    is_label = inside & (column < labels) & (own == frame)
    has_come = (column == 0) | (arrived <= frame)
    stays = (column == labels) | (own > frame)
    return inside & has_come & stays, is_label


def _spread(is_path, cotangents):
    return jnp.where(is_path[0], cotangents, 0), jnp.where(is_path[1], cotangents, 0)
