"""What the losses of the family mean: the sum over every alignment, in NumPy and float64.

An alignment is a walk of moves from the first cell to the end. A move takes frames and labels and
pays for features, each the log-probability of a blank, a label or a duration in one cell. Nothing
here knows arcs or recursions; a posterior is the share of the walks that have a feature. For
lattices of a few cells.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import oracle

# A feature: its kind, which is "blank", "label" or the index of a duration, and its cell.
Feature = tuple[str | int, int, int]
Move = tuple[int, int, list[Feature]]  # frames, labels, what it pays for
Moves = Callable[[int, int], Iterator[Move]]


def regular(t: int, u: int) -> Iterator[Move]:
    yield 1, 0, [("blank", t, u)]
    yield 0, 1, [("label", t, u)]


def modified(t: int, u: int) -> Iterator[Move]:
    yield 1, 0, [("blank", t, u)]
    yield 1, 1, [("label", t, u)]


def at_most(labels: int) -> Moves:
    """A frame writes so many labels at most, then its blank."""

    def moves(t: int, u: int) -> Iterator[Move]:
        for n in range(labels + 1):
            written = [("label", t, u + i) for i in range(n)]
            yield 1, n, [*written, ("blank", t, u + n)]

    return moves


def timed(durations: tuple[int, ...]) -> Moves:
    """Tokens and durations."""

    def moves(t: int, u: int) -> Iterator[Move]:
        for index, frames in enumerate(durations):
            if frames:
                yield frames, 0, [("blank", t, u), (index, t, u)]
            yield frames, 1, [("label", t, u), (index, t, u)]

    return moves


TYPES = {"regular": regular, "modified": modified, "constrained": at_most(1)}


class Cells(NamedTuple):
    """Numbers of each cell of one sequence (T_n, U_n + 1, ...): log-probabilities or posteriors."""

    blank: np.ndarray
    label: np.ndarray
    durations: np.ndarray

    def zeros(self) -> "Cells":
        return Cells(*map(np.zeros_like, self))

    def entry(self, feature: Feature) -> tuple[np.ndarray, tuple[int, ...]]:
        """Where a feature's number is."""
        kind, t, u = feature
        if isinstance(kind, str):
            return getattr(self, kind), (t, u)
        return self.durations, (t, u, kind)


class Alignments(NamedTuple):
    cost: float
    posteriors: Cells
    moves: float  # their expected number


def walks(frames: int, labels: int, moves: Moves, ends_with_blank: bool) -> list[list[Move]]:
    """Every way from (0, 0) to (frames, labels)."""
    found = []

    def walk(t, u, taken):
        if (t, u) == (frames, labels):
            found.append(taken)
        if t >= frames:
            return
        for move in moves(t, u):
            after = t + move[0], u + move[1]
            is_last = after[0] == frames
            if after[0] > frames or after[1] > labels or (is_last and move[1] and ends_with_blank):
                continue
            walk(*after, [*taken, move])

    walk(0, 0, [])
    return found


def enumerate_alignments(
    log_probs: Cells, moves: Moves, *, ends_with_blank: bool = False, sigma: float = 0.0
) -> Alignments:
    """The sum over all alignments of one sequence."""
    frames, columns = log_probs.blank.shape
    found = walks(frames, columns - 1, moves, ends_with_blank)
    scores, posteriors, count = [], log_probs.zeros(), 0.0
    for taken in found:
        features = [f for move in taken for f in move[2]]
        score = sum(array[place] for array, place in map(log_probs.entry, features))
        scores.append(score - sigma * len(taken))
    best = max(scores, default=-np.inf)
    if best == -np.inf:
        return Alignments(np.inf, posteriors, 0.0)
    shares = np.exp(np.array(scores) - best)
    total = shares.sum()
    for taken, share in zip(found, shares / total):
        count += share * len(taken)
        for feature in (f for move in taken for f in move[2]):
            array, place = posteriors.entry(feature)
            array[place] += share
    return Alignments(-(best + np.log(total)), posteriors, count)


class Answer(NamedTuple):
    """Of a batch: costs (...), and of costs . cotangents the gradients of rows; posteriors."""

    costs: np.ndarray
    gradients: np.ndarray
    blank: np.ndarray  # (..., T, U)
    label: np.ndarray
    moves: np.ndarray  # (...) their expected number


