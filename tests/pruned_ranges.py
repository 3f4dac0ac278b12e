"""The columns of a pruned lattice in NumPy, by their rules one after the other."""

import numpy as np


def ranges(blank, label, frames: int, labels: int, width: int, rnnt_type: str) -> np.ndarray:
    """(T,), the columns of one utterance, by its rules one after the other."""
    T, U = blank.shape
    S = U if width > U - 1 else width
    begin = np.zeros(T, int)
    for t in range(T):
        gains = [
            blank[t, s : s + S].sum() - (label[t, s - 1] if s else 0) for s in range(U - S + 1)
        ]
        begin[t] = max(0, labels - S + 1) if t >= frames - 1 else int(np.argmax(gains))
    step = S - 1 if rnnt_type == "regular" else 1
    begin = np.minimum.accumulate(begin[::-1])[::-1]
    slack = step * np.arange(T) - begin
    slack = np.maximum(np.minimum.accumulate(slack[::-1])[::-1], 0)
    return step * np.arange(T) - slack
