"""Where each sequence of fuzz_cases is in the arrays, and what answers consist of."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from fuzz_signatures import Signature

INT32_MAX = np.iinfo(np.int32).max


class Place(NamedTuple):
    """One sequence in the arrays."""

    n: tuple[int, ...]
    rows: Any  # index into arrays (..., T, U, ...), or slice of compact ones
    labels: np.ndarray
    frames: int
    columns: int

    def take(self, array: np.ndarray, trailing: int) -> np.ndarray:
        found = array[self.rows]
        return found.reshape(self.frames, self.columns, *found.shape[found.ndim - trailing :])


@dataclasses.dataclass
class Answer:
    """Results, one entry a sequence; expected ones also say how near an answer must be."""

    costs: np.ndarray
    gradients: dict[str, np.ndarray]
    spread: np.ndarray | None = None  # E of rule 2
    blind: np.ndarray | None = None  # sequences of whose posteriors the oracle knows nothing
    at_least: np.ndarray | None = None  # sequences whose cost is only bounded below (rule 1)
    unknown: np.ndarray | None = None  # rule 3, rule 6
    owners: dict[str, np.ndarray] | None = None  # of gradients' entries; -1: padding
    scale: float = 1.0


# What all sequences share, so that its gradient is a sum over them.
SHARED = ("kernel", "bias", "blank_bias")


def sequences(signature: Signature, values: dict[str, np.ndarray]) -> list[Place | None]:
    """Where each sequence is, None if its lengths or labels make no sense."""
    if signature.function.compact:
        return _packed(signature, values)
    found: list[Place | None] = []
    for n in np.ndindex(*signature.sequences):
        frames = int(values["frames_lengths"][n[: len(signature.batch)]])
        emitted = int(values["labels_lengths"][n])
        valid = 1 <= frames <= signature.T and 0 <= emitted < signature.U
        labels = values["labels"][n][:emitted] if valid and "labels" in values else np.zeros(0)
        valid &= all(0 <= int(x) < signature.V for x in labels)
        rows = (*n, slice(frames), slice(emitted + 1))
        found.append(Place(n, rows, labels.astype(int), frames, emitted + 1) if valid else None)
    return found


def _packed(signature, values):
    """Places in the compact layout; a sequence without room leaves none to those behind it."""
    found: list[Place | None] = []
    S, L = signature.rows_count, signature.labels_count
    bound = dict(signature.options).get("max_labels")
    row = label = 0
    for n in range(signature.batch[0]):
        frames, emitted = int(values["frames_lengths"][n]), int(values["labels_lengths"][n])
        frames, emitted = min(frames, INT32_MAX), min(emitted, INT32_MAX)
        count = frames * (emitted + 1) if frames >= 1 and emitted >= 0 else 0
        labels = np.zeros(0)
        valid = frames >= 1 and emitted >= 0 and row + count <= S
        valid &= bound is None or emitted <= bound
        if "labels" in values:
            valid &= label + emitted <= L
            labels = values["labels"][label : label + max(emitted, 0)]
            valid &= all(0 <= int(x) < signature.V for x in labels)
            label = min(label + max(emitted, 0), L + 1)
        rows = slice(row, row + count)
        row = min(row + count, S + 1)
        place = Place((n,), rows, labels.astype(int), frames, emitted + 1)
        found.append(place if valid else None)
    return found


def first_wrong(what, wrong, actual, wanted):
    if not wrong.any():
        return []
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return [
        f"{what} at {list(first)} is {actual[first]!r}, not {wanted[first]!r} ({wrong.sum()} such)"
    ]
