"""Lattices of any arcs in NumPy and float64: the sum over all paths, and two walks over nodes.

A key of arcs is (dt, du), and may go on: arcs that differ behind these two are parallel.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Arc = tuple  # (dt, du, ...)


class Lattice(NamedTuple):
    """Log-weights of one sequence of T frames and U - 1 labels: what is illegal is -inf."""

    arcs: dict[Arc, np.ndarray]  # (T, U)
    initial: np.ndarray  # (T + 1,), of beginning at (t, 0)
    final: np.ndarray  # (T + 1,), of ending at (t, U - 1)


class Path(NamedTuple):
    """One alignment: the log-weight of it all, where it begins and ends, the arcs it takes."""

    score: float
    begin: int
    arcs: tuple[tuple[Arc, int, int], ...]
    end: int


class Result(NamedTuple):
    """Costs, and posteriors or gradients, each shaped as the weights that they belong to."""

    cost: np.ndarray | float
    arcs: dict[Arc, np.ndarray]
    initial: np.ndarray
    final: np.ndarray


class Problem(NamedTuple):
    """Arguments of arcs_cost, padded."""

    arcs: dict[Arc, np.ndarray]  # (..., T, U)
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray
    last: tuple[Arc, ...] | None = None
    initial: np.ndarray | None = None  # (..., T + 1)
    final: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.arcs.values())).shape


def legal(arc: Arc, T: int, U: int, may_be_last: bool) -> np.ndarray:
    """(T, U), whether an arc leads to a node from which something leads on, or to the last one."""
    dt, du, *_ = arc
    frame, column = np.arange(T)[:, None], np.arange(U)
    leads_on = (frame + dt < T) | (column + du == U - 1)
    return leads_on & (frame + dt < T + may_be_last) & (column + du < U)


def paths(lattice: Lattice) -> Iterator[Path]:
    """Every path that a weight of -inf does not rule out: a beginning, arcs, an end."""
    T, U = next(iter(lattice.arcs.values())).shape

    def onward(path):
        t = path.begin + sum(arc[0] for arc, _, _ in path.arcs)
        u = sum(arc[1] for arc, _, _ in path.arcs)
        if u == U - 1 and lattice.final[t] > -np.inf:
            yield path._replace(score=path.score + lattice.final[t], end=t)
        for arc, weights in lattice.arcs.items() if t < T else ():
            if weights[t, u] > -np.inf:
                own = (*path.arcs, (arc, t, u))
                yield from onward(path._replace(score=path.score + weights[t, u], arcs=own))

    for begin in np.flatnonzero(lattice.initial > -np.inf):
        yield from onward(Path(lattice.initial[begin], int(begin), (), -1))


def enumerate_paths(lattice: Lattice, counts: Callable[[Path], bool] = lambda path: True) -> Result:
    """The sum over every path that counts: the definition."""
    result = _impossible(lattice)
    counted = [path for path in paths(lattice) if counts(path)]
    if not counted:
        return result
    scores = np.array([path.score for path in counted])
    weights = np.exp(scores - scores.max())
    for share, path in zip(weights / weights.sum(), counted):
        result.initial[path.begin] += share
        result.final[path.end] += share
        for arc, t, u in path.arcs:
            result.arcs[arc][t, u] += share
    return result._replace(cost=-(scores.max() + np.log(weights.sum())))


def alpha_beta(lattice: Lattice) -> Result:
    """The result of enumerate_paths, by dynamic programming over anti-diagonals of nodes."""
    T, U = next(iter(lattice.arcs.values())).shape
    start, stop = np.full((2, T + 1, U), -np.inf)
    start[:, 0], stop[:, -1] = lattice.initial, lattice.final
    margin = [max(arc[i] for arc in lattice.arcs) for i in (0, 1)]
    alpha, beta = np.full((2, T + 1 + margin[0], U + margin[1]), -np.inf)
    for diagonal in range(T + U):
        t, u = _nodes(diagonal, T, U)
        terms = [start[t, u]]
        for (dt, du), weights in lattice.arcs.items():
            known = (t >= dt) & (t < T + dt) & (u >= du)
            source = np.where(known, t - dt, 0), np.where(known, u - du, 0)
            terms.append(np.where(known, alpha[source] + weights[source], -np.inf))
        alpha[t, u] = np.logaddexp.reduce(terms)
    for diagonal in range(T + U - 1, -1, -1):
        t, u = _nodes(diagonal, T, U)
        beta[t, u] = stop[t, u]
        inner = t < T
        t, u = t[inner], u[inner]
        terms = [w[t, u] + beta[t + dt, u + du] for (dt, du), w in lattice.arcs.items()]
        beta[t, u] = np.logaddexp.reduce([beta[t, u], *terms])
    total = np.logaddexp.reduce(alpha[: T + 1, U - 1] + lattice.final)
    if total == -np.inf:
        return _impossible(lattice)
    inner = alpha[:T, :U] - total
    return Result(
        -total,
        {
            (dt, du): np.exp(inner + weights + beta[dt : T + dt, du : U + du])
            for (dt, du), weights in lattice.arcs.items()
        },
        np.exp(lattice.initial + beta[: T + 1, 0] - total),
        np.exp(alpha[: T + 1, U - 1] + lattice.final - total),
    )


def solve(
    problem: Problem,
    cotangents: np.ndarray | float = 1.0,
    align: Callable[[Lattice], Result] = enumerate_paths,
) -> Result:
    """Costs (...) of padded weights, and the gradients of cotangents . costs.

    Lengths and weights that make no sense cost NaN and have no gradient.
    """
    *batch, T, _ = problem.shape
    result = Result(
        np.full(batch, np.nan),
        {arc: np.zeros(problem.shape) for arc in problem.arcs},
        *np.zeros((2, *batch, T + 1)),
    )
    cotangents = np.broadcast_to(cotangents, batch)
    for index in np.ndindex(*batch):
        lattice = sequence(problem, index)
        if lattice is None:
            continue
        own = align(lattice)
        result.cost[index] = own.cost
        weight = -cotangents[index]
        for arc, posteriors in own.arcs.items():
            frames, columns = posteriors.shape
            result.arcs[arc][index][:frames, :columns] = weight * posteriors
        result.initial[index][: frames + 1] = weight * own.initial
        result.final[index][: frames + 1] = weight * own.final
    return result


def sequence(problem: Problem, index: tuple[int, ...]) -> Lattice | None:
    """One sequence of a problem; None if its lengths or its weights make no sense."""
    *_, T, U = problem.shape
    frames, columns = int(problem.frames_lengths[index]), int(problem.labels_lengths[index]) + 1
    if not (1 <= frames <= T and 1 <= columns <= U):
        return None
    arcs = {}
    for arc, weights in problem.arcs.items():
        may_be_last = problem.last is None or arc in problem.last
        own = np.asarray(weights[index][:frames, :columns], np.float64)
        arcs[arc] = np.where(legal(arc, frames, columns, may_be_last), own, -np.inf)
    ends = [np.full(frames + 1, -np.inf) for _ in range(2)]
    ends[0][0] = ends[1][frames] = 0
    for i, given in enumerate((problem.initial, problem.final)):
        if given is not None:
            ends[i] = np.asarray(given[index][: frames + 1], np.float64)
    if not all((x < np.inf).all() for x in (*arcs.values(), *ends)):
        return None
    return Lattice(arcs, *ends)


def _nodes(diagonal: int, T: int, U: int) -> tuple[np.ndarray, np.ndarray]:
    u = np.arange(max(0, diagonal - T), min(U - 1, diagonal) + 1)
    return diagonal - u, u


def _impossible(lattice: Lattice) -> Result:
    arcs = {arc: np.zeros(weights.shape) for arc, weights in lattice.arcs.items()}
    return Result(np.inf, arcs, *np.zeros((2, *lattice.initial.shape)))
