"""The compact lattice of any arcs in jax.numpy: `arcs` in the layout of `compact`.

A walk over anti-diagonals of nodes, whose number is known at run time only: forwards for alphas,
backwards for betas, both kept packed as the arcs are. Posteriors are products of what is kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt._xla.residuals import from_bits, to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.reference.compact import row_cotangents, sequence_of_rows, take
from jax_rnnt.reference.kept import weighted
from jax_rnnt.reference.scaled import ZERO_EXPONENT, Scaled, add_along, log, multiply, ratio, split


class _Steps(NamedTuple):
    """What K arcs, in ascending order of du, take: int32 (K, 1)."""

    dt: np.ndarray
    du: np.ndarray
    leaves_before: np.ndarray  # how far from T_n an arc begins at least


def arcs_cost(*operands: jax.Array, **options) -> tuple[jax.Array]:
    """Costs (..., N); see arcs_forward."""
    return (arcs_forward(*operands, **options)[0],)


def arcs_forward(
    *operands: jax.Array,
    dt: tuple[int, ...],
    du: tuple[int, ...],
    last: tuple[int, ...],
    max_labels: int,
) -> tuple[jax.Array, ...]:
    """Costs (..., N), alphas and betas (..., S, 4), totals (..., N, 2).

    Args:
        operands: arcs (..., S), frames_lengths, labels_lengths, offsets (..., N) as in `compact`,
            and two of shape (..., 0): paths begin at (0, 0) and end at (T_n, U_n).
        dt, du, last: of each arc: how many frames and labels it takes, whether it may be the last.
        max_labels: an upper bound of the labels' lengths; a longer sequence's cost is NaN.
    """
    *log_weights, frames_lengths, labels_lengths, offsets, _, _ = operands
    log_weights = jnp.stack(log_weights, -2)
    steps = _steps(log_weights.shape[-1], dt, du, last)
    walk = jnp.vectorize(
        lambda *own: _walk(*own, steps=steps, columns=max_labels + 1),
        signature="(k,s),(n),(n),(n)->(n),(s),(s),(s),(s),(n),(n)",
    )
    costs, *kept = walk(log_weights, frames_lengths, labels_lengths, offsets)
    return costs, *to_bits(jnp.stack(kept[:4], -1), jnp.stack(kept[4:], -1))


def arcs_backward(
    *operands: jax.Array,
    dt: tuple[int, ...],
    du: tuple[int, ...],
    last: tuple[int, ...],
    max_labels: int,
) -> tuple[jax.Array, ...]:
    """The cotangents of initial, final and each of the arcs from those of the costs.

    Args:
        operands: those of arcs_forward, its results but the costs, the costs' cotangents.
        dt, du, last, max_labels: as of arcs_forward.
    """
    *own, cotangents = operands
    frames_lengths, labels_lengths, offsets, initial, final = own[len(dt) : len(dt) + 5]
    lengths = frames_lengths, labels_lengths, offsets
    cotangents = row_cotangents(*lengths, cotangents, operands[0].shape[-1])
    own = posteriors(*own, dt=dt, du=du, last=last, max_labels=max_labels)
    gradients = weighted(jnp.stack(own), cotangents[None])
    return initial, final, *lax.optimization_barrier(gradients)


def posteriors(
    *operands: jax.Array,
    dt: tuple[int, ...],
    du: tuple[int, ...],
    last: tuple[int, ...],
    max_labels: int,
) -> tuple[jax.Array, ...]:
    """The posteriors of each of the arcs (..., S), from arcs_forward's operands and results."""
    del max_labels
    *log_weights, frames_lengths, labels_lengths, offsets, _, _ = operands[:-2]
    log_weights = jnp.stack(log_weights, -2)
    steps = _steps(log_weights.shape[-1], dt, du, last)
    kept = (x[..., i] for x in from_bits(*operands[-2:]) for i in range(x.shape[-1]))
    own = jnp.vectorize(
        lambda *own: _posteriors(*own, steps=steps),
        signature="(k,s),(n),(n),(n),(s),(s),(s),(s),(n),(n)->(k,s)",
    )
    return tuple(
        jnp.moveaxis(own(log_weights, frames_lengths, labels_lengths, offsets, *kept), -2, 0)
    )


