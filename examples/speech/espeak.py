"""Sentences spoken by eSpeak NG: a corpus of any size, from nothing.

Held out are some of the voices, and the sentences of `sentences.is_held_out`. Voice, speed and
pitch are drawn anew for every sentence. Only the flutter of a voice goes on from one sentence to
the next, so that a corpus made by other processes differs in it; what is in the cache stays.
"""

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from examples.digits.synthesiser import (
    PITCH,
    WORDS_PER_MINUTE,
    loader_version,
    synthesiser,
    voices,
)

from . import sentences
from .audio import resample
from .corpus import Utterance
from .packed import Packed, cached, to_int16
from .settings import Settings

PER_PROCESS = 500  # fewer sentences are not worth starting a process for


def load(settings: Settings) -> tuple[Packed, Packed]:
    """Synthesises the sentences, or reads them from the cache."""
    return (
        _part(settings, settings.train_sentences, held_out=False),
        _part(settings, settings.valid_sentences, held_out=True),
    )


def _part(settings: Settings, count: int, held_out: bool) -> Packed:
    words = sentences.vocabulary(settings.words)
    spoken = (words, settings.sentence_words, voices(held_out), WORDS_PER_MINUTE, PITCH)
    return cached(
        Path(settings.cache),
        "espeak-valid" if held_out else "espeak-train",
        (loader_version(), spoken, settings.seed, count),
        settings.sample_rate,
        lambda: _synthesise(settings, count, held_out),
    )


def _synthesise(settings: Settings, count: int, held_out: bool) -> Iterator[Utterance]:
    """Sentences 0 to count - 1, the same words and voices however many processes speak."""
    processes = min(os.cpu_count() or 1, 1 + count // PER_PROCESS)
    arguments = range(count), itertools.repeat(held_out), itertools.repeat(settings)
    if processes == 1:
        yield from itertools.starmap(speak, zip(*arguments))
        return
    # Spawned, as JAX's threads do not survive a fork. A Pool would start processes that die anew,
    # for ever.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        yield from pool.map(_speak, *arguments, chunksize=32)


def _speak(index: int, held_out: bool, settings: Settings) -> Utterance:
    """In 16 bits: the one process that writes is what many that speak would wait for."""
    utterance = speak(index, held_out, settings)
    return utterance._replace(audio=to_int16(utterance.audio))


def speak(index: int, held_out: bool, settings: Settings) -> Utterance:
    """One sentence. Its words, voice, speed and pitch depend on nothing but the arguments."""
    rng = np.random.default_rng([settings.seed, held_out, index])
    text = sentences.draw(
        rng, held_out, sentences.vocabulary(settings.words), settings.sentence_words
    )
    voice = str(rng.choice(voices(held_out)))
    speed, pitch = int(rng.integers(*WORDS_PER_MINUTE)), int(rng.integers(*PITCH))
    espeak = synthesiser()
    audio = espeak.speak(text, voice, speed, pitch)
    # 22,050 Hz taken for 22,000: 0.2 % slower, and 11 samples become 8 instead of 441 become 320.
    audio = resample(audio, round(espeak.sample_rate, -3), settings.sample_rate)
    return Utterance(f"{index}-{voice}", audio, text)
