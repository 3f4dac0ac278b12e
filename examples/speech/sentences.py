"""Sentences of common English words, for a synthesiser to say.

words.txt has the 2,000 commonest, by the frequencies of the Python package wordfreq, without names
of people and without what nobody wants to hear. Of words that sound alike in some accent ("two",
"too", "to") it has the commonest alone: which of them was said cannot be heard. A sentence draws
its words evenly, because every word then is heard equally often; so the sentences mean nothing, and
the recogniser has to listen.
"""

import zlib
from pathlib import Path

import numpy as np

WORDS = tuple(Path(__file__).with_name("words.txt").read_text().split())
HELD_OUT = 10  # one sentence in so many is not for training


def is_held_out(sentence: str) -> bool:
    """Whether a sentence belongs to the held-out ones: known from its words alone."""
    return zlib.crc32(sentence.encode()) % HELD_OUT == 0


def vocabulary(count: int) -> tuple[str, ...]:
    """So many of the words, from all over the alphabet."""
    return WORDS[:: max(len(WORDS) // count, 1)][:count]


def draw(
    rng: np.random.Generator, held_out: bool, words: tuple[str, ...], lengths: tuple[int, int]
) -> str:
    """A sentence of one part, of at least and at most so many words."""
    while True:
        count = rng.integers(lengths[0], lengths[1] + 1)
        sentence = " ".join(words[word] for word in rng.integers(len(words), size=count))
        if is_held_out(sentence) == held_out:
            return sentence
