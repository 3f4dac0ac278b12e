"""The speech synthesiser eSpeak NG, from the PyPI package `espeakng-loader`."""

import ctypes
import functools
import importlib.metadata
from typing import Any

import numpy as np

ACCENTS = ("en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan")
TRAINING_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f4", "Andy", "Alicia", "Lee"),
    *("Alex", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Marco", "Mario", "Reed", "belinda"),
    *("benjamin", "david", "ed", "linda", "steph", "victor"),
)
HELD_OUT_VARIANTS = ("m5", "m8", "f3", "f5", "Annie", "Michael")
WORDS_PER_MINUTE = (140, 220)
PITCH = (25, 75)  # eSpeak's scale from 0 to 100
_SYNCHRONOUS, _UTF8, _IPA, _RATE, _PITCH = 2, 1, 2, 1, 3  # constants of espeak-ng/speak_lib.h


def voices(held_out: bool) -> list[str]:
    """Every accent of English with every voice variant of one part."""
    variants = HELD_OUT_VARIANTS if held_out else TRAINING_VARIANTS
    return [f"{accent}+{variant}" for accent in ACCENTS for variant in variants]


def loader_version() -> str:
    """Of the package; its absence is an error that says what to install."""
    try:
        return importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            "--data espeak speaks through the package espeakng-loader: "
            "pip install espeakng-loader. (--data fsdd PATH does without it.)"
        ) from None


class Synthesiser:
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
        library.espeak_TextToPhonemes.argtypes = [
            ctypes.POINTER(ctypes.c_char_p),  # text, moved on by a clause
            ctypes.c_int,  # its encoding
            ctypes.c_int,  # how to write the phonemes
        ]
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
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
        self._set_voice(voice)
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._pieces.clear()
        content = text.encode() + b"\0"
        if self._library.espeak_Synth(content, len(content), 0, 0, 0, _UTF8, None, None) != 0:
            raise RuntimeError(f"eSpeak NG could not say {text!r}.")
        return np.concatenate(self._pieces).astype(np.float32) / 32768.0

    def phonemes(self, text: str, voice: str) -> str:
        """How the voice would say it, in the phonetic alphabet, stress left out."""
        self._set_voice(voice)
        pointer = ctypes.c_char_p(text.encode())
        written = self._library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, _IPA)
        return written.decode().translate(dict.fromkeys(map(ord, "\u02c8\u02cc ")))

    def _set_voice(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"This eSpeak NG has no voice {voice}.")

    def _on_samples(self, samples: Any, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


@functools.cache
def synthesiser() -> Synthesiser:
    """The one of this process."""
    return Synthesiser()
