"""Strings of digits spoken by the synthesiser eSpeak NG, from the PyPI package `espeakng-loader`.

A voice is an accent of English with a voice variant. Held out are the variants of
`HELD_OUT_VARIANTS`, which no training clip uses, and one digit string in five, which no training
clip says. Speed and pitch are drawn anew for every clip.
"""

import ctypes
import functools
import importlib.metadata
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .data import Clips, Dataset, cached_clips, normalise
from .features import log_mel

ACCENTS = ("en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan")
TRAINING_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f4", "Andy", "Alicia", "Lee"),
    *("Alex", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Marco", "Mario", "Reed", "belinda"),
    *("benjamin", "david", "ed", "linda", "steph", "victor"),
)
HELD_OUT_VARIANTS = ("m5", "m8", "f3", "f5", "Annie", "Michael")
WORDS_PER_MINUTE = (140, 220)
PITCH = (25, 75)  # eSpeak's scale from 0 to 100
MAX_FRAMES = 256
MAX_DIGITS = 6
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3  # constants of espeak-ng/speak_lib.h


def load(cache: Path, training_strings: int, test_strings: int) -> Dataset:
    """Synthesises the strings, or reads them from the cache."""
    voices = (ACCENTS, TRAINING_VARIANTS, HELD_OUT_VARIANTS, WORDS_PER_MINUTE, PITCH)
    limits = (MAX_FRAMES, MAX_DIGITS, training_strings, test_strings)
    clips = cached_clips(
        cache,
        "espeak",
        (_loader_version(), voices, limits),
        lambda: (
            _synthesise(training_strings, held_out=False),
            _synthesise(test_strings, held_out=True),
        ),
    )
    train, test, mean, deviation = normalise(*clips)
    return Dataset(
        train=train,
        test=test,
        test_strings=[[clip] for clip in range(len(test))],
        clips_per_string=(1, 1),
        max_frames=MAX_FRAMES,
        max_digits=MAX_DIGITS,
        mean=mean,
        deviation=deviation,
    )


def is_held_out(digits: np.ndarray) -> bool:
    """Whether a string of digits belongs to the test set."""
    return zlib.crc32(bytes(digits.tolist())) % 5 == 0


def _synthesise(count: int, held_out: bool) -> Clips:
    """`count` strings of 2 to MAX_DIGITS digits that fit into MAX_FRAMES."""
    rng = np.random.default_rng(int(held_out))
    variants = HELD_OUT_VARIANTS if held_out else TRAINING_VARIANTS
    voices = [f"{accent}+{variant}" for accent in ACCENTS for variant in variants]
    synthesiser = _synthesiser()
    clips: list[tuple[np.ndarray, list[int], int]] = []
    while len(clips) < count:
        digits = rng.integers(0, 10, rng.integers(2, MAX_DIGITS + 1))
        voice = int(rng.integers(len(voices)))
        words_per_minute, pitch = rng.integers(*WORDS_PER_MINUTE), rng.integers(*PITCH)
        if is_held_out(digits) != held_out:
            continue
        text = " ".join(WORDS[digit] for digit in digits)
        wave = synthesiser.speak(text, voices[voice], int(words_per_minute), int(pitch))
        features = log_mel(wave, synthesiser.sample_rate)
        if len(features) <= MAX_FRAMES:
            clips.append((features, digits.tolist(), voice))
    return Clips.join(clips)


def _loader_version() -> str:
    try:
        return importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            "--data espeak speaks through the package espeakng-loader: "
            "pip install espeakng-loader. (--data fsdd PATH does without it.)"
        ) from None


class _Synthesiser:
    """eSpeak NG, which can be started once a process."""

    def __init__(self) -> None:
        import espeakng_loader

        on_samples_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_Initialize.argtypes = [
            ctypes.c_int,  # kind of output
            ctypes.c_int,  # length of the buffer
            ctypes.c_char_p,  # path of the data
            ctypes.c_int,  # options
        ]
        library.espeak_SetSynthCallback.argtypes = [on_samples_type]
        library.espeak_SetSynthCallback.restype = None
        library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,  # text
            ctypes.c_size_t,  # its size
            ctypes.c_uint,  # position
            ctypes.c_int,  # type of position
            ctypes.c_uint,  # end position
            ctypes.c_uint,  # flags
            ctypes.c_void_p,  # identifier
            ctypes.c_void_p,  # user data
        ]
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate: int = library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.sample_rate <= 0:
            raise RuntimeError("eSpeak NG did not start: reinstall espeakng-loader.")
        self._library = library
        self._pieces: list[np.ndarray] = []
        self._callback = on_samples_type(self._on_samples)  # eSpeak holds a bare pointer to it
        library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """The recording: (samples,) in [-1, 1]."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"This eSpeak NG has no voice {voice}.")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._pieces.clear()
        content = text.encode() + b"\0"
        if self._library.espeak_Synth(content, len(content), 0, 0, 0, _UTF8, None, None) != 0:
            raise RuntimeError(f"eSpeak NG could not say {text!r}.")
        return np.concatenate(self._pieces).astype(np.float32) / 32768.0

    def _on_samples(self, samples: Any, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


@functools.cache
def _synthesiser() -> _Synthesiser:
    return _Synthesiser()
