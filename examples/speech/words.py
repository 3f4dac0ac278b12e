"""Words with their times, from the pieces and frames that a search or an alignment gives."""

from collections.abc import Sequence
from typing import NamedTuple

WORD_BEGINS = "▁"  # how sentencepiece marks the first piece of a word

# A transducer says when a piece is written, and nothing of when its sound ends: a word lasts until
# the next one begins, but no longer than this after its last piece, as a pause belongs to no word.
LONGEST_TAIL = 0.4


class Word(NamedTuple):
    """A word and its times in seconds."""

    text: str
    start: float
    end: float
    confidence: float | None = None  # in these times, where an alignment has given them


def words_of(
    pieces: Sequence[str], frames: Sequence[int], frame_seconds: float, seconds: float
) -> list[Word]:
    """Words from their pieces.

    Args:
        pieces: of a tokenizer; one that begins a word begins with WORD_BEGINS.
        frames: the encoder's frame in which each piece is written.
        frame_seconds: how long a frame is.
        seconds: how long the recording is.
    """
    spans = word_spans(pieces)
    words = []
    for n, (first, behind) in enumerate(spans):
        start = frames[first] * frame_seconds
        written = (frames[behind - 1] + 1) * frame_seconds
        end = written + LONGEST_TAIL
        if n + 1 < len(spans):
            # Two words of one frame overlap in it: neither has a length of 0.
            end = max(written, min(end, frames[spans[n + 1][0]] * frame_seconds))
        text = "".join(pieces[first:behind]).replace(WORD_BEGINS, "")
        words.append(Word(text, min(start, seconds), min(end, seconds)))
    return words


def word_spans(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """The first piece of each word, and the one behind its last."""
    begins = [n for n, piece in enumerate(pieces) if n == 0 or piece.startswith(WORD_BEGINS)]
    return list(zip(begins, [*begins[1:], len(pieces)]))
