"""From text to labels and back: sentencepiece's BPE."""

import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from .files import replace

BLANK, UNKNOWN = 0, 1


def normalise(text: str) -> str:
    """What is trained on and compared: lower case, of punctuation the apostrophe alone.

    Whoever wants capitals and punctuation written changes this function and nothing else.
    """
    text = unicodedata.normalize("NFC", text.lower())
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    # Letters, numbers and marks, without which Hindi or Thai would lose its vowels.
    kept = (x if x == "'" or unicodedata.category(x)[0] in "LNM" else " " for x in text)
    return " ".join("".join(kept).split())


class Tokenizer:
    """Pieces of text as labels: 0 is the blank, 1 the unknown piece."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.size = self._processor.get_piece_size()  # V

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "Tokenizer":
        """Of at most `vocabulary` labels, blank and unknown included."""
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([normalise(text) for text in texts]),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",  # `normalise` has done it
            input_sentence_size=1_000_000,  # a sample of larger corpora: memory
            shuffle_input_sentence=True,
            pad_id=BLANK,
            pad_piece="<blank>",
            unk_id=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        return cls(path.read_bytes())

    def save(self, path: Path) -> None:
        replace(path, self._model)

    @classmethod
    def cached(cls, path: Path, texts: Iterable[str], vocabulary: int) -> "Tokenizer":
        """The one in the file, or a new one that is left there."""
        if not path.exists():
            cls.train(texts, vocabulary).save(path)
        return cls.load(path)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(normalise(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Blanks are left out."""
        return self._processor.decode([int(label) for label in ids if label != BLANK])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """A piece that begins a word begins with a low line, U+2581."""
        return [self._processor.id_to_piece(int(label)) for label in ids]