def answer(
    problem: Any,
    moves: Moves,
    *,
    from_logits: bool = True,
    durations: int = 0,
    is_timed: bool = False,
    normalize: str = "softmax",
    blank: int = 0,
    fastemit_lambda: float = 0.0,
    sigma: float = 0.0,
    label_bias: Any = 0.0,
    blank_bias: Any = 0.0,
    average_frames: bool = False,
    cotangents: np.ndarray | None = None,
) -> Answer:
    """The loss of rows (..., T, U, V + durations), padded, with legal lengths.

    from_logits: whether the rows are logits; else they are log-probabilities, normalised or not.
    durations: how many entries stand behind a row's V.
    is_timed: whether these take part, and only a blank may be the last.
    """
    rows, labels, frames_lengths, labels_lengths = problem
    rows = np.asarray(rows, np.float64)
    *batch, T, U, width = rows.shape
    V = width - durations
    costs, gradients = np.empty(batch), np.zeros_like(rows)
    posteriors, counts = np.zeros((2, *batch, T, U)), np.empty(batch)
    biases = [
        np.broadcast_to(np.asarray(x, np.float64), (*batch, T, U)) for x in (blank_bias, label_bias)
    ]
    for n in np.ndindex(*batch):
        frames, emitted = int(frames_lengths[n]), int(labels_lengths[n])
        own = np.asarray(labels[n][:emitted])
        inside = (*n, slice(frames), slice(emitted + 1))
        tokens, derivative = _normalise(
            rows[inside][..., :V], normalize if from_logits else None, blank % V
        )
        heads = (
            oracle.log_softmax(rows[inside][..., V:])
            if durations
            else np.zeros((*tokens.shape[:2], 0))
        )
        label_arcs = np.full(tokens.shape[:2], -np.inf)
        label_arcs[:, :-1] = tokens[:, np.arange(emitted), own]
        log_probs = Cells(
            tokens[..., blank % V] + biases[0][inside], label_arcs + biases[1][inside], heads
        )
        found = enumerate_alignments(log_probs, moves, ends_with_blank=is_timed, sigma=sigma)
        weight = 1.0 if cotangents is None else float(cotangents[n])
        weight /= frames if average_frames else 1
        costs[n] = found.cost / (frames if average_frames else 1)
        counts[n] = found.moves
        posteriors[0][inside], posteriors[1][inside] = found.posteriors[:2]
        arcs = np.zeros(tokens.shape)
        arcs[..., blank % V] += found.posteriors.blank
        emission = found.posteriors.label[:, :-1] * (1 + fastemit_lambda)
        for u, symbol in enumerate(own):
            arcs[:, u, symbol] += emission[:, u]
        heads_arcs = found.posteriors.durations
        heads_gradient = heads_arcs - np.exp(heads) * heads_arcs.sum(-1, keepdims=True)
        gradients[inside] = -weight * np.concatenate([derivative(arcs), heads_gradient], -1)
    return Answer(costs, gradients, *posteriors, counts)


def tdt_answer(
    problem: Any,
    durations: tuple[int, ...],
    *,
    omega: float = 0.0,
    sigma: float = 0.0,
    **options: Any,
) -> Answer:
    """The loss of tokens and durations, with `omega` of the RNN-T's in it."""
    count, both = len(durations), []
    if omega < 1:
        own = answer(
            problem, timed(durations), durations=count, is_timed=True, sigma=sigma, **options
        )
        both.append(Answer(*((1 - omega) * x for x in own)))
    if omega > 0:
        own = answer(problem, regular, durations=count, **options)
        both.append(Answer(*(omega * x for x in own)))
    return Answer(*map(sum, zip(*both)))


def _normalise(logits, normalize, blank):
    """Log-probabilities of all symbols, and the function from their cotangents to the logits'."""
    if normalize is None:
        return logits, lambda c: c
    if normalize == "softmax":
        log_probs = oracle.log_softmax(logits)
        return log_probs, lambda c: c - np.exp(log_probs) * c.sum(-1, keepdims=True)
    is_blank = np.arange(logits.shape[-1]) == blank
    odds = logits[..., blank, None]
    among_labels = oracle.log_softmax(np.where(is_blank, -np.inf, logits))
    log_blank, log_rest = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    log_probs = np.where(is_blank, log_blank, log_rest + among_labels)

    def derivative(c):
        emitted = np.where(is_blank, 0, c).sum(-1, keepdims=True)
        own = c[..., blank, None] * np.exp(log_rest) - emitted * np.exp(log_blank)
        labels = np.where(is_blank, 0, c) - emitted * np.exp(among_labels)
        return np.where(is_blank, own, labels)

    return log_probs, derivative
