"""The Free Spoken Digit Dataset: 3,000 recordings of single digits by six speakers.

https://github.com/Jakobovski/free-spoken-digit-dataset, a folder or its zip. The split is the
official one: recordings 0 to 4 of every digit and speaker are held out.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from examples.digits.espeak import WORDS
from examples.digits.fsdd import HELD_OUT_INDICES, recordings

from . import audio
from .corpus import Utterance
from .packed import Packed, cached
from .settings import ExplainedError, Settings


def load(settings: Settings) -> tuple[Packed, Packed]:
    """Reads the recordings and brings them from 8 kHz to the model's rate, the first time."""
    path = Path(settings.path or "").expanduser()
    if settings.path is None or not path.exists():
        raise FileNotFoundError(
            f"There is no {settings.path or 'path'}: give the folder or the zip of the Free Spoken "
            "Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset."
        )
    return _part(settings, path, held_out=False), _part(settings, path, held_out=True)


def _part(settings: Settings, path: Path, held_out: bool) -> Packed:
    files = sorted(path.rglob("*.wav")) if path.is_dir() else [path]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = "fsdd-valid" if held_out else "fsdd-train"
    return cached(
        Path(settings.cache),
        name,
        stats,
        settings.sample_rate,
        lambda: _utterances(path, settings.sample_rate, held_out),
    )


def _utterances(path: Path, sample_rate: int, held_out: bool) -> Iterator[Utterance]:
    found = 0
    for (speaker, digit, index), wav in sorted(recordings(path), key=lambda named: named[0]):
        if (index in HELD_OUT_INDICES) == held_out:
            found += 1
            key = f"{speaker}-{digit}-{index}"
            yield Utterance(key, audio.read(io.BytesIO(wav), sample_rate), WORDS[digit])
    if not found:
        raise ExplainedError(
            f"{path} needs recordings <digit>_<speaker>_<index>.wav with indices 0 to 4 and with "
            "indices from 5 on: is it the Free Spoken Digit Dataset?"
        )
