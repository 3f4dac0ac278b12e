"""The compact layout and its lattice in jax.numpy: cells packed one sequence after the other.

Layout: sequence n has T_n (U_n + 1) rows, frame by frame, behind those of the sequences before it;
rows beyond the last are padding. A sequence with T_n < 1 or U_n < 0 has no rows. Lengths may be
traced. Sums saturate one past the end of the array, so that no length, however senseless, wraps
around into another's rows.

Lattice: a walk over anti-diagonals whose number is known at run time only. It is a while loop,
which reverse-mode autodiff does not pass, so the posteriors are computed beside the cost. The state
is one value for each sequence and label column; alphas are kept packed as the arcs are.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.reference.kept import arc_cotangents, keep_posteriors
from jax_rnnt.reference.scaled import (
    ZERO_EXPONENT,
    Scaled,
    add,
    log,
    multiply,
    normalize,
    split,
)


def offsets(frames_lengths: jax.Array, labels_lengths: jax.Array, rows: int) -> jax.Array:
    """(N,) int32, the first row of each sequence; past the array for one that has no room."""
    ends = running_sums(row_counts(frames_lengths, labels_lengths, rows), rows)
    return starts(ends)


def sequence_of_rows(
    frames_lengths: jax.Array, labels_lengths: jax.Array, offsets: jax.Array, rows: int
) -> tuple[jax.Array, jax.Array]:
    """Each row's sequence, N for padding, and its distance from that sequence's first row."""
    counts = row_counts(frames_lengths, labels_lengths, rows)
    ends = saturating_add(offsets, counts, rows)
    row = jnp.arange(rows, dtype=jnp.int32)
    sequence = count_up_to(ends, row)
    first = take(offsets, sequence, 0)
    return sequence, row - first


def take(values: jax.Array, index: jax.Array, fill) -> jax.Array:
    """values[index] along its one axis, `fill` beyond its end; the axis may be empty."""
    return jnp.take(jnp.pad(values, (0, 1), constant_values=fill), index, mode="clip")


def count_up_to(ends, positions):
    """How many of the ascending ends are at or before each position."""
    return jnp.searchsorted(ends, positions, side="right").astype(jnp.int32)


def starts(ends):
    return jnp.pad(ends, (1, 0))[:-1]


def row_counts(frames_lengths, labels_lengths, rows):
    """The number of rows of each sequence, rows + 1 where there are more than fit."""
    frames = jnp.clip(frames_lengths, 0)
    columns = jnp.clip(labels_lengths, 0, rows) + 1
    counts = jnp.where(frames > rows // columns, rows + 1, jnp.minimum(frames, rows) * columns)
    return jnp.where(labels_lengths < 0, 0, counts)


def saturating_add(a, b, rows):
    total = a.astype(jnp.uint32) + b.astype(jnp.uint32)
    return jnp.minimum(total, np.uint32(rows + 1)).astype(jnp.int32)


def running_sums(counts, rows):
    return jax.lax.associative_scan(lambda a, b: saturating_add(a, b, rows), counts)


def lattice_cost(*operands: jax.Array, max_labels: int) -> tuple[jax.Array]:
    """Costs (..., N) of arcs (..., S); see lattice_forward."""
    return (lattice_forward(*operands, max_labels=max_labels)[0],)


def lattice_forward(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    *,
    max_labels: int,
) -> tuple[jax.Array, ...]:
    """Costs (..., N) and what lattice_backward needs; see keep_posteriors.

    Args:
        blank_log_probs, label_log_probs: (..., S) nats.
        frames_lengths, labels_lengths: (..., N) int32.
        offsets: (..., N) int32, the row at which each sequence begins.
        max_labels: an upper bound of the labels' lengths; a longer sequence's cost is NaN.
    """
    walk = jnp.vectorize(
        lambda *operands: _walk(*operands, columns=max_labels + 1),
        signature="(s),(s),(n),(n),(n)->(n),(s),(s)",
    )
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths, offsets
    costs, *posteriors = walk(*operands)
    return costs, *keep_posteriors(costs, *posteriors)


def lattice_backward(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    kept_posteriors: jax.Array,
    unused_totals: jax.Array,
    cotangents: jax.Array,
    *,
    max_labels: int,
) -> tuple[jax.Array, jax.Array]:
    """The arcs' cotangents (..., S) from those of the costs (..., N)."""
    del label_log_probs, unused_totals, max_labels
    rows = blank_log_probs.shape[-1]
    cotangents = row_cotangents(frames_lengths, labels_lengths, offsets, cotangents, rows)
    return arc_cotangents(kept_posteriors, cotangents)


def row_cotangents(
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    cotangents: jax.Array,
    rows: int,
) -> jax.Array:
    """The cotangent of the cost of each row's sequence, (..., S); zero for padding."""

    def of_rows(frames_lengths, labels_lengths, offsets, cotangents):
        sequence, _ = sequence_of_rows(frames_lengths, labels_lengths, offsets, rows)
        return take(cotangents, sequence, 0)

    of_rows = jnp.vectorize(of_rows, signature="(n),(n),(n),(n)->(s)")
    return of_rows(frames_lengths, labels_lengths, offsets, cotangents)


