"""Noise with the lengths of real utterances, for the recogniser of `examples.speech`.

Lengths are those of `shapes.read_librispeech`: frames of FRAME_SECONDS, and labels.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from examples.speech import audio
from examples.speech.corpus import Utterance
from examples.speech.plan import Plan, Shape
from examples.speech.settings import Settings

FRAME_SECONDS = 0.04  # LibriSpeech's frames after subsampling by four
LOUDNESS = 0.05
FILES = 200  # different recordings
FIRST_LETTER = 0x4E00  # of some 20,000 Chinese ones


class Planned(NamedTuple):
    """A bucket of a plan, and one of its batches."""

    shape: Shape
    batches: int  # of an epoch
    samples_lengths: np.ndarray  # (N,), 0 of rows that are padding
    labels_lengths: np.ndarray  # (N,)

    def arrays(self, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The fields of `examples.speech.batches.Batch`."""
        rng = np.random.default_rng(0)
        rows, samples, labels = self.shape
        sound = rng.standard_normal((rows, samples), np.float32) * np.float32(LOUDNESS)
        sound *= np.arange(samples)[None] < self.samples_lengths[:, None]
        said = rng.integers(1, vocabulary, (rows, labels)).astype(np.int32)
        lengths = self.samples_lengths.astype(np.int32), self.labels_lengths.astype(np.int32)
        return sound, lengths[0], said, lengths[1]


def planned(sizes: np.ndarray, settings: Settings, count: int) -> list[Planned]:
    """Buckets that the recipe makes of all utterances on one device, short to long.

    They are those of `count` batches that are evenly spaced among an epoch's, sorted by length. The
    lengths have speed perturbation in them already, so that the plan adds none.
    """
    samples, plan = _plan(sizes, settings)
    epoch = sorted(plan.epoch(0), key=lambda batch: batch.bucket)
    found: dict[int, Planned] = {}
    for place in range(count):
        first = epoch[len(epoch) * (2 * place + 1) // (2 * count)]
        shape, utterances = plan.shapes[first.bucket], first.utterances
        empty = (0, shape.rows - len(utterances))
        found[first.bucket] = Planned(
            shape,
            sum(batch.bucket == first.bucket for batch in epoch),
            np.pad(samples[utterances], empty),
            np.pad(sizes[utterances, 1], empty),
        )
    return list(found.values())


def left_out(sizes: np.ndarray, settings: Settings) -> float:
    """The share of utterances that are too long to be trained on."""
    return _plan(sizes, settings)[1].left_out / len(sizes)


def _plan(sizes: np.ndarray, settings: Settings) -> tuple[np.ndarray, Plan]:
    """The samples of all utterances, and their batches."""
    settings = dataclasses.replace(settings, speeds=(1.0,))
    samples = np.round(sizes[:, 0] * FRAME_SECONDS * settings.sample_rate).astype(np.int64)
    return samples, Plan(samples, sizes[:, 1], settings, True, 1)


def write(folder: str, sizes: np.ndarray, settings: Settings) -> None:
    """FILES recordings of noise as FLAC, of lengths drawn from `sizes`, and an index of these."""
    import soundfile

    rng = np.random.default_rng(0)
    fits = sizes[sizes[:, 0] * FRAME_SECONDS <= settings.max_seconds]
    drawn = fits[rng.choice(len(fits), FILES)]
    for i, frames in enumerate(drawn[:, 0]):
        samples = round(frames * FRAME_SECONDS * settings.sample_rate)
        sound = rng.standard_normal(samples, np.float32) * np.float32(LOUDNESS)
        soundfile.write(_file(folder, i), sound, settings.sample_rate)
    np.save(index_of(folder), drawn)


def index_of(folder: str) -> pathlib.Path:
    """The file of the sizes (recordings, 2) of what `write` wrote."""
    return pathlib.Path(folder, "sizes.npy")


def _file(folder: str, number: int) -> pathlib.Path:
    return pathlib.Path(folder, f"{number}.flac")


class Noise:
    """A corpus of the first recordings of `write`, one after the other, again and again.

    Each label is a word of one letter. So the pieces that are learnt from the texts are these
    words, and a text has as many labels as it should; but one in a few hundred words is two pieces.
    """

    def __init__(self, folder: str, sizes: np.ndarray, count: int, settings: Settings) -> None:
        self._folder, self._files, self._rate = folder, len(sizes), settings.sample_rate
        self.seconds = np.resize(sizes[:, 0] * FRAME_SECONDS, count)
        rng = np.random.default_rng(1)
        letters = [chr(FIRST_LETTER + i) for i in range(max(1, settings.vocabulary // 2 - 1))]
        self.texts = [
            " ".join(letters[i] for i in rng.integers(0, len(letters), labels))
            for labels in np.resize(sizes[:, 1], count)
        ]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Utterance:
        sound = audio.read(_file(self._folder, index % self._files), self._rate)
        return Utterance(str(index), sound, self.texts[index])