def _steps(rows, dt, du, last):
    """Steps, none much longer than the array: beyond it they lead nowhere."""
    frames, labels = (np.minimum(x, rows + 1).astype(np.int32)[:, None] for x in (dt, du))
    may_be_last = np.asarray(last, np.int32)[:, None]
    return _Steps(frames, labels, frames + 1 - may_be_last)


def _walk(log_weights, frames_lengths, labels_lengths, offsets, *, steps, columns):
    _, rows = log_weights.shape
    dtype = log_weights.dtype
    packed = Scaled(*(jnp.zeros(rows, dtype),) * 2)
    if rows == 0:
        costs = jnp.full(frames_lengths.shape, jnp.nan, dtype)
        return costs, *packed, *packed, costs, costs
    room = (rows - offsets) // jnp.maximum(labels_lengths + 1, 1)  # frames behind the offset
    valid = (frames_lengths >= 1) & (labels_lengths >= 0) & (labels_lengths < columns)
    valid &= (offsets >= 0) & (frames_lengths <= room)
    frames = jnp.where(valid, frames_lengths, 0)
    labels = jnp.where(valid, labels_lengths, 0)
    diagonals = jnp.max(frames + labels, initial=-1) + 1
    # All that follows is (K, N, columns), of any of which there may be one.
    valid, frames, labels, first = (x[None, :, None] for x in (valid, frames, labels, offsets))
    dt, du, leaves_before = (x[..., None] for x in steps)
    column = positions(columns, 3, -1)
    # What is further back than the first diagonal has weights of zero.
    backs = np.minimum(steps.dt + steps.du, rows + columns)[:, 0] - 1

    def cells(frame, column, condition):
        """Packed index of each cell, `rows` outside the lattice."""
        inside = condition & (frame >= 0) & (frame < frames) & (column >= 0) & (column <= labels)
        return jnp.where(inside, first + frame * (labels + 1) + column, rows)

    def weights(frame, column):
        """The weights of the arcs that leave nodes, zero if not to be taken, or NaN or +inf.

        And which of them are NaN or +inf.
        """
        legal = _legal(frame, column, frames, labels, (dt, du, leaves_before))
        own = jax.vmap(lambda x, i: jnp.take(x, i, mode="fill", fill_value=-jnp.inf))(
            log_weights, cells(frame, column, legal)
        )
        wrong = ~(own < jnp.inf)
        return split(jnp.where(wrong, -jnp.inf, own)), wrong

    def sources(past, direction):
        """The value at the other end of each arc; what is rolled in meets weights of zero."""
        groups = []
        for by in np.unique(steps.du):
            own = backs[steps.du[:, 0] == by]
            groups.append(Scaled(*(jnp.roll(x, direction * by, -1)[own] for x in past)))
        return Scaled(*(jnp.concatenate(x) for x in zip(*groups)))

    def total_of(own, terms):
        every = Scaled(*(jnp.concatenate(x) for x in zip(own, terms)))
        return Scaled(*(x[None] for x in add_along(every, (0,))))

    def push(past, x):
        return Scaled(*(jnp.concatenate((y, z[:-1])) for y, z in zip(x, past)))

    def vary(carry):
        """The carry, varying over the same manual mesh axes as the arcs in the loop's body."""
        return jax.tree.map(lambda x: vary_alike(x, log_weights)[0], carry)

    def put(packed, frame, x):
        index = cells(frame, column, True)
        return Scaled(*(y.at[index].set(z, mode="drop") for y, z in zip(packed, x)))

    def forward(diagonal, carry):
        past, alphas, total, senseless = carry
        frame = diagonal - column
        own, wrong = weights(frame - dt, column - du)
        senseless |= wrong.any((0, -1), keepdims=True)
        begins = _where((frame == 0) & (column == 0) & valid, one)
        alpha = total_of(begins, multiply(sources(past, 1), own))
        ends = (frame == frames) & (column == labels)
        here = Scaled(*(jnp.where(ends, x, 0).sum(-1, keepdims=True) for x in alpha))
        is_last = ends.any(-1, keepdims=True)
        total = Scaled(*(jnp.where(is_last, x, y) for x, y in zip(here, total)))
        return push(past, alpha), put(alphas, frame, alpha), total, senseless

    def backward(step, carry):
        future, betas = carry
        frame = diagonals - 1 - step - column
        ends = _where((frame == frames) & (column == labels) & valid, one)
        own, _ = weights(frame, column)
        beta = total_of(ends, multiply(sources(future, -1), own))
        return push(future, beta), put(betas, frame, beta)

    shape = frames.size, columns
    one = Scaled(jnp.ones((1, *shape), dtype), jnp.zeros((1, *shape), dtype))
    past, zero = _zeros((max(backs) + 1, *shape), dtype), _zeros(frames.shape, dtype)
    carry = vary((past, packed, zero, ~valid))
    _, alphas, total, senseless = lax.fori_loop(0, diagonals, forward, carry)
    _, betas = lax.fori_loop(0, diagonals, backward, vary((past, packed)))
    costs = jnp.where(senseless, jnp.nan, -log(total))
    total = _where(~senseless, total)  # without a total there are no posteriors
    return costs[0, :, 0], *alphas, *betas, *(x[0, :, 0] for x in total)


