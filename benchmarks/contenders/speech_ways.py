"""What the recipe of `examples.speech` is measured beside.

The contenders are losses in the place of `rnnt_loss_from_joint`; `features` is `extract` of its
`features` as a loader's process would compute it.
"""

import numpy as np

from benchmarks.contenders.peers import contender
from examples.speech.features import FLOOR, mel_filters
from examples.speech.settings import Settings

WAYS = RECIPE, MATERIALISED = "recipe", "recipe_materialised"


@contender("speech", requires="flax")
def recipe():
    from jax_rnnt import rnnt_loss_from_joint

    return rnnt_loss_from_joint


@contender("speech", requires="flax")
def recipe_materialised():
    import jax.numpy as jnp

    from jax_rnnt import rnnt_loss_from_logits

    def loss(encoder, predictor, kernel, bias, *rest, fastemit_lambda, where, **dropout):
        del dropout  # of (N, T, U, H) activations: random numbers would be most of the time
        hidden = jnp.tanh(encoder[:, :, None] + predictor[:, None])
        logits = hidden @ kernel + bias[None, None, None]
        return rnnt_loss_from_logits(logits, *rest, fastemit_lambda=fastemit_lambda, where=where)

    return loss


def features(audio: np.ndarray, settings: Settings) -> np.ndarray:
    """One utterance (samples,) -> normalised log-mel (frames, bands)."""
    hop, window = settings.hop, settings.window
    frames, lead = -(-len(audio) // hop), (window - hop) // 2
    padded = np.zeros((frames - 1) * hop + window, np.float32)
    padded[lead : lead + len(audio)] = audio[: len(padded) - lead]
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    size = 1 << (window - 1).bit_length()
    spectrum = np.fft.rfft(windows * np.hanning(window).astype(np.float32), size)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    mel = np.log(power.astype(np.float32) @ mel_filters(settings, size) + np.float32(FLOOR))
    centred = mel - mel.mean(axis=0)
    return centred / (np.sqrt(np.square(centred).mean(axis=0)) + np.float32(1e-3))
