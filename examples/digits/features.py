"""Log-mel features in NumPy."""

import functools

import numpy as np

BANDS = 40
WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
LOWEST_HZ = 60.0
HIGHEST_HZ = 4000.0
FLOOR = 1e-4  # added to the power of each band before the logarithm
SETTINGS = (BANDS, WINDOW_SECONDS, HOP_SECONDS, LOWEST_HZ, HIGHEST_HZ, FLOOR)


def log_mel(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel features of one recording: (samples,) in [-1, 1] -> (frames, BANDS) float32.

    The recording is padded with silence (15 ms in front, the rest of a window behind), so that no
    window reaches into a neighbour: the features of several padded recordings played one after the
    other are exactly their features joined.
    """
    window, hop = _window_and_hop(sample_rate)
    lead = window - hop
    frames = -(-(lead + len(wave)) // hop)
    padded = np.zeros(frames * hop + lead, np.float32)
    padded[lead : lead + len(wave)] = wave
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    size = 1 << (window - 1).bit_length()
    spectrum = np.fft.rfft(windows * np.hanning(window).astype(np.float32), size)
    power = np.square(np.abs(spectrum)) / hop
    return np.log(power @ _mel_filters(sample_rate, size) + FLOOR).astype(np.float32)


def padded_wave(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """The recording as `log_mel` hears it within a string: (samples,) -> (frames * hop,)."""
    window, hop = _window_and_hop(sample_rate)
    behind = -(window - hop + len(wave)) % hop
    return np.pad(wave, (window - hop, behind))


def _window_and_hop(sample_rate: int) -> tuple[int, int]:
    return round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)


@functools.cache
def _mel_filters(sample_rate: int, fft_size: int) -> np.ndarray:
    """Triangular filters, equally spaced in mel: (fft_size // 2 + 1, BANDS)."""
    highest = min(HIGHEST_HZ, sample_rate / 2)
    edges_mel = np.linspace(_hz_to_mel(LOWEST_HZ), _hz_to_mel(highest), BANDS + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(fft_size, 1.0 / sample_rate)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    return 2595.0 * float(np.log10(1.0 + hz / 700.0))
