"""LibriSpeech, and whatever lies in its layout.

PATH / PART / SPEAKER / CHAPTER / *.flac                    a recording each
PATH / PART / SPEAKER / CHAPTER / SPEAKER-CHAPTER.trans.txt lines "NAME TEXT"
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from . import audio
from .corpus import Utterance
from .settings import Settings
from .text import normalise


class Recordings:
    """Files with their texts; a file is decoded when it is asked for."""

    def __init__(self, files: list[Path], texts: list[str], sample_rate: int) -> None:
        import soundfile

        self._files, self._rate = files, sample_rate
        self.texts = [normalise(text) for text in texts]
        with ThreadPoolExecutor(16) as threads:  # opening files is waiting, mostly
            lengths = threads.map(lambda file: soundfile.info(file).duration, files)
            self.seconds = np.fromiter(lengths, float, len(files))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Utterance:
        file = self._files[index]
        return Utterance(file.stem, audio.read(file, self._rate), self.texts[index])


def load(settings: Settings) -> tuple[Recordings, Recordings]:
    """The parts to train on and the held-out ones, as `settings.train` and `valid` name them."""
    if settings.path is None:
        raise FileNotFoundError("librispeech needs a path: the folder that has train-clean-100.")
    root = Path(settings.path).expanduser()
    return _parts(root, settings.train, settings), _parts(root, settings.valid, settings)


def _parts(root: Path, names: str, settings: Settings) -> Recordings:
    files: list[Path] = []
    texts: list[str] = []
    for name in names.split("+"):
        if not (root / name).is_dir():
            raise FileNotFoundError(f"There is no folder {root / name}.")
        transcripts = sorted((root / name).glob("*/*/*.trans.txt"))
        if not transcripts:
            raise FileNotFoundError(f"{root / name} has no SPEAKER/CHAPTER/*.trans.txt.")
        for transcript in transcripts:
            for line in transcript.read_text(encoding="utf-8").splitlines():
                key, _, text = line.partition(" ")
                files.append(transcript.parent / f"{key}.flac")
                texts.append(text)
    return Recordings(files, texts, settings.sample_rate)
