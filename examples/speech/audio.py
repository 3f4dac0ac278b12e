"""Recordings of any rate."""

from pathlib import Path

import numpy as np


def resample(audio: np.ndarray, rate: int, to: int) -> np.ndarray:
    """(samples,) of one rate -> (ceil(samples * to / rate),) of another, float32."""
    raise NotImplementedError


def read(file: Path, sample_rate: int) -> np.ndarray:
    """A WAV, FLAC or whatever soundfile reads, its channels averaged: (samples,) float32."""
    raise NotImplementedError
