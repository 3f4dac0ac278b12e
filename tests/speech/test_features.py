"""Audio and features of examples.speech."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

pytest.importorskip("soundfile")

from examples.speech import audio, features
from examples.speech.settings import preset

TINY = preset("tiny")


def sine(hz, rate=16_000, seconds=0.5):
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "to"),
    [(8_000, 16_000), (44_100, 16_000), (17_600, 16_000), (14_400, 16_000), (48_000, 16_000)],
)
def test_resampled_sine_stays_a_sine(rate, to):
    heard = audio.resample(sine(1_000, rate, 0.3001), rate, to)
    assert len(heard) == audio.resampled_length(int(rate * 0.3001), rate, to)
    assert heard.dtype == np.float32
    np.testing.assert_allclose(
        heard[200:-200], sine(1_000, to, 0.4)[: len(heard)][200:-200], atol=2e-3
    )
    if rate > 2.2 * to:  # above the new half rate there is nothing to hear
        assert np.abs(audio.resample(sine(9_500, rate), rate, to)[200:-200]).max() < 2e-3


def test_read_averages_channels(tmp_path):
    import soundfile

    both = np.stack([sine(300, 8_000), np.zeros(4_000, np.float32)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", both, 8_000)
    heard = audio.read(tmp_path / "stereo.wav", 16_000)
    np.testing.assert_allclose(heard[200:-200], 0.5 * sine(300)[200:-200], atol=2e-3)


def test_log_mel_is_as_defined(rng):
    """Against float64, frame by frame."""
    samples = rng.normal(size=1_700) * 0.1
    actual = np.asarray(features.log_mel(jnp.asarray(samples[None], jnp.float32), TINY))[0]
    assert actual.shape == (11, 80)
    filters = features.mel_filters(TINY, 512).astype(float)
    padded = np.pad(samples, (120, 1_000))
    for frame, found in enumerate(actual):
        window = padded[160 * frame : 160 * frame + 400] * np.hanning(400)
        power = np.abs(np.fft.rfft(window, 512)) ** 2
        np.testing.assert_allclose(found, np.log(power @ filters + 1e-6), atol=1e-4)


def test_a_sine_lands_in_its_band():
    """The bands' middles are equally spaced in mel between 20 Hz and 8 kHz."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([20, 8_000]) / 700)), 82)[1:-1]
    middles = 700 * (10 ** (mel / 2595) - 1)
    for band in (20, 40, 60, 75):
        found = features.log_mel(jnp.asarray(0.5 * sine(middles[band]))[None], TINY)[0]
        assert set(np.argmax(np.asarray(found)[3:-3], axis=1)) == {band}


def test_padding_does_not_change_frames(rng):
    lengths = np.array([1_601, 4_000, 0])
    batch = np.zeros((3, 5_120), np.float32)
    for row, length in zip(batch, lengths):
        row[:length] = rng.normal(size=length)
    together, frames_lengths = features.extract(jnp.asarray(batch), jnp.asarray(lengths), TINY)
    np.testing.assert_array_equal(frames_lengths, [11, 25, 0])
    for n in (0, 1):
        row = jnp.asarray(batch[n : n + 1, : lengths[n]])
        alone, _ = features.extract(row, jnp.asarray(lengths[n : n + 1]), TINY)
        frames = int(frames_lengths[n])
        assert alone.shape == (1, frames, 80)
        np.testing.assert_allclose(together[n, :frames], alone[0], atol=1e-4)
        np.testing.assert_array_equal(together[n, frames:], 0)
        np.testing.assert_allclose(alone[0].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(alone[0].std(0), 1, atol=5e-3)
    np.testing.assert_array_equal(together[2], 0)


def test_spec_augment_masks_spans():
    settings = preset("tiny", time_masks=2, time_mask_share=0.1, band_masks=1, band_mask_width=20)
    lengths = jnp.array([100] * 50 + [40] * 50)
    ones = jnp.ones((100, 120, 80))
    masked = np.asarray(features.spec_augment(ones, lengths, jax.random.key(0), settings)) == 0
    frames, bands = masked.all(axis=2), masked.all(axis=1)
    np.testing.assert_array_equal(masked, frames[:, :, None] | bands[:, None, :])
    assert bands.sum(1).max() == 20
    assert set(bands.sum(1)) > set(range(3, 18))
    assert frames[:50].sum(1).max() in range(15, 21)
    assert frames[50:].sum(1).max() in range(6, 9)
    assert not frames[50:, 40:].any()
    assert frames[:50, 95:].any()
    again = features.spec_augment(ones, lengths, jax.random.key(0), settings)
    np.testing.assert_array_equal(again == 0, masked)
    other = features.spec_augment(ones, lengths, jax.random.key(1), settings)
    assert (np.asarray(other == 0) != masked).any()
