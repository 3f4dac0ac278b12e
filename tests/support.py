"""Problems to solve and the public losses to solve them with, all in one calling convention.

Compiling takes far longer than running here, so tests share compiled functions: `evaluate` keeps
one for each loss and set of options, and most tests use the shape of `every_lattice`.
"""

import contextlib
import dataclasses
import doctest
import functools
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jax_rnnt
from jax_rnnt._xla import ffi

PACKAGE_PARENT = pathlib.Path(jax_rnnt.__file__).parents[1]
PLATFORM = "cuda" if jax.default_backend() == "gpu" else "cpu"
HAS_NATIVE = ffi.native_module(PLATFORM) is not None and ffi.fault(PLATFORM) is None
needs_native = pytest.mark.skipif(
    not HAS_NATIVE and os.environ.get("JAX_RNNT_REQUIRE_NATIVE") != "1",
    reason=f"jax_rnnt has no kernels for {PLATFORM} here",
)
IMPLEMENTATIONS = [
    pytest.param("native", marks=needs_native, id="native"),
    pytest.param("reference", id="reference"),
]
WAYS = [*IMPLEMENTATIONS, pytest.param("fallback", id="fallback")]
MOVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "all-reduce")
DTYPES = ["float32", "bfloat16", "float16", "float64"]
# What XLA does on a GPU with this flag alone.
SAME_BITS = "--xla_gpu_deterministic_ops=true"


def needs_on_gpu(flag: str) -> pytest.MarkDecorator:
    """A test is skipped on a GPU whose XLA runs without the flag."""
    lacks = jax.default_backend() == "gpu" and flag not in os.environ.get("XLA_FLAGS", "").split()
    return pytest.mark.skipif(lacks, reason=f"on a GPU this needs XLA_FLAGS={flag}")


class Problem(NamedTuple):
    """Arguments of a loss: rows (..., T, U, V) are logits or log-probabilities."""

    rows: np.ndarray
    labels: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """(..., T, U), whether a row lies within its sequence's lengths."""
        *_, T, U, _ = self.rows.shape
        frame, column = np.arange(T)[:, None], np.arange(U)
        return (frame < self.frames_lengths[..., None, None]) & (
            column <= self.labels_lengths[..., None, None]
        )


class Way(NamedTuple):
    """An implementation, and how many symbols it is given: shapes that no other way compiles."""

    implementation: str | None
    V: int


@dataclasses.dataclass(frozen=True)
class Loss:
    """A public loss, called with padded arguments whatever layout it takes itself."""

    from_logits: bool
    compact: bool = False
    implementation: str | None = None
    durations: tuple[int, ...] = ()  # of the loss of tokens and durations, where there are any

    def __str__(self) -> str:
        name = f"logits-{self.implementation}" if self.from_logits else "log_probs"
        name = f"tdt-{name}" if self.durations else name
        return f"compact-{name}" if self.compact else name

    def rows(self, logits: np.ndarray, dtype: str = "float32") -> np.ndarray:
        """Logits as this loss takes them, rounded to the dtype."""
        rows = np.asarray(logits, np.float64)
        return (rows if self.from_logits else oracle.log_softmax(rows)).astype(jnp.dtype(dtype))

    def __call__(self, rows, labels, frames_lengths, labels_lengths, **options) -> jax.Array:
        """The public function in its own layout."""
        arguments = rows, labels, frames_lengths, labels_lengths
        if not self.from_logits:
            return jax_rnnt.rnnt_loss(*arguments, compact=self.compact, **options)
        options |= dict(compact=self.compact, implementation=self.implementation)
        if self.durations:
            options["durations"] = self.durations
            return jax_rnnt.tdt_loss_from_logits(*arguments, **options)
        return jax_rnnt.rnnt_loss_from_logits(*arguments, **options)

    def expected(self, problem: Problem, **options: Any) -> oracle.Result:
        return oracle.loss(*problem, from_logits=self.from_logits, **options)


_ALL = [
    Loss(from_logits=False),
    Loss(from_logits=True, implementation="native"),
    Loss(from_logits=True, implementation="reference"),
    Loss(from_logits=False, compact=True),
    Loss(from_logits=True, compact=True, implementation="native"),
    Loss(from_logits=True, compact=True, implementation="reference"),
]
LOSSES = [
    pytest.param(x, id=str(x), marks=[needs_native] if x.implementation == "native" else [])
    for x in _ALL
]
LOGITS_LOSSES = [p for p in LOSSES if p.values[0].from_logits]
PADDED_LOSSES = [p for p in LOSSES if not p.values[0].compact]
DEFAULT_LOSS = Loss(from_logits=True)
# Every loss in each layout, by the kernels that there are.
ANY_LOSSES = [
    Loss(from_logits=False),
    DEFAULT_LOSS,
    Loss(from_logits=True, implementation="reference"),
    Loss(from_logits=False, compact=True),
    Loss(from_logits=True, compact=True),
    Loss(from_logits=True, compact=True, implementation="reference"),
]
# Options whose values are traced.
_TRACED = ("fastemit_lambda", "label_bias", "blank_bias", "sigma", "omega")


