"""What a corpus is, and which there are."""

from typing import NamedTuple, Protocol

import numpy as np

from .settings import ExplainedError, Settings


class Utterance(NamedTuple):
    """A recording and what is said in it."""

    key: str
    audio: np.ndarray  # (samples,) float32 in [-1, 1], at `sample_rate`
    text: str


class Corpus(Protocol):
    """Utterances by number. Lengths and texts are known without reading any audio.

    The loader's processes each get a pickled copy, so a corpus holds paths, not open files.
    """

    seconds: np.ndarray  # (utterances,); a recording that is longer than that may be cut
    texts: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Utterance: ...


def load(settings: Settings) -> tuple[Corpus, Corpus]:
    """The utterances to train on, and those held out. Another corpus is one more line here."""
    from . import espeak, fsdd, librispeech

    loaders = {"espeak": espeak.load, "librispeech": librispeech.load, "fsdd": fsdd.load}
    if settings.data not in loaders:
        raise ExplainedError(
            f"There is no corpus {settings.data!r}: choose one of {', '.join(loaders)}."
        )
    return loaders[settings.data](settings)
