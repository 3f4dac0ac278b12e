"""Batches of few static shapes."""

from typing import Any, NamedTuple

import numpy as np

from .corpus import Corpus
from .settings import Settings
from .text import Tokenizer


class Shape(NamedTuple):
    """Of a batch, all processes together."""

    rows: int  # N
    samples: int  # S
    labels: int  # U - 1


class Batch(NamedTuple):
    """N utterances, padded with zeros. Rows with a samples_lengths of 0 are padding."""

    audio: np.ndarray  # (N, S) float32
    samples_lengths: np.ndarray  # (N,) int32
    labels: np.ndarray  # (N, U - 1) int32
    labels_lengths: np.ndarray  # (N,) int32


class Loader:
    """Iterates over the batches of a corpus; endlessly when training."""

    shapes: list[Shape]
    padding: float  # share of the cells of an epoch (rows times samples) that are padding

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        settings: Settings,
        *,
        training: bool,
        divisor: int = 1,
        processes: tuple[int, int] = (0, 1),
    ) -> None:
        """`divisor`, the number of devices, divides N; `processes` is (index, count)."""
        raise NotImplementedError

    def __iter__(self) -> "Loader":
        raise NotImplementedError

    def __next__(self) -> Batch:
        """This process's rows of the next batch."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        raise NotImplementedError

    def set_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Ends the processes that load."""
        raise NotImplementedError
