"""Strings of digits spoken by the synthesiser eSpeak NG.

A voice is an accent of English with a voice variant. Held out are the variants of
`HELD_OUT_VARIANTS`, which no training clip uses, and one digit string in five, which no training
clip says. Speed and pitch are drawn anew for every clip.
"""

import zlib
from pathlib import Path

import numpy as np

from .data import Clips, Dataset, cached_clips, normalise
from .features import log_mel
from .synthesiser import (
    ACCENTS,
    HELD_OUT_VARIANTS,
    PITCH,
    TRAINING_VARIANTS,
    WORDS_PER_MINUTE,
    loader_version,
    synthesiser,
    voices,
)

MAX_FRAMES = 256
MAX_DIGITS = 6
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load(cache: Path, training_strings: int, test_strings: int) -> Dataset:
    """Synthesises the strings, or reads them from the cache."""
    spoken_by = (ACCENTS, TRAINING_VARIANTS, HELD_OUT_VARIANTS, WORDS_PER_MINUTE, PITCH)
    limits = (MAX_FRAMES, MAX_DIGITS, training_strings, test_strings)
    clips = cached_clips(
        cache,
        "espeak",
        (loader_version(), spoken_by, limits),
        lambda: (
            _synthesise(training_strings, held_out=False),
            _synthesise(test_strings, held_out=True),
        ),
    )
    train, test, mean, deviation = normalise(*clips)
    return Dataset(
        train=train,
        test=test,
        test_strings=[[clip] for clip in range(len(test))],
        clips_per_string=(1, 1),
        max_frames=MAX_FRAMES,
        max_digits=MAX_DIGITS,
        mean=mean,
        deviation=deviation,
    )


def is_held_out(digits: np.ndarray) -> bool:
    """Whether a string of digits belongs to the test set."""
    return zlib.crc32(bytes(digits.tolist())) % 5 == 0


def _synthesise(count: int, held_out: bool) -> Clips:
    """`count` strings of 2 to MAX_DIGITS digits that fit into MAX_FRAMES."""
    rng = np.random.default_rng(int(held_out))
    speakers = voices(held_out)
    espeak = synthesiser()
    clips: list[tuple[np.ndarray, list[int], int]] = []
    while len(clips) < count:
        digits = rng.integers(0, 10, rng.integers(2, MAX_DIGITS + 1))
        voice = int(rng.integers(len(speakers)))
        words_per_minute, pitch = rng.integers(*WORDS_PER_MINUTE), rng.integers(*PITCH)
        if is_held_out(digits) != held_out:
            continue
        text = " ".join(WORDS[digit] for digit in digits)
        wave = espeak.speak(text, speakers[voice], int(words_per_minute), int(pitch))
        features = log_mel(wave, espeak.sample_rate)
        if len(features) <= MAX_FRAMES:
            clips.append((features, digits.tolist(), voice))
    return Clips.join(clips)
