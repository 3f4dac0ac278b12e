"""The pruned recipe, materialised in NumPy and float64: every definition of it, one by one."""

import functools
from typing import Any, NamedTuple

import alignments
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pruned_ranges
from support import PLATFORM
from support import Problem as Rows
from tolerances import assert_costs, relative_error

import jax_rnnt


class Operands(NamedTuple):
    """What gradients are taken of, or these gradients."""

    encoder: np.ndarray
    predictor: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    simple_encoder: np.ndarray
    simple_predictor: np.ndarray


class Problem(NamedTuple):
    """Everything that pruned_rnnt_loss takes."""

    operands: Operands
    labels: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray

    @property
    def batch(self) -> tuple[np.ndarray, ...]:
        return self[1:]


class Result(NamedTuple):
    """Of a batch; gradients are of the sum of simple and pruned costs, each times its weight."""

    simple: np.ndarray
    pruned: np.ndarray
    gradients: Operands


def make_problem(
    rng: np.random.Generator,
    frames: Any = (5, 4, 1, 5, 3, 2),
    labels: Any = (4, 3, 1, 0, 2, 0),
    *,
    T: int = 5,
    U: int = 5,
    H: int = 3,
    V: int = 6,
    scale: float = 1.0,
    dtype: str = "float32",
) -> Problem:
    """Utterances of these lengths, of which the padding is NaN."""
    N = len(frames)

    def normal(*shape):
        return (scale * rng.standard_normal(shape)).astype(jnp.dtype(dtype))

    operands = Operands(
        normal(N, T, H), normal(N, U, H), normal(H, V), normal(V), normal(N, T, V), normal(N, U, V)
    )
    lengths = np.asarray(frames, np.int32), np.asarray(labels, np.int32)
    symbols = rng.integers(1, V, (N, U - 1)).astype(np.int32)
    symbols[:, 1:2] = symbols[:, :1]  # a label that repeats
    return spoilt(Problem(operands, symbols, *lengths))


def spoilt(problem: Problem, filler: float = np.nan) -> Problem:
    """The problem with the filler in all padding."""
    own = problem.operands
    T, U = own.encoder.shape[-2], own.predictor.shape[-2]
    frames = (np.arange(T) < problem.frames_lengths[..., None])[..., None]
    columns = (np.arange(U) <= problem.labels_lengths[..., None])[..., None]

    def fill(inside, x):
        return np.where(inside, x, np.asarray(filler, x.dtype))

    return problem._replace(
        operands=own._replace(
            encoder=fill(frames, own.encoder),
            predictor=fill(columns, own.predictor),
            simple_encoder=fill(frames, own.simple_encoder),
            simple_predictor=fill(columns, own.simple_predictor),
        )
    )


# ---- The definition


class SimpleArcs(NamedTuple):
    """Of one utterance's frames and columns: both arcs, and what their cotangents come to."""

    cells: alignments.Cells
    joint: np.ndarray  # (T, U, V) probabilities
    own: np.ndarray  # (U, V)

    def gradients(self, labels, blanks, emitted, blank: int, scale: float):
        """Of encoder (T, V) and predictor (U, V), from both arcs' cotangents (T, U)."""
        total = (blanks + emitted)[..., None]
        picked = np.zeros(self.joint.shape)
        picked[..., blank] += blanks
        for u, symbol in enumerate(labels):
            picked[:, u, symbol] += emitted[:, u]
        joint = (1 - scale) * (picked - total * self.joint)
        return joint.sum(1), joint.sum(0) + scale * (picked - total * self.own).sum(0)


def simple_arcs(encoder, predictor, labels, blank: int, scale: float) -> SimpleArcs:
    """Of one utterance without padding."""
    joint = oracle.log_softmax(encoder[:, None] + predictor)
    own = oracle.log_softmax(predictor)
    mixed = (1 - scale) * joint + scale * own
    label = np.full(mixed.shape[:2], -np.inf)
    label[:, :-1] = mixed[:, np.arange(len(labels)), labels]
    cells = alignments.Cells(mixed[..., blank], label, np.zeros((*label.shape, 0)))
    return SimpleArcs(cells, np.exp(joint), np.exp(own))


def band_bias(columns: np.ndarray, width: int, U: int) -> np.ndarray:
    """(..., T, U), -inf outside the band."""
    place = np.arange(U) - columns[..., None]
    return np.where((place >= 0) & (place < width), 0.0, -np.inf)


