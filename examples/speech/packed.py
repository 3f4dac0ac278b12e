"""A corpus in one file of samples, mapped into memory: nothing is decoded, whatever is read."""

import hashlib
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from .corpus import Utterance


class Packed:
    """Utterance i has the samples [starts[i], starts[i + 1]) of the file, 16 bits each."""

    def __init__(self, folder: Path, sample_rate: int) -> None:
        self._folder, self._rate = folder, sample_rate
        index = json.loads((folder / "index.json").read_text())
        self.texts: list[str] = index["texts"]
        self._keys: list[str] = index["keys"]
        self._starts = np.array(index["starts"], np.int64)
        self._samples = np.memmap(folder / "samples.int16", np.int16, mode="r")
        self.seconds = np.diff(self._starts) / sample_rate

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Utterance:
        samples = self._samples[self._starts[index] : self._starts[index + 1]]
        audio = samples.astype(np.float32) / np.float32(32768)
        return Utterance(self._keys[index], audio, self.texts[index])

    def __reduce__(self):
        """Pickled as its folder: a map into memory would be pickled with all that it maps."""
        return Packed, (self._folder, self._rate)


def cached(
    cache: Path,
    name: str,
    source: object,
    sample_rate: int,
    utterances: Callable[[], Iterable[Utterance]],
) -> Packed:
    """The utterances, made the first time and read from the folder `cache` from then on.

    `repr(source)` says what they are made of: with another source they are made anew.
    """
    digest = hashlib.sha256(repr((source, sample_rate)).encode()).hexdigest()[:16]
    folder = cache.expanduser() / f"{name}-{digest}"
    if not folder.exists():
        # Not by the process's number, which in a container is the same each time.
        unfinished = folder.with_name(f"{folder.name}.unfinished-{uuid.uuid4().hex}")
        unfinished.mkdir(parents=True)
        print(f"making {folder}, once", file=sys.stderr, flush=True)
        try:
            _write(unfinished, utterances())
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process has made the same meanwhile
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Packed(folder, sample_rate)


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Samples as the file has them; what is so already stays as it is."""
    if audio.dtype == np.int16:
        return audio
    return np.round(audio * 32768).clip(-32768, 32767).astype(np.int16)


def _write(folder: Path, utterances: Iterable[Utterance]) -> None:
    keys, texts, starts = [], [], [0]
    with (folder / "samples.int16").open("wb") as file:
        for utterance in utterances:
            samples = to_int16(utterance.audio)
            file.write(samples.tobytes())
            keys.append(utterance.key)
            texts.append(utterance.text)
            starts.append(starts[-1] + len(samples))
    (folder / "index.json").write_text(json.dumps({"keys": keys, "texts": texts, "starts": starts}))