def precision(dtype: str) -> contextlib.AbstractContextManager:
    """Lets float64 be float64, for the length of a test."""
    wide = jnp.dtype(dtype) == np.float64
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


def every_lattice(rng: np.random.Generator, V: int = 5) -> Problem:
    """Sixteen sequences of every size up to 4 x 4, standard normal logits in float64."""
    index = np.arange(16)
    return Problem(
        rng.standard_normal((16, 4, 4, V)),
        rng.integers(0, V, (16, 3)).astype(np.int32),
        (1 + index // 4).astype(np.int32),
        (index % 4).astype(np.int32),
    )


def with_durations(rng: np.random.Generator, problem: Problem, count: int = 3) -> Problem:
    """The problem with so many durations' logits behind each row, in float32."""
    heads = rng.standard_normal((*problem.rows.shape[:-1], count))
    return problem._replace(rows=np.concatenate([problem.rows, heads], -1).astype(np.float32))


def ragged(rng: np.random.Generator, batch: tuple[int, ...], T: int, U: int, V: int) -> Problem:
    """Sequences of random lengths, standard normal logits in float32."""
    return Problem(
        rng.standard_normal((*batch, T, U, V), np.float32),
        rng.integers(0, V, (*batch, U - 1)).astype(np.int32),
        rng.integers(1, T + 1, batch).astype(np.int32),
        rng.integers(0, U, batch).astype(np.int32),
    )


def full(rng: np.random.Generator, batch: tuple[int, ...], T: int, U: int, V: int) -> Problem:
    """Sequences that fill their arrays."""
    return ragged(rng, batch, T, U, V)._replace(
        frames_lengths=np.full(batch, T, np.int32), labels_lengths=np.full(batch, U - 1, np.int32)
    )


def for_loss(loss: Loss, problem: Problem, dtype: str = "float32") -> Problem:
    """A problem of logits as one of the loss's own rows."""
    return problem._replace(rows=loss.rows(problem.rows, dtype))


def evaluate(loss: Loss, problem: Problem, cotangents=None, **options: Any) -> oracle.Result:
    """Costs and the gradients of cotangents . costs with respect to padded rows, under jit."""
    arguments = pack(problem) if loss.compact else problem
    if cotangents is None:
        reduced = options.get("reduction") in ("sum", "mean")
        cotangents = np.ones(() if reduced else problem.frames_lengths.shape)
    wide = problem.rows.dtype == np.float64
    cotangents = np.asarray(cotangents, np.float64 if wide else np.float32)
    traced = {key: options.pop(key) for key in _TRACED if key in options}
    run = compiled(loss, tuple(sorted(options.items())))
    costs, gradients = map(np.asarray, run(arguments, cotangents, traced))
    return oracle.Result(costs, unpack(gradients, problem) if loss.compact else gradients)


@functools.cache
def compiled(loss: Loss, options: tuple[tuple[str, Any], ...]):
    """The jitted function behind `evaluate`, of arguments in the loss's own layout."""

    @jax.jit
    def run(arguments, cotangents, traced_options):
        rows, *rest = arguments
        costs, vjp = jax.vjp(lambda x: loss(x, *rest, **dict(options), **traced_options), rows)
        return costs, *vjp(cotangents)

    return run


def pack(problem: Problem, filler: float = np.nan) -> Problem:
    """The compact layout, as many rows as the padded one has and a few more, all filler."""
    *_, U, V = problem.rows.shape
    rows = np.full((problem.inside.size + 3, V), filler, problem.rows.dtype)
    rows[: problem.inside.sum()] = problem.rows[problem.inside]
    labels = np.full(problem.labels.size + 2, -1, problem.labels.dtype)
    used = np.arange(U - 1) < problem.labels_lengths[:, None]
    labels[: used.sum()] = problem.labels[used]
    return problem._replace(rows=rows, labels=labels)


def cells_of(loss: Loss, problem: Problem, array: np.ndarray) -> np.ndarray:
    """An array (..., T, U) in the loss's layout."""
    cells = problem._replace(rows=array[..., None])
    return pack(cells, filler=0.0).rows[..., 0] if loss.compact else array


def unpack(packed: np.ndarray, problem: Problem) -> np.ndarray:
    """Gradients of `pack`ed rows in the padded layout, those of padding being zero."""
    padded = np.zeros(problem.rows.shape, packed.dtype)
    count = problem.inside.sum()
    padded[problem.inside] = packed[:count]
    assert not packed[count:].any(), "a row of padding has a gradient"
    return padded


def collectives(compiled: jax.stages.Compiled) -> set[str]:
    """The kinds of communication between devices in a compiled program."""
    text = compiled.as_text()
    return {move for move in MOVES if f" {move}(" in text or f" {move}-start(" in text}


def run_python(source: str, **environment: str) -> str:
    """What a fresh Python process prints; a failure of it is a failure here."""
    path = os.pathsep.join([str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-P", "-c", source],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_examples_are_true(name: str, value: Any) -> None:
    """What a docstring shows is there, and is what Python prints."""
    (test,) = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    assert test.examples, f"{name} has no example"
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)
