"""Sequences far from what a model's first steps give: certain, uniform, masked, hopeless, long."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LATTICE, LOG_PROBS, LOGITS, JOINT = (
    "lattice_cost",
    "rnnt_loss",
    "rnnt_loss_from_logits",
    "rnnt_loss_from_joint",
)
V = 4  # symbols where nothing else is said; 0 is the blank


class Rows(NamedTuple):
    """Labels (U - 1) and logits (T, U, V); or these as the sum of two, (T, V) and (U, V)."""

    labels: np.ndarray
    logits: np.ndarray | None = None
    encoder: np.ndarray | None = None
    predictor: np.ndarray | None = None


class Case(NamedTuple):
    name: str
    make: Callable[[np.random.Generator, int, int], Rows]
    size: tuple[int, int]  # T, U
    small: tuple[int, int] | None  # the same at a test's size, None if its size is what it is about
    losses: tuple[str, ...] = (LATTICE, LOG_PROBS, LOGITS)
    fastemit_lambda: float = 0.0
    # False where the reference path takes too long on a CPU.
    has_reference: bool = True


def normal(scale: float = 1.0, offset: float = 0.0, symbols: int = V):
    """Standard normal logits times `scale`; `offset`, of either sign or none, is added to rows."""

    def make(rng: np.random.Generator, T: int, U: int) -> Rows:
        logits = scale * rng.standard_normal((T, U, symbols))
        logits += offset * rng.integers(-1, 2, (T, U, 1))
        return Rows(_labels(rng, U, symbols), logits)

    return make


def joint(scale: float = 1.0, label_log_prob: float = 0.0):
    """Logits that are a sum of two normal parts, the labels of the second one moved."""

    def make(rng: np.random.Generator, T: int, U: int) -> Rows:
        encoder, predictor = (scale * rng.standard_normal((n, V)) for n in (T, U))
        predictor[:, 1:-1] += label_log_prob
        return Rows(_labels(rng, U, V - 1), encoder=encoder, predictor=predictor)

    return make


def one_path(rng: np.random.Generator, T: int, U: int) -> Rows:
    """Each arc of a random path has probability 1 - 1e-30, what leads off it 1e-30 at most."""
    logits = np.log(1e-30) + rng.uniform(-20, 0, (T, U, V))
    labels = _labels(rng, U, V - 1)
    _follow(logits, labels, _random_emissions(rng, T, U), -1e-30)
    return Rows(labels, logits)


def uniform(rng: np.random.Generator, T: int, U: int) -> Rows:
    return Rows(_labels(rng, U), np.zeros((T, U, V)))


def hard_labels(log_prob: float):
    """Every label has about this log-probability at every frame; the last symbol is never one."""

    def make(rng: np.random.Generator, T: int, U: int) -> Rows:
        logits = rng.standard_normal((T, U, V))
        logits[..., 1:-1] += log_prob
        return Rows(_labels(rng, U, V - 1), logits)

    return make


def improbable(log_prob: float):
    """Blank and labels alike, near the lowest probabilities that float32 holds; the last symbol
    takes the rest."""

    def make(rng: np.random.Generator, T: int, U: int) -> Rows:
        logits = log_prob + 8 * rng.uniform(-1, 1, (T, U, V))
        logits[..., -1] = 0
        return Rows(_labels(rng, U, V - 1), logits)

    return make


def two_paths(rng: np.random.Generator, T: int, U: int) -> Rows:
    """All labels in the first eighth of the frames or all in the last, equally probable."""
    logits = rng.uniform(-80, -60, (T, U, V))
    labels = _labels(rng, U, V - 1)
    late, early = np.sort(rng.integers(1, T // 8, (2, U - 1)))
    draws = np.log(rng.uniform(0.05, 0.95, (2, T + U - 1)))
    # Alike in the arcs that they may share.
    draws[1, : T // 8] = draws[0, : T // 8]
    draws[1, T - T // 8 : T] = draws[0, T - T // 8 : T]
    draws[1, T // 8 : T - T // 8] += (draws[0].sum() - draws[1].sum()) / (T - T // 8 - T // 8)
    for frames, log_probs in zip((early, T - late[::-1]), draws, strict=True):
        _follow(logits, labels, frames, np.minimum(log_probs, -1e-6))
    return Rows(labels, logits)


def changing_best(rng: np.random.Generator, T: int, U: int) -> Rows:
    """Corridors around three paths that take turns in being the best."""
    logits = rng.standard_normal((T, U, V)) - 12
    labels = _labels(rng, U, V - 1)
    for _ in range(3):
        log_probs = np.log(rng.uniform(0.05, 0.95, T + U - 1))
        _follow(logits, labels, _random_emissions(rng, T, U), log_probs)
    return Rows(labels, logits)


def checkerboard(forbids_blank: int):
    """Every other cell forbids the blank, the rest all labels.

    With T = U - 1 one path is left where the even cells t + u forbid the blank, none where the odd
    ones do.
    """

    def make(rng: np.random.Generator, T: int, U: int) -> Rows:
        logits = rng.standard_normal((T, U, V))
        parity = np.add.outer(np.arange(T), np.arange(U)) % 2
        logits[parity == forbids_blank, 0] = -np.inf
        logits[parity != forbids_blank, 1:] = -np.inf
        return Rows(_labels(rng, U), logits)

    return make


def alternate_frames(rng: np.random.Generator, T: int, U: int) -> Rows:
    """Every other frame has no label, and those that have forbid some."""
    logits = rng.standard_normal((T, U, V))
    logits[1::2, :, 1:] = -np.inf
    logits[::4, ::3, 1] = -np.inf
    return Rows(_labels(rng, U), logits)


def band(rng: np.random.Generator, T: int, U: int) -> Rows:
    """Labels around the diagonal alone, a sixteenth of the frames wide, on every other cell."""
    logits = rng.standard_normal((T, U, V))
    t, u = np.indices((T, U))
    outside = np.abs(t / T - u / U) > 1 / 16
    logits[outside | ((t + u) % 2 == 1), 1:] = -np.inf
    return Rows(_labels(rng, U), logits)


def denormal(rng: np.random.Generator, T: int, U: int) -> Rows:
    """Logits below the smallest normal float32."""
    return Rows(_labels(rng, U), 1e-40 * rng.standard_normal((T, U, V)))


def _labels(rng: np.random.Generator, U: int, symbols: int = V) -> np.ndarray:
    return rng.integers(1, symbols, U - 1).astype(np.int32)


def _random_emissions(rng: np.random.Generator, T: int, U: int) -> np.ndarray:
    """The frames at which a random path emits its labels."""
    return np.sort(rng.integers(0, T, U - 1))


def _follow(logits: np.ndarray, labels: np.ndarray, frames: np.ndarray, log_probs) -> None:
    """Gives the arcs of the path that emits its labels at these frames these log-probabilities.

    What they leave of a row goes to the last symbol.
    """
    T, U, _ = logits.shape
    waits = np.arange(T), np.searchsorted(frames, np.arange(T), side="right")
    emits = frames, np.arange(U - 1)
    log_probs = np.broadcast_to(log_probs, T + U - 1)
    with np.errstate(divide="ignore"):
        rest = np.log(-np.expm1(log_probs))
    logits[(*waits, 0)], logits[(*waits, -1)] = log_probs[:T], np.maximum(rest[:T], -100)
    logits[(*emits, labels)], logits[(*emits, -1)] = log_probs[T:], np.maximum(rest[T:], -100)


SQUARE = 1000, 150  # T, U of most cases, which share their compiled functions
SMALL = 32, 33
CASES = (
    Case("random", normal(), SQUARE, None),
    Case("one path of 1 - 1e-30", one_path, SQUARE, SMALL),
    Case("uniform", uniform, SQUARE, SMALL),
    Case("logits times 3", normal(3), SQUARE, SMALL),
    Case("logits times 30", normal(30), SQUARE, SMALL),
    Case("logits times 1000", normal(1000), SQUARE, SMALL),
    Case("rows offset by +-1e4", normal(1, 1e4), SQUARE, SMALL),
    Case("rows offset by +-1e30", normal(1, 1e30), SQUARE, SMALL),
    Case("denormal logits", denormal, SQUARE, SMALL),
    Case("all arcs at exp(-95 +- 8)", improbable(-95), SQUARE, SMALL),
    Case("labels at exp(-1e2)", hard_labels(-1e2), SQUARE, SMALL),
    Case("labels at exp(-1e3)", hard_labels(-1e3), SQUARE, SMALL),
    Case("labels at exp(-1e4)", hard_labels(-1e4), SQUARE, SMALL),
    Case("two equal paths, far apart", two_paths, SQUARE, SMALL),
    Case("three corridors", changing_best, SQUARE, SMALL),
    Case("labels in every other frame", alternate_frames, SQUARE, SMALL),
    Case("labels in a band, every other cell", band, SQUARE, SMALL),
    Case("checkerboard: one path", checkerboard(0), (500, 501), SMALL),
    Case("checkerboard: no path", checkerboard(1), (500, 501), SMALL),
    Case("FastEmit, 1.0", normal(), SQUARE, SMALL, (LOG_PROBS, LOGITS), fastemit_lambda=1.0),
    Case("joint", joint(), SQUARE, None, (JOINT,)),
    Case("joint times 10", joint(10), SQUARE, SMALL, (JOINT,)),
    Case("joint, labels at exp(-1e4)", joint(1, -1e4), SQUARE, None, (JOINT,)),
    Case("one column", normal(), (1025, 1), (300, 1)),
    Case("one column", normal(), (20000, 1), None),
    Case("long", normal(), (20000, 8), None),
    Case("long, logits times 3", normal(3), (20000, 8), None),
    Case("long", normal(), (20000, 64), None),
    Case("long, joint", joint(), (20000, 64), None, (JOINT,)),
    Case("many labels", normal(), (50, 4000), None),
    Case("many labels at exp(-1e3)", hard_labels(-1e3), (50, 4000), None),
    Case("many labels at exp(-1e4)", hard_labels(-1e4), (50, 4000), None),
    Case("long and many labels", normal(symbols=2), (1000, 4000), None, has_reference=False),
)
