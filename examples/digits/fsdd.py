"""The Free Spoken Digit Dataset: 3,000 recordings of single digits by six speakers.

https://github.com/Jakobovski/free-spoken-digit-dataset, a directory or its zip. The split is the
official one: recordings 0 to 4 of every digit and speaker are held out, 5 to 49 are for training.
The held-out strings use each of the 300 held-out recordings five times: 1,500 digits are counted.
"""

import io
import re
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .data import Clips, Dataset, cached_clips, normalise, pack_strings
from .features import log_mel

HELD_OUT_INDICES = range(5)
MAX_FRAMES = 256
MAX_DIGITS = 6
TEST_ROUNDS = 5  # every held-out recording stands in five test strings
_NAME = re.compile(r"(?:^|/)(\d)_([^/_]+)_(\d+)\.wav$")


def load(path: Path, cache: Path) -> Dataset:
    """Reads the data set; training strings are drawn anew from the clips at every step."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Give the directory or the zip of the Free Spoken Digit "
            "Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset."
        )
    files = sorted(path.rglob("*.wav")) if path.is_dir() else [path]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    clips = cached_clips(cache, "fsdd", stats, lambda: _read_clips(path))
    train, test, mean, deviation = normalise(*clips)
    return Dataset(
        train=train,
        test=test,
        test_strings=pack_strings(test, TEST_ROUNDS, MAX_DIGITS, MAX_FRAMES, seed=0),
        clips_per_string=(2, MAX_DIGITS),
        max_frames=MAX_FRAMES,
        max_digits=MAX_DIGITS,
        mean=mean,
        deviation=deviation,
    )


def _read_clips(path: Path) -> tuple[Clips, Clips]:
    found = sorted(recordings(path), key=lambda recording: recording[0])
    if not found:
        raise ValueError(
            f"{path} holds no recordings named <digit>_<speaker>_<index>.wav: is it the Free "
            "Spoken Digit Dataset?"
        )
    speakers = sorted({speaker for (speaker, _, _), _ in found})
    parts: dict[bool, list[tuple[np.ndarray, list[int], int]]] = {False: [], True: []}
    for (speaker, digit, index), wav in found:
        clip = (log_mel(*read_wav(wav)), [digit], speakers.index(speaker))
        parts[index in HELD_OUT_INDICES].append(clip)
    if not all(parts.values()):
        raise ValueError(f"{path} needs recordings with indices 0 to 4 and with indices from 5 on.")
    return Clips.join(parts[False]), Clips.join(parts[True])


def recordings(path: Path) -> Iterator[tuple[tuple[str, int, int], bytes]]:
    """((speaker, digit, index), content of the file) of every recording."""
    if path.is_dir():
        for file in path.rglob("*.wav"):
            if match := _NAME.search(file.as_posix()):
                yield (match[2], int(match[1]), int(match[3])), file.read_bytes()
        return
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is neither a directory nor a zip.") from error
    with archive:
        for name in archive.namelist():
            if match := _NAME.search(name):
                yield (match[2], int(match[1]), int(match[3])), archive.read(name)


def read_wav(content: bytes) -> tuple[np.ndarray, int]:
    """16-bit mono -> (samples,) in [-1, 1], and the sample rate."""
    with wave.open(io.BytesIO(content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.astype(np.float32) / 32768.0, file.getframerate()
