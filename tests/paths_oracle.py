"""Best paths through the RNN-T lattice in NumPy and float64: of all paths, and by a walk."""

import itertools
from typing import NamedTuple

import numpy as np


class Path(NamedTuple):
    score: float
    frames: tuple[int, ...]  # of each label


def best_of_all(blank: np.ndarray, label: np.ndarray) -> Path:
    """Of a lattice (T, U): the largest sum; of equal ones the earliest labels, the last first."""
    T, U = blank.shape
    found = []
    for frames in itertools.combinations_with_replacement(range(T), U - 1):
        columns = [sum(t <= frame for t in frames) for frame in range(T)]
        labels = [label[t, u] for u, t in enumerate(frames)]
        found.append(Path(sum(labels) + sum(blank[range(T), columns]), frames))
    most = max(path.score for path in found)
    return min((path for path in found if path.score == most), key=lambda path: path.frames[::-1])


def walk(blank: np.ndarray, label: np.ndarray) -> Path:
    """The same of larger lattices, whose sums must be exact."""
    T, U = blank.shape
    scores = np.full((T + 1, U), -np.inf)
    scores[0, 0] = 0
    by_label = np.zeros((T, U), bool)
    for t in range(T):
        for u in range(1, U):
            other = scores[t, u - 1] + label[t, u - 1]
            by_label[t, u] = other > scores[t, u]
            scores[t, u] = max(other, scores[t, u])
        scores[t + 1] = scores[t] + blank[t]
    frames, t = [], T - 1
    for u in range(U - 1, 0, -1):
        t = int(np.flatnonzero(by_label[: t + 1, u])[-1])
        frames.append(t)
    return Path(float(scores[T, U - 1]), tuple(frames[::-1]))
