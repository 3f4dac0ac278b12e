"""Lattices of the losses' arcs, and the ways to their cost, all in one calling convention."""

import contextlib
import dataclasses
import functools
import unittest.mock
from typing import NamedTuple

import arcs_oracle
import jax
import numpy as np
import pytest
from arcs_oracle import Arc, Problem, Result
from support import needs_native
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt
from jax_rnnt._xla import ffi


class Kind(NamedTuple):
    """A loss's arcs."""

    arcs: tuple[Arc, ...]
    last: tuple[Arc, ...] | None = None
    has_ends: bool = False  # initial and final are given

    @property
    def has_kernels(self) -> bool:
        return all(dt <= 8 and du <= 1 for dt, du in self.arcs)


def durations(*frames: int) -> Kind:
    """A token and its duration: a blank moves on, and is the last."""
    blanks = tuple((dt, 0) for dt in frames if dt)
    return Kind((*((dt, 1) for dt in frames), *blanks), blanks)


KINDS = {
    "rnnt": Kind(((1, 0), (0, 1))),
    "one_symbol": Kind(((1, 0), (1, 1))),
    "multi_blank": Kind(((1, 0), (2, 0), (3, 0), (0, 1)), ((1, 0), (2, 0), (3, 0))),
    "durations_012": durations(0, 1, 2),
    "durations_123": durations(1, 2, 3),
    "durations_04": durations(0, 4),
    "durations_201": durations(2, 0, 1),
    "durations_01234": durations(0, 1, 2, 3, 4),
    "rnnt_ends": Kind(((1, 0), (0, 1)), has_ends=True),
    "long_durations_ends": durations(0, 2, 8)._replace(has_ends=True),
    "labels_only": Kind(((1, 1),)),
    "three_labels": Kind(tuple((1, n) for n in range(4))),
    "any_ends": Kind(((2, 1), (0, 2), (9, 3), (1, 0)), ((2, 1),), has_ends=True),
}


@dataclasses.dataclass(frozen=True)
class Way:
    """To the costs of padded arguments; "fallback" is what runs where there are no kernels."""

    implementation: str | None
    compact: bool = False

    def __str__(self) -> str:
        return f"{'compact-' * self.compact}{self.implementation}"

    def takes(self, kind: Kind) -> bool:
        if self.compact and kind.has_ends:
            return False
        return kind.has_kernels or self.implementation == "reference"

    def __call__(
        self, arcs, frames_lengths, labels_lengths, ends, last, max_labels=None
    ) -> jax.Array:
        """The costs of arcs, and of initial and final unless they are None, in its own layout."""
        return jax_rnnt.arcs_cost(
            arcs,
            frames_lengths,
            labels_lengths,
            last=last,
            initial=ends[0],
            final=ends[1],
            compact=self.compact,
            max_labels=max_labels if self.compact else None,
            implementation=None if self == FALLBACK else self.implementation,
        )

    def compiling(self):
        """A context in which there are kernels, or none, for what is compiled in it."""
        if self != FALLBACK:
            return contextlib.nullcontext()
        return unittest.mock.patch.object(ffi, "register", return_value=False)


NATIVE, REFERENCE, FALLBACK = Way("native"), Way("reference"), Way("fallback")
COMPACT, COMPACT_REFERENCE = Way("native", compact=True), Way("reference", compact=True)
WAYS = [NATIVE, REFERENCE, FALLBACK, COMPACT, COMPACT_REFERENCE]


def parameters(kinds=tuple(KINDS), ways=tuple(WAYS)) -> list:
    """pytest's parameters: each way of each kind that it takes."""
    return [
        pytest.param(
            way,
            KINDS[name],
            marks=[needs_native] if way.implementation == "native" else [],
            id=f"{way}-{name}",
        )
        for way in ways
        for name in kinds
        if way.takes(KINDS[name])
    ]


