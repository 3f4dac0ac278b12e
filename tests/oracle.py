"""What the losses mean, in NumPy and float64: slow, plain, and independent of the package.

Two ways from arcs to cost and posteriors: the sum over every alignment path, which is the
definition, and alpha-beta in the log domain, which reaches any size and is checked against it.
Logarithms of whole prefixes lose what their size takes from the mantissa, 1e-16 of a cost of 1e6 in
float64. Where that is too much, pass longdouble arguments: all steps keep their dtype.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Arcs(NamedTuple):
    """One number for each arc of one sequence's lattice, each (T_n, U_n + 1)."""

    blank: np.ndarray
    label: np.ndarray


class Alignment(NamedTuple):
    cost: float
    posteriors: Arcs


class Result(NamedTuple):
    costs: np.ndarray
    gradients: np.ndarray


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-softmax over the last axis; a row of nothing but -inf stays so.

    The result for a row's largest entry is exact to rounding, however near to 0 it is.
    """
    with np.errstate(invalid="ignore"):
        maxima = logits.max(-1, keepdims=True)
        shifted = logits - np.where(maxima == -np.inf, 0, maxima)
        is_largest = np.arange(logits.shape[-1]) == logits.argmax(-1)[..., None]
        others = np.exp(shifted) - (is_largest & (shifted == 0))
        return shifted - np.log1p(others.sum(-1, keepdims=True))


def enumerate_paths(arcs: Arcs) -> Alignment:
    """The sum over every alignment: the order of T - 1 blanks and U labels, then the last blank."""
    frames, columns = arcs.blank.shape
    values = np.stack(arcs)
    steps = frames + columns - 2
    paths, scores = [], []
    for emissions in itertools.combinations(range(steps), columns - 1):
        path, frame, column = np.zeros(values.shape, bool), 0, 0
        for step in range(steps + 1):
            emits = step in emissions
            path[int(emits), frame, column] = True
            frame, column = frame + (not emits), column + emits
        paths.append(path)
        scores.append(values[path].sum())
    scores = np.asarray(scores)
    best = scores.max()
    if best == -np.inf:
        return _impossible(arcs)
    weights = np.exp(scores - best)
    posteriors = np.tensordot(weights / weights.sum(), np.asarray(paths, np.float64), 1)
    return Alignment(-(best + np.log(weights.sum())), Arcs(*posteriors))


@np.errstate(invalid="ignore")  # a NaN goes its way
def alpha_beta(arcs: Arcs) -> Alignment:
    """The result of enumerate_paths, by dynamic programming over anti-diagonals."""
    frames, columns = arcs.blank.shape
    alpha = np.full((frames + 1, columns + 1), -np.inf, arcs.blank.dtype)
    alpha[0, 0] = 0
    for diagonal in range(1, frames + columns - 1):
        t, u = _cells(diagonal, frames, columns)
        waited = np.where(t > 0, alpha[t - 1, u] + arcs.blank[t - 1, u], -np.inf)
        emitted = np.where(u > 0, alpha[t, u - 1] + arcs.label[t, u - 1], -np.inf)
        alpha[t, u] = np.logaddexp(waited, emitted)
    beta = np.full(alpha.shape, -np.inf, alpha.dtype)
    beta[frames, columns - 1] = 0
    for diagonal in range(frames + columns - 2, -1, -1):
        t, u = _cells(diagonal, frames, columns)
        emitted = np.where(u < columns - 1, arcs.label[t, u] + beta[t, u + 1], -np.inf)
        beta[t, u] = np.logaddexp(arcs.blank[t, u] + beta[t + 1, u], emitted)
    total = beta[0, 0]
    if total == -np.inf:
        return _impossible(arcs)
    inner = alpha[:frames, :columns] - total
    label = np.where(np.arange(columns) < columns - 1, arcs.label, -np.inf)
    return Alignment(
        -total,
        Arcs(
            np.exp(inner + arcs.blank + beta[1:, :columns]),
            np.exp(inner + label + beta[:frames, 1:]),
        ),
    )


def loss(
    rows: np.ndarray,
    labels: np.ndarray,
    frames_lengths: np.ndarray,
    labels_lengths: np.ndarray,
    *,
    from_logits: bool,
    blank: int = 0,
    fastemit_lambda: float = 0.0,
    average_frames: bool = False,
    cotangents: np.ndarray | None = None,
    align: Callable[[Arcs], Alignment] = alpha_beta,
) -> Result:
    """Costs (...) and the gradients of cotangents . costs with respect to rows (..., T, U, V).

    A sequence whose lengths or labels make no sense costs NaN and has no gradient; gradients of one
    that has a NaN within its lengths are NaN here and unspecified.
    """
    *batch, T, U, V = rows.shape
    rows = np.asarray(rows, np.longdouble if rows.dtype == np.longdouble else np.float64)
    costs, gradients = np.empty(batch, rows.dtype), np.zeros_like(rows)
    cotangents = np.ones(batch) if cotangents is None else np.asarray(cotangents, np.float64)
    for index in np.ndindex(*batch):
        frames, emitted = int(frames_lengths[index]), int(labels_lengths[index])
        own = np.asarray(labels[index][: max(emitted, 0)])
        if not (1 <= frames <= T and 0 <= emitted < U and np.all((own >= 0) & (own < V))):
            costs[index] = np.nan
            continue
        inside = rows[index][:frames, : emitted + 1]
        log_probs = log_softmax(inside) if from_logits else inside
        column = np.arange(emitted)
        label_arcs = np.full((frames, emitted + 1), -np.inf, rows.dtype)
        label_arcs[:, :-1] = log_probs[:, column, own]
        cost, posteriors = align(Arcs(log_probs[..., blank], label_arcs))
        weight = cotangents[index] / (frames if average_frames else 1)
        costs[index] = cost / (frames if average_frames else 1)
        label_symbols = np.append(own, blank)  # the last column's label has no posterior
        gradient = np.zeros_like(inside)
        for symbols, arc_posteriors in (
            (np.full(emitted + 1, blank), posteriors.blank),
            (label_symbols.astype(int), posteriors.label * (1 + fastemit_lambda)),
        ):
            arcs = slice(None), np.arange(emitted + 1), symbols
            derivatives = -np.exp(log_probs) if from_logits else np.zeros_like(log_probs)
            derivatives[arcs] = -np.expm1(log_probs[arcs]) if from_logits else 1
            gradient -= arc_posteriors[..., None] * derivatives
        gradients[index][:frames, : emitted + 1] = weight * gradient
    return Result(costs, gradients)


def _impossible(arcs: Arcs) -> Alignment:
    return Alignment(np.inf, Arcs(np.zeros(arcs.blank.shape), np.zeros(arcs.blank.shape)))


def _cells(diagonal: int, frames: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    u = np.arange(max(0, diagonal - frames + 1), min(columns - 1, diagonal) + 1)
    return diagonal - u, u