def expected(
    problem: Problem,
    *,
    width: int,
    rnnt_type: str = "regular",
    normalize: str = "softmax",
    blank: int = 0,
    lm_scale: float = 0.25,
    fastemit_lambda: float = 0.0,
    label_bias: Any = 0.0,
    weights: tuple[float, float] = (0.5, 1.0),
) -> tuple[Result, np.ndarray]:
    """By all alignments; and the columns (N, T)."""
    clean = spoilt(problem, 0.0)
    own = Operands(*(np.asarray(x, np.float64) for x in clean.operands))
    (N, T, _), U = own.encoder.shape, own.predictor.shape[1]
    V, moves = own.kernel.shape[1], alignments.TYPES[rnnt_type]
    blank %= V
    bias = np.broadcast_to(np.asarray(label_bias, np.float64), (N, T, U))
    columns, simple = np.zeros((N, T), int), np.zeros(N)
    gradients = Operands(*map(np.zeros_like, own))
    for n, (frames, count) in enumerate(zip(*problem.batch[1:])):
        inside = slice(frames), slice(count + 1)
        labels = problem.labels[n, :count]
        arcs = simple_arcs(
            own.simple_encoder[n, :frames],
            own.simple_predictor[n, : count + 1],
            labels,
            blank,
            lm_scale,
        )
        cells = arcs.cells._replace(label=arcs.cells.label + bias[n][inside])
        found = alignments.enumerate_alignments(cells, moves)
        simple[n] = found.cost
        posteriors = np.zeros((2, T, U))
        posteriors[0][inside], posteriors[1][inside] = found.posteriors[:2]
        if rnnt_type == "constrained":  # the arcs': a blank after a label is a part of that arc
            posteriors[0][:, 1:] -= posteriors[1][:, :-1]
        columns[n] = pruned_ranges.ranges(*posteriors, frames, count, width, rnnt_type)
        emitted = found.posteriors.label * (1 + fastemit_lambda)
        both = arcs.gradients(labels, -found.posteriors.blank, -emitted, blank, lm_scale)
        gradients.simple_encoder[n, :frames] = weights[0] * both[0]
        gradients.simple_predictor[n, : count + 1] = weights[0] * both[1]
    hidden = np.tanh(own.encoder[:, :, None] + own.predictor[:, None])
    outside = band_bias(columns, min(width, U), U)
    answer = alignments.answer(
        Rows(hidden @ own.kernel + own.bias, *problem.batch),
        moves,
        normalize=normalize,
        blank=blank,
        fastemit_lambda=fastemit_lambda,
        label_bias=bias + outside,
        blank_bias=outside,
    )
    logits = weights[1] * answer.gradients
    back = (logits @ own.kernel.T) * (1 - hidden**2)
    gradients = gradients._replace(
        encoder=back.sum(2),
        predictor=back.sum(1),
        kernel=np.einsum("ntuh,ntuv->hv", hidden, logits),
        bias=logits.sum((0, 1, 2)),
    )
    return Result(simple, answer.costs, gradients), columns


# ---- The public function


@functools.cache
def compiled(options: tuple):
    """Both costs, and the gradients of their sums with weights, jitted."""

    @jax.jit
    def run(problem, weights, traced):
        def costs(operands):
            return jax_rnnt.pruned_rnnt_loss(*operands, *problem.batch, **dict(options), **traced)

        losses, vjp = jax.vjp(costs, problem.operands)
        ones = (w * jnp.ones_like(x) for w, x in zip(weights, losses))
        (gradients,) = vjp(jax_rnnt.PrunedLosses(*ones))
        return losses, gradients

    return run


def evaluate(
    problem: Problem, weights: tuple[float, float] = (0.5, 1.0), traced=None, **options: Any
) -> Result:
    dtype = np.float64 if problem.operands.encoder.dtype == np.float64 else np.float32
    run = compiled(tuple(sorted(options.items())))
    losses, gradients = run(problem, np.asarray(weights, dtype), traced or {})
    return Result(*map(np.asarray, losses), Operands(*map(np.asarray, gradients)))


# Norm over norm, of each of the six gradients. On CUDA the simple joint's products in float32 are
# of two bfloat16 halves of each factor.
GRADIENT_ERRORS = {"float64": 1e-12, "float32": 5e-5 if PLATFORM == "cuda" else 2e-6}


def assert_simple_costs(actual, wanted, dtype: str = "float32") -> None:
    if PLATFORM == "cuda" and dtype == "float32":
        np.testing.assert_allclose(actual, wanted, rtol=1e-5)
    else:
        assert_costs(actual, wanted, dtype)


def assert_close(actual: Result, wanted: Result, dtype: str = "float32") -> None:
    assert_simple_costs(actual.simple, wanted.simple, dtype)
    assert_costs(actual.pruned, wanted.pruned, dtype)
    for name, gradient, other in zip(Operands._fields, actual.gradients, wanted.gradients):
        assert gradient.dtype == dtype, name
        assert relative_error(gradient, other) < GRADIENT_ERRORS[dtype], name