def make(rng: np.random.Generator, kind: Kind, batch=(16,), T=4, U=4) -> Problem:
    """Standard normal log-weights of sequences of every size up to 4 x 4, in turn."""
    index = np.arange(np.prod(batch)).reshape(batch)

    def weights(*shape):
        return rng.standard_normal((*batch, *shape)).astype(np.float32)

    ends = (weights(T + 1), weights(T + 1)) if kind.has_ends else (None, None)
    return Problem(
        {arc: weights(T, U) for arc in kind.arcs},
        (1 + index // U % T).astype(np.int32),
        (index % U).astype(np.int32),
        kind.last,
        *ends,
    )


def evaluate(way: Way, problem: Problem, cotangents=None) -> Result:
    """Costs and the gradients of cotangents . costs, padded whatever the way's layout."""
    arcs, frames_lengths, labels_lengths, last, *ends = problem
    wide = next(iter(arcs.values())).dtype == np.float64
    cotangents = np.ones(frames_lengths.shape) if cotangents is None else cotangents
    cotangents = np.asarray(cotangents, np.float64 if wide else np.float32)
    inside = None
    if way.compact:
        inside = inside_of(problem)
        arcs = {arc: _pack(x, inside) for arc, x in arcs.items()}
    run = compiled(way, last, problem.shape[-1] - 1)
    lengths = frames_lengths, labels_lengths
    with way.compiling():
        results = run(arcs, *lengths, ends, cotangents)
    costs, arcs, ends = jax.tree.map(np.asarray, results)
    if way.compact:
        arcs = {arc: _unpack(x, inside) for arc, x in arcs.items()}
    return Result(costs, arcs, *ends)


@functools.cache
def compiled(way: Way, last: tuple[Arc, ...] | None, max_labels: int):
    """The jitted function behind `evaluate`, of arguments in the way's own layout."""

    @jax.jit
    def run(arcs, frames_lengths, labels_lengths, ends, cotangents):
        lengths = frames_lengths, labels_lengths
        costs, vjp = jax.vjp(lambda *x: way(x[0], *lengths, x[1], last, max_labels), arcs, ends)
        return costs, *vjp(cotangents)

    return run


def assert_near(actual: Result, expected: Result, dtype="float32", scale: float = 1.0) -> None:
    """Costs and all gradients are near; of ends, those that are given."""
    assert_costs(actual.cost, expected.cost, dtype)
    for arc, gradients in expected.arcs.items():
        assert_gradients(actual.arcs[arc], gradients, dtype, scale=scale)
    for own, gradients in zip(actual[2:], expected[2:]):
        if own is not None:
            assert_gradients(own, gradients, dtype, scale=scale)


def check(way: Way, problem: Problem, cotangents=None, align=arcs_oracle.enumerate_paths) -> Result:
    """The way's result, which must be the oracle's."""
    actual = evaluate(way, problem, cotangents)
    expected = arcs_oracle.solve(problem, 1.0 if cotangents is None else cotangents, align)
    scale = 1.0 if cotangents is None else float(np.abs(cotangents).max())
    assert_near(actual, expected, next(iter(problem.arcs.values())).dtype.name, scale)
    for gradients in _all_gradients(actual):
        assert not gradients[~np.isfinite(expected.cost)].any()
    return actual


def assert_same(actual: Result, expected: Result, where=slice(None)) -> None:
    """The same bits, of the sequences that `where` picks."""
    assert_same_bits(actual.cost[where], expected.cost[where])
    for own, other in zip(_all_gradients(actual), _all_gradients(expected), strict=True):
        assert_same_bits(own[where], other[where])


def assert_alone(actual: Result, untouched: Result, spoilt: int, cost: float) -> None:
    """One sequence has this cost and no gradients, every other one the same bits as before."""
    np.testing.assert_equal(actual.cost[spoilt], cost)
    for gradients in _all_gradients(actual):
        assert not gradients[spoilt].any()
    assert_same(actual, untouched, np.arange(len(actual.cost)) != spoilt)


def _all_gradients(result: Result) -> list[np.ndarray]:
    return [x for x in (*result.arcs.values(), *result[2:]) if x is not None]


def legal(problem: Problem) -> dict[Arc, np.ndarray]:
    """(N, T, U) for each arc, whether it may be taken from each cell."""
    found = {arc: np.zeros(problem.shape, bool) for arc in problem.arcs}
    for n, (frames, labels) in enumerate(zip(problem.frames_lengths, problem.labels_lengths)):
        for arc, own in found.items():
            may_be_last = problem.last is None or arc in problem.last
            own[n, :frames, : labels + 1] = arcs_oracle.legal(arc, frames, labels + 1, may_be_last)
    return found


def inside_of(problem: Problem) -> np.ndarray:
    """(N, T, U), whether a cell lies within its sequence's lengths."""
    *_, T, U = problem.shape
    frame, column = np.arange(T)[:, None], np.arange(U)
    return (frame < problem.frames_lengths[:, None, None]) & (
        column <= problem.labels_lengths[:, None, None]
    )


def _pack(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The compact layout, as many rows as the padded one has and a few more, filler NaN."""
    packed = np.full(inside.size + 3, np.nan, x.dtype)
    packed[: inside.sum()] = x[inside]
    return packed


def _unpack(packed: np.ndarray, inside: np.ndarray) -> np.ndarray:
    padded = np.zeros(inside.shape, packed.dtype)
    count = inside.sum()
    padded[inside] = packed[:count]
    assert not packed[count:].any(), "a row of padding has a gradient"
    return padded
