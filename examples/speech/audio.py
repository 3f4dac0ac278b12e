"""Recordings of any rate."""

import functools
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

ZEROS = 16  # crossings of the interpolating sinc on either side
ROLLOFF = 0.95  # where the filter's pass band ends, as a share of the lower Nyquist frequency


def resampled_length(samples, rate: int, to: int):
    """How many samples `resample` makes of so many (a number or an array)."""
    return -(-samples * to // rate)


def resample(audio: np.ndarray, rate: int, to: int) -> np.ndarray:
    """(samples,) of one rate -> (ceil(samples * to / rate),) of another, float32.

    The rates are in the ratio of two small numbers, `up` samples for every `down`. So the windowed
    sinc takes `up` different positions between samples, and a recording is one product: every
    `down` samples, with their surroundings, times the filters of these positions. By einsum,
    because a matrix product would start a thread for each core, in each of the loader's processes.
    """
    if rate == to:
        return audio.astype(np.float32)
    up, down = to // math.gcd(rate, to), rate // math.gcd(rate, to)
    filters, reach = _filters(up, down)
    length = resampled_length(len(audio), rate, to)
    blocks = -(-length // up)
    padded = np.zeros(blocks * down + 2 * reach, np.float32)
    padded[reach : reach + len(audio)] = audio
    windows = np.lib.stride_tricks.sliding_window_view(padded, filters.shape[1])[::down]
    return np.einsum("bk,uk->bu", windows[:blocks], filters).reshape(-1)[:length]


@functools.cache
def _filters(up: int, down: int) -> tuple[np.ndarray, int]:
    """(up, down + 2 reach) weights of samples, and how far a filter reaches."""
    cutoff = ROLLOFF * min(1.0, up / down)
    reach = math.ceil(ZEROS / cutoff)
    at = np.arange(-reach, down + reach) - np.arange(up)[:, None] * (down / up)
    window = np.where(abs(at) < reach, np.cos(0.5 * np.pi * at / reach) ** 2, 0.0)
    return (cutoff * np.sinc(cutoff * at) * window).astype(np.float32), reach


def read(file: Path | BinaryIO, sample_rate: int) -> np.ndarray:
    """A WAV, FLAC or whatever soundfile reads, its channels averaged: (samples,) float32."""
    import soundfile

    audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return resample(audio.mean(axis=1), rate, sample_rate)
