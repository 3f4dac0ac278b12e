"""The best path through the padded lattice of any arcs in jax.numpy, over the nodes of `arcs`.

score(t, u) = max([u = 0] initial(t), max_k score(t - dt, u - du) + arc_k(t - dt, u - du))
score = max_t score(t, U_n) + final(t)

Sums are exact (`path_scores`). Of equal arcs into a node the one of the fewest labels, then of the
fewest frames, is taken, a beginning last; of equal ends the latest.
"""

import functools
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.align import NO_FRAME
from jax_rnnt.reference.arcs import Arc, at_most, lattice_of, move, stack_moved
from jax_rnnt.reference.axes import positions, skew
from jax_rnnt.reference.path_scores import Score, add, is_greater, score, value


class ArcsPath(NamedTuple):
    """The best path of each sequence."""

    log_probs: jax.Array  # (...), -inf where there is none, NaN where something makes no sense
    label_frames: jax.Array  # (..., U - 1), NO_FRAME where there is no label or no path
    label_columns: jax.Array  # likewise, the column in which the arc that writes the label begins
    label_arcs: jax.Array  # likewise, which of the arcs in their order that is


def arcs_align(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    *,
    last: Collection[Arc] | None,
    initial: jax.Array | None,
    final: jax.Array | None,
) -> ArcsPath:
    """The arguments are those of `arcs.arcs_cost`; log_probs is differentiable."""
    lattice = lattice_of(arcs, frames_lengths, labels_lengths, initial, final, last)
    *batch, rows, U = lattice.stop.shape
    scores, choices = _walk(lattice)
    ends = add(scores, score(skew(lattice.stop)))
    ends = Score(*(_column(x, labels_lengths) for x in ends))
    end = _last_largest(ends)  # the diagonal
    total = value(Score(*(jnp.take_along_axis(x, end[None], 0)[0] for x in ends)))
    has_path = lattice.is_sensible & (total > -jnp.inf)
    labels = jnp.clip(labels_lengths, 0, U - 1)
    flat = [x.reshape(-1) for x in (end - labels, labels, has_path)]
    trace = functools.partial(_trace, steps=lattice.steps, rows=rows)
    trace = jax.vmap(trace, (1, 0, 0, 0))
    *labels, begins, taken = trace(choices.reshape(rows + U - 1, -1, U), *flat)
    # The derivative is that of the sum of what is taken; the value, that of exact sums.
    own = lattice.weights.reshape(len(lattice.steps), -1, rows, U)
    along = jnp.where(jnp.moveaxis(taken, 1, 0), own, 0).sum((0, -2, -1))
    for is_taken, weights in ((begins, lattice.start), (flat[0], lattice.stop)):
        place = positions(rows, 2, -1) == is_taken[:, None]
        place = place[..., None] & (weights.reshape(-1, rows, U) > -jnp.inf)
        along += jnp.where(place, weights.reshape(-1, rows, U), 0).sum((-2, -1))
    along = jnp.where(flat[2], along, 0).reshape(batch)
    total = jnp.where(lattice.is_sensible, lax.stop_gradient(total), jnp.nan)
    total = jnp.where(has_path, total + (along - lax.stop_gradient(along)), total)
    return ArcsPath(total, *(x.reshape(*batch, U)[..., :-1] for x in labels))


def _walk(lattice) -> tuple[Score, jax.Array]:
    """Scores of the nodes, and by which arc each is reached, K at a beginning: (T + U, ..., U)."""
    steps, weights = lattice.steps, lax.stop_gradient(lattice.weights)
    own = score(skew(lax.stop_gradient(lattice.start)))
    arcs = score(skew(stack_moved(weights, steps, -jnp.inf)))
    count = own.whole.shape[0]
    backs = [at_most(sum(step), count) - 1 for step in steps]
    past = Score(jnp.full_like(own.whole[0], -jnp.inf), jnp.zeros_like(own.units[0]))
    past = Score(*(jnp.broadcast_to(x, (max(backs) + 1, *x.shape)) for x in past))

    def step(past, diagonal):
        own, arcs = diagonal
        best, choice = own, jnp.full(own.units.shape, len(steps), jnp.int32)
        for k in reversed(range(len(steps))):
            fills = -jnp.inf, 0
            tail = Score(*(move(x[backs[k]], 0, steps[k][1], f) for x, f in zip(past, fills)))
            other = add(tail, Score(arcs.whole[k], arcs.units[k]))
            keeps = is_greater(best, other)
            best = Score(*(jnp.where(keeps, x, y) for x, y in zip(best, other)))
            choice = jnp.where(keeps, choice, k)
        past = Score(*(jnp.concatenate((x[None], y[:-1])) for x, y in zip(best, past)))
        return past, (best, choice.astype(jnp.int8 if len(steps) < 127 else jnp.int32))

    return lax.scan(step, past, (own, arcs))[1]


def _column(x, labels_lengths):
    """Each sequence's entry of its last column, (S, ...)."""
    column = jnp.clip(labels_lengths, 0, x.shape[-1] - 1)
    index = jnp.broadcast_to(column[None, ..., None], (*x.shape[:-1], 1))
    return jnp.take_along_axis(x, index, -1, mode="clip")[..., 0]


def _last_largest(ends: Score) -> jax.Array:
    """The index along axis 0 of the largest of scores, the last of equal ones."""

    def later(a, b):
        keeps = is_greater(a[0], b[0])
        best = Score(*(jnp.where(keeps, x, y) for x, y in zip(a[0], b[0])))
        return best, jnp.where(keeps, a[1], b[1])

    index = positions(ends.whole.shape[0], ends.whole.ndim, -ends.whole.ndim)
    index = jnp.broadcast_to(index, ends.whole.shape)
    return lax.associative_scan(later, (ends, index), axis=0)[1][-1]


def _trace(choices, t, u, has_path, steps, rows):
    """Back from the end of one sequence over choices (S, U).

    Returns:
        Three times (U,): the frame and the column in which the arc that writes each label begins,
        and which arc it is; the frame of the beginning, -1 where there is no path; (K, rows, U),
        the arcs that are taken.
    """
    S, U = choices.shape
    dt, du = (jnp.asarray([min(step[i], rows + U) for step in steps], jnp.int32) for i in (0, 1))
    column = jnp.arange(U, dtype=jnp.int32)

    def step(_, state):
        t, u, going, frames, columns, written, taken = state
        k = choices[jnp.where(going, t + u, 0), u].astype(jnp.int32)
        going &= k < len(steps)
        own = jnp.minimum(k, len(steps) - 1)
        t, before = jnp.where(going, t - dt[own], t), jnp.where(going, u - du[own], u)
        is_written = going & (column >= before) & (column < u)
        frames = jnp.where(is_written, t, frames)
        columns = jnp.where(is_written, before, columns)
        written = jnp.where(is_written, own, written)
        taken = taken.at[jnp.where(going, own, len(steps)), t, before].set(True, mode="drop")
        return t, before, going, frames, columns, written, taken

    none = jnp.full(U, NO_FRAME, jnp.int32)
    taken = jnp.zeros((len(steps), rows, U), bool)
    state = t, u, has_path, none, none, none, taken
    state = [vary_alike(x, choices, t)[0] for x in state]
    t, _, _, *labels, taken = lax.fori_loop(0, S, step, tuple(state))
    return *labels, jnp.where(has_path, t, -1), taken