def _walk(blank_log_probs, label_log_probs, frames_lengths, labels_lengths, offsets, *, columns):
    (rows,) = blank_log_probs.shape
    dtype = blank_log_probs.dtype
    if rows == 0:
        return jnp.full(frames_lengths.shape, jnp.nan, dtype), blank_log_probs, label_log_probs
    stride = labels_lengths + 1
    room = (rows - offsets) // jnp.maximum(stride, 1)  # frames that fit behind the offset
    valid = (frames_lengths >= 1) & (labels_lengths >= 0) & (labels_lengths < columns)
    valid &= (offsets >= 0) & (frames_lengths <= room)
    frames = jnp.where(valid, frames_lengths, 0)[:, None]
    last_label = jnp.where(valid, labels_lengths, 0)[:, None]
    last_diagonal = frames + last_label - 1
    column = positions(columns, 2, -1)

    def cells(diagonal):
        """Packed index of each column's cell on the diagonal, `rows` outside the lattice."""
        frame = diagonal - column
        inside = (frame >= 0) & (frame < frames) & (column <= last_label)
        return jnp.where(inside, offsets[:, None] + frame * stride[:, None] + column, rows)

    def arcs(diagonal):
        """Both arcs of each cell, zero if they lead out, and a mask of cells with NaN or +inf."""
        index = cells(diagonal)
        blank = jnp.take(blank_log_probs, index, mode="fill", fill_value=-jnp.inf)
        leaves = (column < last_label) & (diagonal - column == frames - 1)
        blank = jnp.where(leaves, -jnp.inf, blank)
        label = jnp.take(label_log_probs, index, mode="fill", fill_value=-jnp.inf)
        label = jnp.where(column < last_label, label, -jnp.inf)
        return split(blank), split(label), ~((blank < jnp.inf) & (label < jnp.inf))

    def vary(carry):
        """The carry, varying over the same manual mesh axes as the arcs in the loop's body."""
        return jax.tree.map(lambda x: vary_alike(x, blank_log_probs)[0], carry)

    def where(condition, a, b):
        return Scaled(*(jnp.where(condition, x, y) for x, y in zip(a, b)))

    zero = Scaled(jnp.zeros(frames.shape, dtype), jnp.full(frames.shape, ZERO_EXPONENT, dtype))
    zeros = Scaled(*(jnp.broadcast_to(x, (len(frames), columns)) for x in zero))
    one = Scaled(jnp.ones_like(zeros.mantissa), jnp.zeros_like(zeros.exponent))
    diagonals = jnp.max(last_diagonal, initial=-1) + 1

    def forward(diagonal, carry):
        alpha, alphas, total, senseless = carry
        index = cells(diagonal)
        alphas = Scaled(*(a.at[index].set(x, mode="drop") for a, x in zip(alphas, alpha)))
        blank, label, wrong = arcs(diagonal)
        senseless |= wrong.any(-1, keepdims=True)
        leave, emit = multiply(alpha, blank), multiply(alpha, label)
        ends = (diagonal == last_diagonal) & (column == last_label)
        total = where(ends.any(-1, keepdims=True), _last(ends, leave), total)
        moved = Scaled(*(jnp.roll(x, 1, -1) for x in emit))
        return add(leave, where(column == 0, zeros, moved)), alphas, total, senseless

    def backward(step, carry):
        beta, blank_posteriors, label_posteriors = carry
        index = cells(diagonals - 1 - step)
        blank, label, _ = arcs(diagonals - 1 - step)
        ends = (diagonals - 1 - step == last_diagonal) & (column == last_label)
        leave = multiply(blank, where(ends, one, beta))
        moved = Scaled(*(jnp.roll(x, -1, -1) for x in beta))
        emit = multiply(label, moved)
        alpha = Scaled(*(jnp.take(x, index, mode="fill", fill_value=0) for x in alphas))

        def put(posteriors, arc):
            share = jnp.where(senseless, 0, _share(multiply(alpha, arc), total))
            return posteriors.at[index].set(share, mode="drop")

        posteriors = put(blank_posteriors, leave), put(label_posteriors, emit)
        return add(leave, emit), *posteriors

    start = where((column == 0) & valid[:, None], one, zeros)
    packed = jnp.zeros(rows, dtype)
    carry = vary((start, Scaled(packed, packed), zero, ~valid[:, None]))
    _, alphas, total, senseless = jax.lax.fori_loop(0, diagonals, forward, carry)
    _, *posteriors = jax.lax.fori_loop(0, diagonals, backward, vary((zeros, packed, packed)))
    costs = jnp.where(senseless, jnp.nan, -log(normalize(total)))
    return costs[:, 0], *posteriors


def _last(ends, x):
    return Scaled(*(jnp.where(ends, y, 0).sum(-1, keepdims=True) for y in x))


def _share(a: Scaled, b: Scaled) -> jax.Array:
    """a / b as a plain number in [0, 1], 0 where b is zero."""
    share = a.mantissa / jnp.where(b.mantissa == 0, 1, b.mantissa)
    power = jnp.exp2(jnp.clip(a.exponent - b.exponent, -126, 126))
    return jnp.where((b.mantissa == 0) | (a.mantissa == 0), 0, jnp.minimum(share * power, 1))
