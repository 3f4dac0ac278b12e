"""Rows of different lengths in one array."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike


def padded(
    rows: Sequence[Sequence[int] | np.ndarray],
    dtype: DTypeLike,
    *,
    room: int = 1,
    count: int | None = None,
) -> np.ndarray:
    """(count, length) with zeros behind each row; the length is a multiple of `room`."""
    longest = max([1, *map(len, rows)])
    array = np.zeros((count or len(rows), -(-longest // room) * room), dtype)
    for row, own in zip(array, rows):
        row[: len(own)] = own
    return array
