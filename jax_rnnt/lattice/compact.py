"""Where things stand in the compact layout, all of it with lengths that may be traced.

Sequence n has T_n (U_n + 1) rows, frame by frame, behind those of the sequences before it; rows
beyond the last are padding. A sequence with T_n < 1 or U_n < 0 has no rows. Sums saturate one past
the end of the array, so that no length, however senseless, wraps around into another's rows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt import _checks, reference
from jax_rnnt._checks import Integers


def check_lengths(rows: int, frames_lengths: Integers, labels_lengths: Integers) -> None:
    """ValueError if the lengths do not fit in so many rows."""
    if not all(isinstance(size, int) for size in (rows, *frames_lengths.shape)):
        raise ValueError("the compact form takes no symbolic sizes.")
    if rows >= 2**31 - 1:
        raise ValueError(f"the compact form takes fewer than 2**31 - 1 rows, got {rows}.")
    if frames_lengths.ndim != 1:
        raise ValueError(f"frames_lengths must be (N,), got shape {frames_lengths.shape}.")
    _checks.shape("labels_lengths", labels_lengths, frames_lengths.shape, "as frames_lengths")
    high = np.iinfo(np.int32).max
    frames = _checks.lengths_values("frames_lengths", frames_lengths, 1, high, "frames")
    labels = _checks.lengths_values("labels_lengths", labels_lengths, 0, high, "labels")
    if frames is not None and labels is not None:
        needed = sum(int(t) * (int(u) + 1) for t, u in zip(frames, labels))
        if needed > rows:
            raise ValueError(
                f"frames_lengths and labels_lengths need sum(T_n (U_n + 1)) = {needed} rows, "
                f"got {rows}."
            )


def check_max_labels(max_labels: int | None, labels_lengths: Integers, rows: int) -> int:
    """The bound of the labels' lengths, at most what the rows allow, or TypeError, ValueError."""
    most = max(rows - 1, 0)
    if max_labels is None:
        return most
    bound = _checks.index("max_labels", max_labels)
    if bound < 0:
        raise ValueError(f"max_labels must not be negative, got {bound}.")
    _checks.lengths_values("labels_lengths", labels_lengths, 0, bound, f"max_labels = {bound}")
    return min(bound, most)


def check_labels(labels: Integers, labels_lengths: Integers, vocabulary: int) -> None:
    """ValueError if concrete labels (L,) are too few or outside [0, V)."""
    lengths, values = _checks.concrete(labels_lengths), _checks.concrete(labels)
    if lengths is None:
        return
    needed = int(lengths.astype(np.int64).sum())
    if needed > labels.shape[0]:
        raise ValueError(
            f"labels must have sum(labels_lengths) = {needed} entries, got {labels.shape[0]}."
        )
    if values is not None:
        _checks.labels_values(labels, np.asarray(needed), vocabulary)


def offsets(frames_lengths: jax.Array, labels_lengths: jax.Array, rows: int) -> jax.Array:
    """(N,) int32, the first row of each sequence; past the array where there is no room."""
    ends = _running_sums(_counts(frames_lengths, labels_lengths, rows), rows)
    return _starts(ends)


def sequence_of_rows(
    frames_lengths: jax.Array, labels_lengths: jax.Array, offsets: jax.Array, rows: int
) -> tuple[jax.Array, jax.Array]:
    """Each row's sequence, N for padding, and its distance from that sequence's first row."""
    counts = _counts(frames_lengths, labels_lengths, rows)
    ends = _saturating_add(offsets, counts, rows)
    row = jnp.arange(rows, dtype=jnp.int32)
    sequence = _count_up_to(ends, row)
    first = take(offsets, sequence, 0)
    return sequence, row - first


def row_labels(
    labels: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    rows: int,
    vocabulary: int,
) -> tuple[jax.Array, jax.Array]:
    """(S,) each row's label as rows are told it, and (N,) whether each sequence makes sense."""
    (available,) = labels.shape
    used = jnp.clip(labels_lengths, 0)
    label_ends = _running_sums(jnp.minimum(used, available + 1), available)
    label_offsets = _starts(label_ends)
    counts = _counts(frames_lengths, labels_lengths, rows)
    fits = _saturating_add(offsets, counts, rows) <= rows
    sensible = (frames_lengths >= 1) & (labels_lengths >= 0) & fits & (label_ends <= available)

    # Labels out of range spoil the sequence that uses them.
    position = jnp.arange(available, dtype=jnp.int32)
    owner = _count_up_to(label_ends, position)
    wrong = ((labels < 0) | (labels >= vocabulary)).astype(jnp.int32)
    sensible &= jnp.zeros_like(used).at[owner].add(wrong, mode="drop") == 0

    sequence, cell = sequence_of_rows(frames_lengths, labels_lengths, offsets, rows)
    column = cell % (take(used, sequence, 0) + 1)
    place = take(label_offsets, sequence, 0) + column
    own = take(labels, place, reference.PADDING_ROW)
    last = column == take(used, sequence, 0)
    padding = ~take(sensible, sequence, False)
    own = jnp.where(last, reference.NO_LABEL, own)
    return jnp.where(padding, reference.PADDING_ROW, own).astype(jnp.int32), sensible


def take(values: jax.Array, index: jax.Array, fill) -> jax.Array:
    """values[index] along its one axis, `fill` beyond its end; the axis may be empty."""
    return jnp.take(jnp.pad(values, (0, 1), constant_values=fill), index, mode="clip")


def _count_up_to(ends, positions):
    """How many of the ascending ends are at or before each position."""
    return jnp.searchsorted(ends, positions, side="right").astype(jnp.int32)


def _starts(ends):
    return jnp.pad(ends, (1, 0))[:-1]


def _counts(frames_lengths, labels_lengths, rows):
    """Rows of each sequence, rows + 1 where there are more than fit."""
    frames = jnp.clip(frames_lengths, 0)
    columns = jnp.clip(labels_lengths, 0, rows) + 1
    counts = jnp.where(frames > rows // columns, rows + 1, jnp.minimum(frames, rows) * columns)
    return jnp.where(labels_lengths < 0, 0, counts)


def _saturating_add(a, b, rows):
    total = a.astype(jnp.uint32) + b.astype(jnp.uint32)
    return jnp.minimum(total, np.uint32(rows + 1)).astype(jnp.int32)


def _running_sums(counts, rows):
    return jax.lax.associative_scan(lambda a, b: _saturating_add(a, b, rows), counts)
