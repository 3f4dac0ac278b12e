"""From a batch's labels and lengths to the arguments of rows and lattice, in either layout.

Only here do labels meet frames: each row gets the one label that may leave it, and sequences whose
lengths or labels make no sense are found. A band of columns is the padded layout, of which some
rows exist: those of cells outside of it have arcs of -inf.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt import _checks, reference
from jax_rnnt.lattice import arcs, compact
from jax_rnnt.lattice.bands import band_to_lattice
from jax_rnnt.lattice.posteriors import STANDARD, padded_cost
from jax_rnnt.reference import compact as packing
from jax_rnnt.reference.axes import positions
from jax_rnnt.rows import joint_band, pick


def cells_axes(compact: bool) -> str:
    """What messages call the axes of an array with an entry for each cell."""
    return "(S,)" if compact else "(..., T, U)"


def check_padded(name, rows, labels, frames_lengths, labels_lengths, where, durations):
    axes = _row_axis(durations)
    if len(rows.shape) < 3 or 0 in rows.shape[-3:-1] or rows.shape[-1] <= durations:
        raise ValueError(
            f"{name} must have shape (..., T, U, {axes}) with T, U and V at least 1, "
            f"got {rows.shape}."
        )
    *batch, T, U, width = rows.shape
    _checks.shape("labels", labels, (*batch, U - 1), f"(..., U - 1) for {name} {rows.shape}")
    _checks.shape("frames_lengths", frames_lengths, tuple(batch), "one for each sequence")
    _checks.shape("labels_lengths", labels_lengths, tuple(batch), "one for each sequence")
    if where is not None:
        _checks.shape("where", where, tuple(batch), "one for each sequence")
    _checks.lengths_values("frames_lengths", frames_lengths, 1, T, f"T = {T} frames", where)
    lengths = _checks.lengths_values(
        "labels_lengths", labels_lengths, 0, U - 1, f"U - 1 = {U - 1} labels", where
    )
    if lengths is not None:
        used = np.arange(U - 1) < lengths[..., None]
        if where is not None:
            used &= np.asarray(where)[..., None]
        _checks.labels_values(labels, used, width - durations)


def check_compact(name, rows, labels, frames_lengths, labels_lengths, where, durations):
    axes = _row_axis(durations)
    if len(rows.shape) != 2 or rows.shape[-1] <= durations:
        raise ValueError(
            f"compact {name} must have shape (S, {axes}) with V at least 1, got {rows.shape}."
        )
    if labels.ndim != 1:
        raise ValueError(f"compact labels must have shape (L,), got {labels.shape}.")
    lengths = compact.check_lengths(rows.shape[0], frames_lengths, labels_lengths, where)
    if lengths is not None:
        _check_compact_labels(labels, lengths, rows.shape[-1] - durations, where)


def _row_axis(durations: int) -> str:
    """What messages call a row's axis."""
    return f"V + {durations}" if durations else "V"


def _check_compact_labels(labels, labels_lengths: np.ndarray, vocabulary: int, where) -> None:
    """ValueError if concrete labels (L,) are too few or, where they count, outside [0, V)."""
    lengths = np.maximum(labels_lengths, 0)
    needed = int(lengths.astype(np.int64).sum())  # before as many entries are made
    if needed > labels.size:
        raise ValueError(
            f"labels must have sum(labels_lengths) = {needed} entries, got {labels.size}."
        )
    counted = np.ones(lengths.shape, bool) if where is None else np.asarray(where)
    used = np.repeat(counted, lengths)
    _checks.labels_values(labels, np.pad(used, (0, labels.size - used.size)), vocabulary)


def of_padded(rows, labels, frames_lengths, labels_lengths, where, durations):
    """(labels of rows, mask of sequences that make sense and count, function of arcs to costs)."""
    *batch, T, U, width = rows.shape
    V = width - durations
    column = positions(U, len(batch) + 1, -1)
    used = column[..., :-1] < labels_lengths[..., None]
    wrong = used & ((labels < 0) | (labels >= V))
    sensible = reference.valid_lengths(frames_lengths, labels_lengths, T, U) & ~wrong.any(-1)
    sensible = sensible if where is None else sensible & where
    last = labels_lengths[..., None]
    last_column = [(0, 0)] * len(batch) + [(0, 1)]
    column_labels = jnp.where(column == last, reference.NO_LABEL, jnp.pad(labels, last_column))
    column_labels = jnp.where(column > last, reference.PADDING_ROW, column_labels)
    frames = jnp.where(sensible, frames_lengths, 0)
    return pick.ColumnLabels(column_labels, frames), sensible, padded_cost


