"""Log-mel features, computed on the device as a part of the step.

Frame t is the window of `settings.window` samples whose middle is the middle of the t-th hop.
Samples outside the recording count as zeros. So what a batch pads a recording with, zeros, does not
change its frames.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .settings import Settings

LOWEST_HZ = 20.0
# Added to the power of each band before the logarithm: 100 dB below a full-scale sine, so that the
# digital silence of synthesised speech does not stand out.
FLOOR = 1e-6


def extract(
    audio: jax.Array, samples_lengths: jax.Array, settings: Settings
) -> tuple[jax.Array, jax.Array]:
    """What the encoder reads: normalised log-mel (N, frames, bands), and the frames' lengths."""
    frames_lengths = frames_of(samples_lengths, settings)
    return normalise(log_mel(audio, settings), frames_lengths), frames_lengths


def frames_of(samples, settings: Settings):
    """How many frames that many samples have (a number or an array)."""
    return -(-samples // settings.hop)


def log_mel(audio: jax.Array, settings: Settings) -> jax.Array:
    """(N, samples) float32 in [-1, 1], zeros behind a recording's end -> (N, frames, bands)."""
    count, samples = audio.shape
    hop, window = settings.hop, settings.window
    frames = frames_of(samples, settings)
    lead = (window - hop) // 2
    hops = -(-window // hop)  # those that a window touches
    padded = jnp.pad(audio, ((0, 0), (lead, (frames + hops - 1) * hop - samples - lead)))
    by_hop = padded.reshape(count, frames + hops - 1, hop)
    windows = jnp.concatenate([by_hop[:, i : i + frames] for i in range(hops)], axis=-1)
    size = 1 << (window - 1).bit_length()
    taper = jnp.asarray(np.hanning(window).astype(np.float32))
    spectrum = jnp.fft.rfft(windows[..., :window] * taper[None, None, :], size)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    mel = jnp.matmul(power, mel_filters(settings, size), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(mel + FLOOR)


def normalise(features: jax.Array, frames_lengths: jax.Array) -> jax.Array:
    """Each band of each utterance with mean 0 and deviation 1 over its frames; 0 behind them.

    Loudness and microphone go away with the mean.
    """
    real = _real_frames(features, frames_lengths)
    count = jnp.maximum(frames_lengths, 1).astype(features.dtype)[:, None, None]
    mean = jnp.sum(features, axis=1, keepdims=True, where=real) / count
    centred = jnp.where(real, features - mean, 0.0)
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count
    return centred / (jnp.sqrt(variance) + 1e-3)


def spec_augment(
    features: jax.Array, frames_lengths: jax.Array, key: jax.Array, settings: Settings
) -> jax.Array:
    """Spans of frames and of bands of normalised features become 0, which is their mean."""
    count, frames, bands = features.shape
    for_frames, for_bands = jax.random.split(key)
    longest = settings.time_mask_share * frames_lengths.astype(jnp.float32)
    in_time = _spans(for_frames, frames_lengths, longest, settings.time_masks, frames)
    widest = jnp.full((count,), settings.band_mask_width, jnp.float32)
    all_bands = jnp.full((count,), bands, jnp.int32)
    in_bands = _spans(for_bands, all_bands, widest, settings.band_masks, bands)
    return jnp.where(in_time[:, :, None] | in_bands[:, None, :], 0.0, features)


def _spans(key: jax.Array, lengths: jax.Array, longest: jax.Array, spans: int, room: int):
    """(N, room): whether a place is in one of N times `spans` random spans within `lengths`."""
    for_widths, for_starts = jax.random.split(key)
    shape = (lengths.shape[0], spans)
    widths = jnp.floor(jax.random.uniform(for_widths, shape) * (longest[:, None] + 1.0))
    free = jnp.maximum(lengths.astype(jnp.float32)[:, None] - widths, 0.0)
    starts = jnp.floor(jax.random.uniform(for_starts, shape) * (free + 1.0))
    place = jnp.arange(room, dtype=jnp.float32)[None, None, :]
    inside = (place >= starts[:, :, None]) & (place < (starts + widths)[:, :, None])
    return jnp.any(inside, axis=1)


def _real_frames(features: jax.Array, frames_lengths: jax.Array) -> jax.Array:
    """(N, frames, 1): whether a frame is within its utterance."""
    return (jnp.arange(features.shape[1])[None, :] < frames_lengths[:, None])[:, :, None]


@functools.cache
def mel_filters(settings: Settings, size: int) -> np.ndarray:
    """Triangles, equally spaced in mel up to half the rate: (size // 2 + 1, bands)."""

    def mel(hz: float) -> float:
        return 2595.0 * float(np.log10(1.0 + hz / 700.0))

    edges_mel = np.linspace(mel(LOWEST_HZ), mel(settings.sample_rate / 2), settings.bands + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(size, 1.0 / settings.sample_rate)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
