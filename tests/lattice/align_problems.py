"""Lattices to align, and the ways to align them, all in one calling convention."""

import contextlib
import dataclasses
import functools
import unittest.mock
from typing import NamedTuple

import jax
import numpy as np
import paths_oracle
import pytest
from support import needs_native

import jax_rnnt
from jax_rnnt._xla import ffi


class Problem(NamedTuple):
    """Padded arguments of lattice_align."""

    blank: np.ndarray
    label: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        T, U = self.blank.shape[-2:]
        frame, column = np.arange(T)[:, None], np.arange(U)
        return (frame < self.frames_lengths[..., None, None]) & (
            column <= self.labels_lengths[..., None, None]
        )


@dataclasses.dataclass(frozen=True)
class Way:
    """An implementation in a layout; "fallback" is what runs where there are no kernels."""

    implementation: str
    compact: bool = False

    def __str__(self) -> str:
        return f"{'compact-' * self.compact}{self.implementation}"

    def __call__(self, problem: Problem) -> jax_rnnt.Alignment:
        """The alignment under jit, entries of the padded layout's shape."""
        run = self.function(problem.blank.shape[-1] - 1)
        arguments = pack(problem) if self.compact else problem
        with self.compiling():
            return jax_rnnt.Alignment(*map(np.asarray, run(*arguments)))

    @functools.cache  # noqa: B019
    def function(self, max_labels: int):
        def run(*arguments):
            return jax_rnnt.lattice_align(
                *arguments,
                compact=self.compact,
                max_labels=max_labels if self.compact else None,
                implementation=None if self.implementation == "fallback" else self.implementation,
            )

        return jax.jit(run)

    def compiling(self):
        if self.implementation != "fallback":
            return contextlib.nullcontext()
        return unittest.mock.patch.object(ffi, "register", return_value=False)


WAYS = [
    pytest.param(
        Way(implementation, compact),
        marks=[needs_native] if implementation == "native" else [],
        id=str(Way(implementation, compact)),
    )
    for compact in (False, True)
    for implementation in ("native", "reference", "fallback")
]


def pack(problem: Problem) -> Problem:
    """The compact layout, with a few rows more that hold NaN."""
    packed = []
    for arcs in problem[:2]:
        rows = np.full(problem.inside.size + 3, np.nan, arcs.dtype)
        rows[: problem.inside.sum()] = arcs[problem.inside]
        packed.append(rows)
    return Problem(packed[0], packed[1], *problem[2:])


def make(rng: np.random.Generator, T: int = 5, U: int = 4, halves: bool = False) -> Problem:
    """Sequences of every size up to T x U, NaN beyond them; `halves`: many paths are equal."""
    index = np.arange(T * U)
    shape = 2, T * U, T, U
    arcs = -rng.integers(1, 5, shape) / 2 if halves else np.log(rng.uniform(0.01, 1, shape))
    lengths = (1 + index // U).astype(np.int32), (index % U).astype(np.int32)
    problem = Problem(*arcs.astype(np.float32), *lengths)
    blank, label = (np.where(problem.inside, x, np.nan) for x in problem[:2])
    for n, (frames, labels) in enumerate(zip(*lengths)):
        label[n, :, labels] = np.nan  # leads out of the lattice
        blank[n, frames - 1, :labels] = np.nan
    return Problem(blank.astype(np.float32), label.astype(np.float32), *lengths)


def own_arcs(problem: Problem, n: int) -> list[np.ndarray]:
    """Both arcs of one sequence (T_n, U_n + 1) in float64."""
    frames, columns = problem.frames_lengths[n], problem.labels_lengths[n] + 1
    return [x[n, :frames, :columns].astype(np.float64) for x in problem[:2]]


def assert_best(actual: jax_rnnt.Alignment, problem: Problem, oracle=paths_oracle.best_of_all):
    """The path of each sequence is the oracle's, and its labels' log-probabilities are there."""
    for n, labels in enumerate(problem.labels_lengths):
        blank, label = own_arcs(problem, n)
        best = oracle(blank, label)
        np.testing.assert_allclose(actual.log_probs[n], best.score, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(actual.label_frames[n, :labels], best.frames)
        np.testing.assert_array_equal(actual.label_frames[n, labels:], -1)
        written = label[list(best.frames), range(labels)]
        np.testing.assert_array_equal(actual.label_log_probs[n, :labels], written)
        np.testing.assert_array_equal(actual.label_log_probs[n, labels:], 0)
