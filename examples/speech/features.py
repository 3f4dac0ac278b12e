"""Log-mel features, on the device."""

import jax

from .settings import Settings


def log_mel(audio: jax.Array, settings: Settings) -> jax.Array:
    """(N, samples) float32 in [-1, 1] -> (N, frames, bands) float32."""
    raise NotImplementedError


def frames_of(samples, settings: Settings):
    """How many frames that many samples have."""
    return (samples + settings.hop - 1) // settings.hop


def normalise(features: jax.Array, frames_lengths: jax.Array) -> jax.Array:
    """Each band of each utterance with mean 0 and variance 1 over its real frames, 0 behind them."""
    raise NotImplementedError


def spec_augment(
    features: jax.Array, frames_lengths: jax.Array, key: jax.Array, settings: Settings
) -> jax.Array:
    """SpecAugment on normalised features: spans of frames and bands become 0."""
    raise NotImplementedError
