"""Clips of spoken digits, strings made of them, and batches of fixed shape.

A clip is a piece of speech with one digit (a recording of the Free Spoken Digit Dataset) or several
(a synthesised string). A string is a sequence of clips of one speaker, as clip numbers.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from . import features as feature_settings

BLANK = 0  # symbol 0 is the blank, symbol d + 1 the digit d
SYMBOLS = 11

String = list[int]
Array = jax.Array | np.ndarray


class Batch(NamedTuple):
    """N strings, padded with zeros to T frames and L labels."""

    features: np.ndarray  # (N, T, bands) float32
    frames_lengths: np.ndarray  # (N,) int32
    labels: np.ndarray  # (N, L) int32, symbols
    labels_lengths: np.ndarray  # (N,) int32


@dataclass(frozen=True)
class Clips:
    """Clip i has frames [starts[i], starts[i + 1]) of `frames` and digits [...) of `digits`."""

    frames: np.ndarray  # (all frames, bands) float32
    frames_starts: np.ndarray  # (clips + 1,)
    digits: np.ndarray  # (all digits,)
    digits_starts: np.ndarray  # (clips + 1,)
    speakers: np.ndarray  # (clips,) numbers

    @classmethod
    def join(cls, clips: Sequence[tuple[np.ndarray, Sequence[int], int]]) -> "Clips":
        """From (features (frames, bands), digits, speaker) of every clip."""
        features, digits, speakers = zip(*clips, strict=True)
        return cls(
            frames=np.concatenate(features),
            frames_starts=np.cumsum([0, *map(len, features)]),
            digits=np.concatenate(digits).astype(np.int32),
            digits_starts=np.cumsum([0, *map(len, digits)]),
            speakers=np.asarray(speakers, np.int32),
        )

    def __len__(self) -> int:
        return len(self.speakers)

    def features_of(self, clip: int) -> np.ndarray:
        return self.frames[self.frames_starts[clip] : self.frames_starts[clip + 1]]

    def digits_of(self, clip: int) -> np.ndarray:
        return self.digits[self.digits_starts[clip] : self.digits_starts[clip + 1]]

    def frames_lengths(self) -> np.ndarray:
        return np.diff(self.frames_starts)


@dataclass(frozen=True)
class Dataset:
    """Training clips, held-out clips and the held-out strings, features normalised per band."""

    train: Clips
    test: Clips
    test_strings: list[String]
    clips_per_string: tuple[int, int]  # fewest and most in a training string
    max_frames: int
    max_digits: int
    mean: np.ndarray  # (bands,) of the training clips' features before they were normalised
    deviation: np.ndarray  # (bands,)

    def training_batch(self, seed: int, step: int, size: int) -> Batch:
        """The batch of one step; it depends on nothing but the arguments."""
        rng = np.random.default_rng([seed, step])
        strings = [self._draw_string(rng) for _ in range(size)]
        batch = make_batch(self.train, strings, self.max_frames, self.max_digits)
        return batch._replace(features=augment(batch.features, batch.frames_lengths, rng))

    def test_batch(self, strings: Sequence[String]) -> Batch:
        return make_batch(self.test, strings, self.max_frames, self.max_digits)

    def _draw_string(self, rng: np.random.Generator) -> String:
        """Clips of one random speaker, as many of those drawn as fit into `max_frames`."""
        same_speaker = np.flatnonzero(self.train.speakers == rng.choice(self.train.speakers))
        fewest, most = self.clips_per_string
        drawn = rng.choice(same_speaker, rng.integers(fewest, most + 1))
        ends = np.cumsum(self.train.frames_lengths()[drawn])
        return drawn[: max(1, np.count_nonzero(ends <= self.max_frames))].tolist()


def make_batch(clips: Clips, strings: Sequence[String], max_frames: int, max_digits: int) -> Batch:
    """Joins the clips of every string."""
    count = len(strings)
    bands = clips.frames.shape[-1]
    batch = Batch(
        features=np.zeros((count, max_frames, bands), np.float32),
        frames_lengths=np.zeros(count, np.int32),
        labels=np.zeros((count, max_digits), np.int32),
        labels_lengths=np.zeros(count, np.int32),
    )
    for n, string in enumerate(strings):
        features = np.concatenate([clips.features_of(clip) for clip in string])
        digits = np.concatenate([clips.digits_of(clip) for clip in string])
        batch.features[n, : len(features)] = features
        batch.frames_lengths[n] = len(features)
        batch.labels[n, : len(digits)] = digits + 1
        batch.labels_lengths[n] = len(digits)
    return batch


def augment(
    features: np.ndarray, frames_lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Change each string's loudness, and set a few of its bands and frames to the mean."""
    features = features.copy()
    bands = features.shape[-1]
    for n, frames in enumerate(frames_lengths):
        features[n, :frames] += rng.normal(0.0, 0.2)
        band, width = rng.integers(0, bands), rng.integers(0, 8)
        features[n, :, band : band + width] = 0.0
        frame, length = rng.integers(0, frames), rng.integers(0, 8)
        features[n, frame : frame + length] = 0.0
    return features


def normalise(train: Clips, test: Clips) -> tuple[Clips, Clips, np.ndarray, np.ndarray]:
    """Both, scaled so that each band of the training clips has mean 0 and deviation 1; and those.

    Returns:
        The training clips, the held-out ones, and (bands,) mean and deviation.
    """
    mean, deviation = train.frames.mean(axis=0), train.frames.std(axis=0)

    def apply(clips: Clips) -> Clips:
        frames = (clips.frames - mean) / deviation
        return Clips(frames, clips.frames_starts, clips.digits, clips.digits_starts, clips.speakers)

    return apply(train), apply(test), mean, deviation


def pack_strings(
    clips: Clips, rounds: int, most_clips: int, max_frames: int, seed: int
) -> list[String]:
    """Shuffles each speaker's clips `rounds` times and cuts each pass into strings.

    A string has 2 to `most_clips` clips, or fewer where the next one would not fit into
    `max_frames` or the pass ends. Every clip is used exactly once a round.
    """
    rng = np.random.default_rng(seed)
    lengths = clips.frames_lengths()
    strings: list[String] = []
    for _ in range(rounds):
        for speaker in np.unique(clips.speakers):
            string: String = []
            wanted = rng.integers(2, most_clips + 1)
            for clip in rng.permutation(np.flatnonzero(clips.speakers == speaker)).tolist():
                if string and lengths[[*string, clip]].sum() > max_frames:
                    strings.append(string)
                    string = []
                string.append(clip)
                if len(string) == wanted:
                    strings.append(string)
                    string = []
                    wanted = rng.integers(2, most_clips + 1)
            if string:
                strings.append(string)
    return strings


def cached_clips(
    cache: Path, name: str, source: object, make: Callable[[], tuple[Clips, Clips]]
) -> tuple[Clips, Clips]:
    """Training and held-out clips, made the first time and then read from the directory `cache`.

    `repr(source)` says what the clips are made of: with another source they are made anew.
    """
    source = (source, feature_settings.SETTINGS)
    path = cache / f"{name}-{hashlib.sha256(repr(source).encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        train, test = make()
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(
            unfinished,
            **{f"train_{key}": value for key, value in vars(train).items()},
            **{f"test_{key}": value for key, value in vars(test).items()},
        )
        unfinished.replace(path)
    with np.load(path) as stored:
        train, test = (
            Clips(**{key[len(part) :]: stored[key] for key in stored if key.startswith(part)})
            for part in ("train_", "test_")
        )
    return train, test
