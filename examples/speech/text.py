"""From text to labels and back: sentencepiece's BPE."""

from collections.abc import Iterable, Sequence
from pathlib import Path


class Tokenizer:
    """Pieces of text as labels: 0 is the blank, 1 the unknown piece."""

    size: int  # V

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "Tokenizer":
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        raise NotImplementedError

    def save(self, path: Path) -> None:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def pieces(self, ids: Sequence[int]) -> list[str]:
        raise NotImplementedError
