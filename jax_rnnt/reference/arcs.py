"""The padded lattice of any arcs in jax.numpy: over nodes of T + 1 rows and U columns.

An arc (dt, du) leaves every node (t, u) with t < T_n for the node (t + dt, u + du).

alpha(t, u) = [u = 0] exp initial(t) + sum_k alpha(t - dt, u - du) exp arc_k(t - dt, u - du)
beta(t, u) = [u = U_n] exp final(t) + sum_k exp arc_k(t, u) beta(t + dt, u + du)
cost = -log(sum_t alpha(t, U_n) exp final(t))
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt._xla.program import one_program
from jax_rnnt._xla.residuals import from_bits, to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions, skew, unskew
from jax_rnnt.reference.kept import weighted
from jax_rnnt.reference.lattice import valid_lengths
from jax_rnnt.reference.scaled import (
    ZERO_EXPONENT,
    Scaled,
    add_along,
    log,
    multiply,
    ratio,
    split,
)

Arc = tuple[int, int]


def arcs_cost(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    *,
    last: Collection[Arc] | None = None,
    initial: jax.Array | None = None,
    final: jax.Array | None = None,
) -> jax.Array:
    """-log of the sum over all paths of each sequence, by a scan over anti-diagonals.

    Args:
        arcs: log-weights (..., T, U) of the arcs (t, u) -> (t + dt, u + du), by (dt, du).
        frames_lengths, labels_lengths: (...) int32.
        last: which arcs may be a path's last, the only ones that reach T_n; None for all.
        initial, final: (..., T + 1) log-weights of a path's beginning at (t, 0) and of its end at
            (t, U_n); None for 0 at t = 0 and at t = T_n, and -inf elsewhere.

    Returns:
        (...) nats; +inf where there is no path, NaN where a length makes no sense or a weight
        within the lengths is NaN or +inf: such costs have zero gradients.
    """
    last = None if last is None else tuple(sorted(last))
    return _arcs_cost(dict(arcs), frames_lengths, labels_lengths, initial, final, last=last)


def _cost(arcs, frames_lengths, labels_lengths, initial, final, *, last):
    lattice = lattice_of(arcs, frames_lengths, labels_lengths, initial, final, last)
    return _costs(lattice, _total(lattice, _alphas(lattice)))


_arcs_cost = one_program(_cost, static_argnames=("last",))


def arcs_forward(
    *operands: jax.Array, dt: tuple[int, ...], du: tuple[int, ...], last: tuple[int, ...]
) -> tuple[jax.Array, ...]:
    """arcs_cost, and what arcs_backward needs: alphas and betas (..., T, U, 4), totals (..., 2).

    Args:
        operands: arcs, frames_lengths, labels_lengths, initial and final as of `arcs_cost`; those
            of shape (..., 0) stand for None.
        dt, du, last: of each arc: how many frames and labels it takes, whether it may be the last.
    """
    lattice = lattice_of(*_arguments(operands, dt, du, last))
    alphas, betas = _alphas(lattice), _betas(lattice)
    total = _total(lattice, alphas)
    # The nodes that arcs leave: not those behind the last frame.
    kept = [unskew(y)[..., :-1, :] for x in (alphas, betas) for y in x]
    return _costs(lattice, total), *to_bits(jnp.stack(kept, -1), jnp.stack(total, -1))


def arcs_backward(
    *operands: jax.Array, dt: tuple[int, ...], du: tuple[int, ...], last: tuple[int, ...]
) -> tuple[jax.Array, ...]:
    """The cotangents of initial, final and each of the arcs from those of the costs.

    Args:
        operands: those of arcs_forward, its results but the costs, the costs' cotangents.
        dt, du, last: as of arcs_forward.
    """
    *own, kept, total, cotangents = operands
    initial, final = own[-2:]
    lattice = lattice_of(*_arguments(own, dt, du, last))
    kept, total = from_bits(kept, total)
    alphas, betas, total = (
        Scaled(x[..., i], x[..., i + 1]) for x, i in ((kept, 0), (kept, 2), (total, 0))
    )
    total = _where(lattice.is_sensible, total)  # without a total there are no posteriors
    total = Scaled(*(x[..., None, None] for x in total))
    stop = split(lattice.stop)
    frame = positions(lattice.stop.shape[-2], lattice.stop.ndim, -2)
    is_inner = frame < lattice.frames[..., None, None]
    alphas, betas = (Scaled(*map(_add_row, x, _ZERO)) for x in (alphas, betas))
    betas = Scaled(*(jnp.where(is_inner, x, y) for x, y in zip(betas, stop)))

    def each(x: Scaled) -> Scaled:  # one for each arc
        return Scaled(*(y[None] for y in x))

    back = [(-frames, -labels) for frames, labels in lattice.steps]
    targets = Scaled(*(stack_moved([x] * len(back), back, fill) for x, fill in zip(betas, _ZERO)))
    paths = multiply(multiply(each(alphas), split(lattice.weights)), targets)
    posteriors = ratio(paths, each(total))
    begins = ratio(multiply(split(lattice.start), betas), total)
    # Where alpha was not kept, behind the last frame, it is all that arrives there.
    arrivals = begins + stack_moved(posteriors, lattice.steps, 0.0).sum(0)
    arrivals = jnp.where(lattice.stop > -jnp.inf, arrivals, 0)
    ends = jnp.where(is_inner, ratio(multiply(alphas, stop), total), arrivals)
    begins = begins.sum(-1)[..., : initial.shape[-1]]
    ends = ends.sum(-1)[..., : final.shape[-1]]
    gradients = weighted(posteriors[..., :-1, :], cotangents[None, ..., None, None])
    return (
        weighted(begins, cotangents[..., None]),
        weighted(ends, cotangents[..., None]),
        *lax.optimization_barrier(gradients),  # of all arcs at once, and not of one after another
    )


class _Lattice(NamedTuple):
    """Log-weights on nodes (..., T + 1, U), -inf where there is nothing; K arcs, by (du, dt)."""

    steps: list[Arc]
    weights: jax.Array  # (K, ..., T + 1, U), of the arcs that leave a node
    start: jax.Array  # of a path's beginning
    stop: jax.Array  # of its end
    frames: jax.Array  # T_n
    is_sensible: jax.Array


_ZERO = (0.0, ZERO_EXPONENT)  # mantissa and exponent


def _arguments(operands, dt, du, last):
    """The arguments of _cost from operands and attributes of a kernel."""
    keys = list(zip(dt, du))
    *log_weights, frames_lengths, labels_lengths, initial, final = operands
    return (
        dict(zip(keys, log_weights, strict=True)),
        frames_lengths,
        labels_lengths,
        None if initial.shape[-1] == 0 else initial,
        None if final.shape[-1] == 0 else final,
        [key for key, may_be_last in zip(keys, last) if may_be_last],
    )


def lattice_of(arcs, frames_lengths, labels_lengths, initial, final, last) -> _Lattice:
    keys = sorted(arcs, key=lambda arc: arc[::-1])
    weights = jnp.stack([arcs[key] for key in keys])
    T, U = weights.shape[-2:]
    leaves, tree = jax.tree.flatten((weights, initial, final))
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    *leaves, frames_lengths, labels_lengths = vary_alike(*leaves, *lengths)
    weights, initial, final = jax.tree.unflatten(tree, leaves)
    valid = valid_lengths(frames_lengths, labels_lengths, T, U)
    frames = jnp.where(valid, frames_lengths, 1)
    labels = jnp.where(valid, labels_lengths, 0)
    frames_end, labels_end = frames[..., None, None], labels[..., None, None]
    ndim = frames_end.ndim
    frame, column = positions(T + 1, ndim, -2), positions(U, ndim, -1)
    senseless = ~valid

    def used(is_used, log_weights):
        """The log-weights in use, but for NaN and +inf, which no derivative must meet."""
        wrong = is_used & ~(log_weights < jnp.inf)
        return jnp.where(is_used & ~wrong, log_weights, -jnp.inf), wrong.any((-2, -1))

    if initial is None:
        initial = jnp.where(frame[..., 0] == 0, jnp.zeros((), weights.dtype), -jnp.inf)
    if final is None:
        is_end = frame[..., 0] == frames[..., None]
        final = jnp.where(is_end, jnp.zeros((), weights.dtype), -jnp.inf)
    inside = frame <= frames_end
    start, wrong_start = used(inside & (column == 0), initial[..., None])
    stop, wrong_stop = used(inside & (column == labels_end), final[..., None])
    legal = []
    for key in keys:
        dt, du = at_most(key[0], T + 1), at_most(key[1], U)
        may_be_last = int(last is None or key in last)
        # From (T_n, u), u < U_n, nothing leads on.
        leads_on = (frame + dt < frames_end) | (column + du == labels_end)
        leads_on &= frame + dt < frames_end + may_be_last
        legal.append(leads_on & (column + du <= labels_end))
    legal = jnp.stack(legal) & (frame < frames_end)[None]
    weights, wrong_weights = used(legal, _add_row(weights, -jnp.inf))
    senseless |= wrong_start | wrong_stop | wrong_weights.any(0)
    return _Lattice(keys, weights, start, stop, frames, ~senseless)


def _alphas(lattice: _Lattice) -> Scaled:
    """Alphas of the nodes (T + U, ..., U), by anti-diagonal."""
    arriving = stack_moved(lattice.weights, lattice.steps, -jnp.inf)
    return _walk(lattice.start, arriving, lattice.steps, direction=1)


def _betas(lattice: _Lattice) -> Scaled:
    return _walk(lattice.stop, lattice.weights, lattice.steps, direction=-1)


def _walk(own, weights, steps, direction: int) -> Scaled:
    """x(node) = own(node) + sum_k weight_k(node) x(node - direction * step_k), by anti-diagonal.

    Args:
        own, weights: logarithms, of the nodes (..., T + 1, U) and (K, ..., T + 1, U).
        steps: K steps (dt, du), by du.
        direction: 1 from the first diagonal to the last, -1 from the last to the first.
    """
    own, weights = split(skew(own)), split(skew(weights))
    # What is further back than the first diagonal has weights of zero.
    backs = [at_most(sum(step), own.mantissa.shape[0]) - 1 for step in steps]
    past = Scaled(*(jnp.full_like(x[0], fill) for x, fill in zip(own, _ZERO)))
    past = Scaled(*(jnp.broadcast_to(x, (max(backs) + 1, *x.shape)) for x in past))

    def sources(x, fill):
        """The value at the other end of each arc, (K, ..., U)."""
        groups = []
        for du in sorted({du for _, du in steps}):
            own = np.array([back for back, step in zip(backs, steps) if step[1] == du])
            groups.append(move(x, 0, direction * du, fill)[own])
        return jnp.concatenate(groups)

    def step(past, diagonal):
        own, weights = diagonal
        terms = multiply(Scaled(*map(sources, past, _ZERO)), weights)
        own = Scaled(*(x[None] for x in own))
        x = add_along(Scaled(*map(_join, own, terms)), (0,))
        return Scaled(*(_join(y[None], z[:-1]) for y, z in zip(x, past))), x

    _, x = lax.scan(step, past, (own, weights), reverse=direction < 0)
    return x


def _join(a, b):
    return jnp.concatenate((a, b))


def _total(lattice, alphas):
    return add_along(multiply(alphas, split(skew(lattice.stop))), (0, -1))


def _costs(lattice, total):
    return jnp.where(lattice.is_sensible, -log(total), jnp.nan)


def _where(condition, x):
    return Scaled(*(jnp.where(condition, y, fill) for y, fill in zip(x, _ZERO)))


def stack_moved(arrays, steps, fill) -> jax.Array:
    moved = [move(x, dt, du, fill) for x, (dt, du) in zip(arrays, steps, strict=True)]
    return jnp.stack(moved)


def move(x, rows: int, columns: int, fill) -> jax.Array:
    """x moved down and to the right along its last axes (up, left: negative), filled behind."""
    for axis, by in ((x.ndim - 2, rows), (x.ndim - 1, columns)):
        if by:
            size = x.shape[axis]
            by = at_most(abs(by), size) * (1 if by > 0 else -1)
            pad = [(0, 0)] * x.ndim
            pad[axis] = (max(by, 0), max(-by, 0))
            x = jnp.pad(x, pad, constant_values=fill)
            x = lax.slice_in_dim(x, max(-by, 0), max(-by, 0) + size, axis=axis)
    return x


def _add_row(x, fill):
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, 1), (0, 0)], constant_values=fill)


def at_most(steps: int, size) -> int:
    """The steps of an arc, those that lead out of an array made no more than lead out of it."""
    return min(steps, size) if isinstance(size, int) else steps