def of_compact(rows, labels, frames_lengths, labels_lengths, where, durations):
    """As of_padded, of packed rows; a sequence that does not count still has rows and labels."""
    S, width = rows.shape
    offsets = packing.offsets(frames_lengths, labels_lengths, S)
    row_labels, sensible = _compact_row_labels(
        labels, frames_lengths, labels_lengths, where, offsets, S, width - durations
    )
    max_labels = min(labels.shape[0], max(S - 1, 0))

    def arcs_to_costs(lattice, frames, label_counts, last, implementation):
        places = frames, label_counts, offsets, max_labels
        if lattice.keys() == set(STANDARD):
            blank, label = (lattice[arc] for arc in STANDARD)
            return compact.cells(blank, label, *places, implementation)
        return arcs.compact_arcs(lattice, *places, last=last, implementation=implementation)

    return row_labels, sensible, arcs_to_costs


def _compact_row_labels(
    labels: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    where: jax.Array | None,
    offsets: jax.Array,
    rows: int,
    vocabulary: int,
) -> tuple[jax.Array, jax.Array]:
    """(S,) the label of each row, and (N,) a mask of the sequences that make sense and count."""
    (available,) = labels.shape
    used = jnp.clip(labels_lengths, 0)
    label_ends = packing.running_sums(jnp.minimum(used, available + 1), available)
    label_offsets = packing.starts(label_ends)
    counts = packing.row_counts(frames_lengths, labels_lengths, rows)
    fits = packing.saturating_add(offsets, counts, rows) <= rows
    sensible = (frames_lengths >= 1) & (labels_lengths >= 0) & fits & (label_ends <= available)

    # A sequence that uses a label out of range makes no sense.
    position = jnp.arange(available, dtype=jnp.int32)
    owner = packing.count_up_to(label_ends, position)
    wrong = ((labels < 0) | (labels >= vocabulary)).astype(jnp.int32)
    sensible &= jnp.zeros_like(used).at[owner].add(wrong, mode="drop") == 0
    sensible = sensible if where is None else sensible & where

    sequence, cell = packing.sequence_of_rows(frames_lengths, labels_lengths, offsets, rows)
    column = cell % (packing.take(used, sequence, 0) + 1)
    place = packing.take(label_offsets, sequence, 0) + column
    own = packing.take(labels, place, reference.PADDING_ROW)
    last = column == packing.take(used, sequence, 0)
    padding = ~packing.take(sensible, sequence, False)
    own = jnp.where(last, reference.NO_LABEL, own)
    return jnp.where(padding, reference.PADDING_ROW, own).astype(jnp.int32), sensible


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rows", "columns"], meta_fields=["U"]
)
@dataclasses.dataclass(frozen=True)
class Band:
    """Rows (..., T, S, V) of columns[..., t] + [0, S), that stand for those of all U columns."""

    rows: Any
    columns: jax.Array  # (..., T) int32
    U: int

    @property
    def shape(self) -> tuple[int, ...]:
        *leading, _, width = self.rows.shape
        return *leading, self.U, width


@dataclasses.dataclass(frozen=True)
class BandPicks:
    """`rows_to_picks`, a function of labels by row, as one of a `Band` and labels by column.

    clamped: as in `checked_loss`.
    """

    rows_to_picks: Callable
    clamped: bool = False

    def __call__(self, band, labels, *, blank, implementation):
        row_labels = joint_band.band_labels(labels, band.columns, band.rows.shape[-2])
        picks = self.rows_to_picks(
            band.rows, row_labels, blank=blank, implementation=implementation
        )
        picks, unit = picks if self.clamped else (picks, None)
        spread = [band_to_lattice(x, band.columns, band.U, implementation) for x in picks]
        return (spread, unit) if self.clamped else spread


def band_of(name, rows, columns, U: int, frames_lengths, where) -> Band:
    """The band of rows (..., T, S, V) and their columns; ValueError if they do not fit.

    Columns of frames beyond the lengths, and of sequences that do not count, may be anything.
    """
    columns = _checks.integers("columns", columns)
    if len(rows.shape) < 3 or 0 in rows.shape[-3:]:
        raise ValueError(
            f"{name} must have shape (..., T, S, V) with T, S and V at least 1, got {rows.shape}."
        )
    *leading, S, _ = rows.shape
    _checks.shape("columns", columns, tuple(leading), f"(..., T) for {name} {rows.shape}")
    if S > U:
        raise ValueError(f"{name} must have at most U = {U} columns a frame, got S = {S}.")
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    known = _checks.concrete(frames_lengths)
    if known is not None and known.shape == columns.shape[:-1]:
        used = np.arange(columns.shape[-1]) < known[..., None]
        counted = True if where is None else _checks.concrete(_checks.mask("where", where))
        if counted is not None and np.shape(counted) in ((), known.shape):
            used &= np.asarray(counted)[..., None]
            _checks.lengths_values("columns", columns, 0, U - S, f"U - S = {U - S}", used)
    return Band(rows, jnp.asarray(columns), U)