def _legal(frame, column, frames, labels, steps):
    """Whether an arc leads to a node that leads on, or to the last one of all."""
    dt, du, leaves_before = steps
    leads_on = (frame < frames - dt) | (column == labels - du)
    return leads_on & (frame <= frames - leaves_before) & (column <= labels - du)


def _posteriors(log_weights, frames_lengths, labels_lengths, offsets, *kept, steps):
    """Posteriors (K, S) of the arcs of each row."""
    alphas, betas, totals = (Scaled(*kept[i : i + 2]) for i in (0, 2, 4))
    _, rows = log_weights.shape
    sequence, row = sequence_of_rows(frames_lengths, labels_lengths, offsets, rows)
    frames, labels = take(frames_lengths, sequence, 0), take(labels_lengths, sequence, 0)
    total = Scaled(*(take(x, sequence, 0)[None] for x in totals))
    stride = jnp.maximum(labels + 1, 1)
    frame, column = (row // stride)[None], (row % stride)[None]
    frames, labels, stride = frames[None], labels[None], stride[None]
    dt, du, _ = steps
    legal = _legal(frame, column, frames, labels, steps)
    weights = split(jnp.where(legal & (log_weights < jnp.inf), log_weights, -jnp.inf))
    # Nodes behind the last frame are not kept, of which one has a beta.
    is_last = frame == frames - dt
    index = positions(rows, 2, -1) + dt * stride + du
    index = jnp.where(legal & ~is_last, index, rows)
    at_end = is_last & (column == labels - du)
    targets = Scaled(
        jnp.where(at_end, 1, jnp.take(betas.mantissa, index, mode="fill", fill_value=0)),
        jnp.where(at_end, 0, jnp.take(betas.exponent, index, mode="fill", fill_value=0)),
    )
    paths = multiply(multiply(Scaled(*(x[None] for x in alphas)), weights), targets)
    return ratio(paths, total)


def _zeros(shape, dtype):
    return Scaled(jnp.zeros(shape, dtype), jnp.full(shape, ZERO_EXPONENT, dtype))


def _where(condition, x):
    return Scaled(
        jnp.where(condition, x.mantissa, 0), jnp.where(condition, x.exponent, ZERO_EXPONENT)
    )
