"""Which utterances are in which batch: decided from lengths alone, before any audio is read.

A plan is a function of the seed. So batch n can be asked for by its number, in any process, and the
state of whoever goes through it is that number.
"""

import bisect
from typing import NamedTuple

import numpy as np

from .audio import resampled_length
from .settings import ExplainedError, Settings

HELD_OUT_BUCKETS = 2  # an evaluation is short: compiling more of them takes longer than padding


class Shape(NamedTuple):
    """Of a batch, all processes together."""

    rows: int  # N
    samples: int  # S
    labels: int  # U - 1


class Chosen(NamedTuple):
    """What a batch is made of: at most `shapes[bucket].rows` utterances, each at a speed."""

    bucket: int
    utterances: np.ndarray  # numbers
    rates: np.ndarray  # at which the recordings are played, in samples a second


class Plan:
    """The batches of all epochs."""

    def __init__(
        self,
        samples: np.ndarray,
        labels_lengths: np.ndarray,
        settings: Settings,
        training: bool,
        divisor: int,
    ) -> None:
        """From every utterance's samples and labels; those too long are left out of training."""
        self._seed, self._training = settings.seed, training
        speeds = settings.speeds if training else (1.0,)
        self._rates = np.unique([round(settings.sample_rate * speed) for speed in speeds])
        fits = samples <= settings.max_seconds * settings.sample_rate
        self._utterances = np.flatnonzero(fits) if training else np.arange(len(samples))
        if not len(self._utterances):
            raise ExplainedError(f"No utterance is at most {settings.max_seconds} s long.")
        self.left_out = len(samples) - len(self._utterances)
        # (utterances, speeds)
        self._samples = resampled_length(
            samples[self._utterances, None], self._rates[None], settings.sample_rate
        )
        labels = labels_lengths[self._utterances]
        buckets = settings.buckets if training else min(settings.buckets, HELD_OUT_BUCKETS)
        self.shapes = _shapes(self._samples, labels, settings, divisor, buckets)
        # Both are replaced as a whole, because several threads ask at once.
        self._ends = (0,)  # the batches before each epoch
        self._newest: tuple[int, list[Chosen]] = (-1, [])

    def __getitem__(self, number: int) -> Chosen:
        """Batch `number`, counted through all epochs."""
        ends = self._ends
        while number >= ends[-1]:
            ends = (*ends, ends[-1] + len(self.epoch(len(ends) - 1)))
        self._ends = ends
        index = bisect.bisect_right(ends, number) - 1
        return self.epoch(index)[number - ends[index]]

    def epoch(self, index: int) -> list[Chosen]:
        """The batches of one epoch. The newest one asked for is kept."""
        known, batches = self._newest
        if known != index:
            batches = self._make(index)
            self._newest = index, batches
        return batches

    def padding(self) -> float:
        """The share of the cells of the first epoch, rows times samples, that is padding."""
        batches = self.epoch(0)
        cells = sum(self.shapes[b.bucket].rows * self.shapes[b.bucket].samples for b in batches)
        rows = np.searchsorted(self._utterances, np.concatenate([b.utterances for b in batches]))
        rates = np.searchsorted(self._rates, np.concatenate([b.rates for b in batches]))
        return 1.0 - float(self._samples[rows, rates].sum()) / cells

    def _make(self, index: int) -> list[Chosen]:
        rng = np.random.default_rng([self._seed, index])
        count = len(self._utterances)
        order, speeds = np.arange(count), np.zeros(count, int)
        if self._training:
            order, speeds = rng.permutation(count), rng.integers(len(self._rates), size=count)
        bounds = [shape.samples for shape in self.shapes]
        buckets = np.searchsorted(bounds, self._samples[order, speeds])
        batches: list[Chosen] = []
        rest = np.zeros(0, int)
        for bucket, (rows, _, _) in enumerate(self.shapes):
            here = np.concatenate([rest, np.flatnonzero(buckets == bucket)])
            # What does not fill a batch goes to the next longer bucket; the last one pads.
            is_last = bucket == len(self.shapes) - 1
            end = len(here) if is_last else len(here) // rows * rows
            for first in range(0, end, rows):
                part = here[first : min(first + rows, end)]
                chosen = self._utterances[order[part]], self._rates[speeds[part]]
                batches.append(Chosen(bucket, *chosen))
            rest = here[end:]
        if self._training:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches


def _shapes(
    samples: np.ndarray,
    labels_lengths: np.ndarray,
    settings: Settings,
    divisor: int,
    buckets: int,
) -> list[Shape]:
    """The shapes of the buckets, from short to long."""
    step = settings.hop * settings.subsampling  # the samples of an encoder frame
    rounded = -(-samples // step) * step
    shapes: list[Shape] = []
    for bound in _bounds(rounded, buckets):
        frames = bound // settings.hop
        rows = max(1, settings.frames_per_batch // frames // divisor) * divisor
        # Of all shorter ones, too, which may come here as the rest of their bucket.
        labels = labels_lengths[(rounded <= bound).any(axis=1)].max()
        shapes.append(Shape(rows, bound, int(labels)))
    return shapes


def _bounds(lengths: np.ndarray, buckets: int) -> list[int]:
    """The longest of each of at most so many buckets, for which the least is padded.

    By dynamic programming over the different lengths: the last bucket starts somewhere, and what is
    shorter is cut best into one bucket less.
    """
    values, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # (first, last): the cells of one bucket with the lengths from first to last.
    cells = values * np.subtract.outer(-below[:-1], -below[1:]).astype(float)
    cells[np.tril_indices(len(values), -1)] = np.inf
    least = cells[0]
    firsts: list[np.ndarray] = []
    for _ in range(min(buckets, len(values)) - 1):
        total = np.concatenate([[np.inf], least[:-1]])[:, None] + cells
        firsts.append(total.argmin(axis=0))
        least = total.min(axis=0)
    bounds = [len(values) - 1]
    for first in reversed(firsts):
        bounds.append(int(first[bounds[-1]]) - 1)
    return [int(values[bound]) for bound in reversed(bounds)]
