"""The data of examples.speech: corpora, text and features."""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import shutil
import sys
import wave
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

for module in ("espeakng_loader", "grain", "sentencepiece", "soundfile"):
    pytest.importorskip(module)

from examples.digits.synthesiser import synthesiser, voices  # noqa: E402
from examples.speech import audio, corpus, espeak, features, packed, sentences  # noqa: E402
from examples.speech.corpus import Utterance  # noqa: E402
from examples.speech.settings import PRESETS, Settings, preset  # noqa: E402
from examples.speech.text import Tokenizer, normalise  # noqa: E402

TINY = preset("tiny")


def sine(hz, rate=16_000, seconds=0.5):
    return np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


# --- Settings and text ----------------------------------------------------------------------------


def test_settings_survive_json():
    for name in PRESETS:
        settings = preset(name, loss="tdt", speeds=(0.95, 1.05))
        assert Settings.from_json(settings.to_json()) == settings
    assert preset("small") == Settings()
    with pytest.raises(ValueError, match="no preset 'large': choose one of tiny, small, medium"):
        preset("large")
    with pytest.raises(TypeError, match="colour"):
        preset("tiny", colour="blue")
    with pytest.raises(ValueError, match="3 heads do not divide a width of 64"):
        preset("tiny", heads=3)
    with pytest.raises(ValueError, match="evaluate_every must be positive, not 0"):
        preset("tiny", evaluate_every=0)


def test_tokenizer(tmp_path):
    texts = [sentences.draw(np.random.default_rng(i), held_out=False) for i in range(200)]
    tokenizer = Tokenizer.train(texts, 100)
    assert tokenizer.size == 100
    for text in texts:
        labels = tokenizer.encode(text)
        assert min(labels) >= 2
        assert tokenizer.decode(labels) == text
        assert "".join(tokenizer.pieces(labels)) == "▁" + text.replace(" ", "▁")
    assert tokenizer.pieces([0, 1]) == ["<blank>", "<unk>"]
    assert 1 in tokenizer.encode("œuf")
    assert tokenizer.decode([0, *tokenizer.encode("Don't!"), 0]) == "don't"
    assert tokenizer.encode("  ") == []
    tokenizer.save(tmp_path / "run" / "text.model")
    again = Tokenizer.cached(tmp_path / "run" / "text.model", ["other"], 30)
    assert again.encode(texts[0]) == tokenizer.encode(texts[0])
    assert pickle.loads(pickle.dumps(again)).encode(texts[0]) == tokenizer.encode(texts[0])
    assert Tokenizer.train(["three", "four"], 512).size < 30  # there are no more pieces


def test_normalised_text():
    assert normalise(" It\N{RIGHT SINGLE QUOTATION MARK}S  half-past_two, Ärger! ") == (
        "it's half past two ärger"
    )
    assert normalise("Cafe\N{COMBINING ACUTE ACCENT}") == "café"
    hindi = "\u0928\u092e\u0938\u094d\u0924\u0947"  # with a vowel sign and a virama
    assert normalise(f"{hindi}, {hindi}") == f"{hindi} {hindi}"


# --- Corpora --------------------------------------------------------------------------------------


def test_words_can_be_told_apart():
    assert len(sentences.WORDS) == len(set(sentences.WORDS)) == 2000
    assert set("".join(sentences.WORDS)) <= set("abcdefghijklmnopqrstuvwxyz'")
    for accent in ("en-us", "en-gb-x-rp"):
        spoken = {}
        for word in sentences.WORDS:
            other = spoken.setdefault(synthesiser().phonemes(word, accent), word)
            assert other == word, f"{other} and {word} sound alike"


def test_sentences_are_held_out():
    train, held_out = (
        {sentences.draw(np.random.default_rng(i), part) for i in range(200)}
        for part in (False, True)
    )
    assert not train & held_out
    assert {len(sentence.split()) for sentence in train} == set(range(4, 13))
    assert not any(map(sentences.is_held_out, train))
    assert all(map(sentences.is_held_out, held_out))


def test_espeak_corpus(tmp_path, monkeypatch):
    """Spoken by several processes, then read from the cache, and the same without them."""
    monkeypatch.setattr(espeak, "PER_PROCESS", 4)
    settings = preset("tiny", cache=str(tmp_path), train_sentences=8, valid_sentences=3)
    train, valid = corpus.load(settings)
    assert (len(train), len(valid)) == (8, 3)
    for part, held_out in ((train, False), (valid, True)):
        for i in range(len(part)):
            utterance, expected = part[i], espeak.speak(i, held_out, settings.seed, 16_000)
            assert (utterance.key, utterance.text) == (expected.key, expected.text)
            assert utterance.text == part.texts[i]
            assert len(utterance.audio) == pytest.approx(len(expected.audio), rel=0.01)
            assert len(utterance.audio) == round(part.seconds[i] * 16_000)
            assert utterance.audio.dtype == np.float32
            assert 0.01 < np.std(utterance.audio) < 0.5
            assert utterance.key.split("-", 1)[1] in voices(held_out)
    assert not set(voices(True)) & set(voices(False))
    monkeypatch.setattr(espeak, "_synthesise", None)
    np.testing.assert_array_equal(corpus.load(settings)[0][5].audio, train[5].audio)
    assert len(pickle.dumps(train)) < 1_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(train))[7].audio, train[7].audio)


def test_an_interrupted_cache_is_made_anew(tmp_path, capsys):
    def broken():
        yield Utterance("a", sine(100), "a")
        raise RuntimeError("stopped")

    arguments = tmp_path, "some", 1, 16_000
    with pytest.raises(RuntimeError, match="stopped"):
        packed.cached(*arguments, broken)
    assert not any(tmp_path.iterdir())
    assert f"making {tmp_path / 'some-'}" in capsys.readouterr().err
    loud = 2 * sine(100)
    made = packed.cached(*arguments, lambda: iter([Utterance("a", loud, "a")]))
    # A process of the same number, which a container gives again, was killed.
    shutil.move(next(tmp_path.iterdir()), tmp_path / "name")
    name = "some-" + hashlib.sha256(repr((2, 16_000)).encode()).hexdigest()[:16]
    (tmp_path / f"{name}.unfinished-{os.getpid()}").mkdir()
    packed.cached(*arguments[:2], 2, 16_000, lambda: iter([Utterance("b", loud, "b")]))
    made = packed.Packed(tmp_path / "name", 16_000)
    np.testing.assert_allclose(made[0].audio, loud.clip(-1, 1), atol=2 / 32768)


def test_librispeech_layout(tmp_path):
    import soundfile

    def write(name, text, samples, transcripts):
        speaker, chapter, _ = name.split("-")
        folder = tmp_path / transcripts / speaker / chapter
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.flac", samples, 16_000)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {text}\n")

    write("19-198-0000", "NORTHANGER ABBEY", 0.5 * sine(300), "train-a")
    write("19-198-0001", "THIS IT'S", 0.5 * sine(400, seconds=0.7), "train-a")
    write("20-205-0000", "SECOND", 0.5 * sine(500), "train-b")
    write("84-121-0000", "HELD OUT", 0.5 * sine(600), "dev")
    settings = preset(
        "tiny", data="librispeech", path=str(tmp_path), train="train-a+train-b", valid="dev"
    )
    train, valid = corpus.load(settings)
    assert train.texts == ["northanger abbey", "this it's", "second"]
    np.testing.assert_allclose(train.seconds, [0.5, 0.7, 0.5])
    assert (train[1].key, train[1].text) == ("19-198-0001", "this it's")
    np.testing.assert_allclose(train[1].audio, 0.5 * sine(400, seconds=0.7), atol=1e-4)
    assert valid.texts == ["held out"]
    assert pickle.loads(pickle.dumps(train))[2].text == "second"
    with pytest.raises(FileNotFoundError, match=r"no folder .*train-c"):
        corpus.load(dataclasses.replace(settings, train="train-c"))
    with pytest.raises(FileNotFoundError, match="needs a path"):
        corpus.load(dataclasses.replace(settings, path=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no SPEAKER/CHAPTER"):
        corpus.load(dataclasses.replace(settings, valid="empty"))


def test_fsdd(tmp_path):
    folder = tmp_path / "digits" / "recordings"
    folder.mkdir(parents=True)
    for name in ("3_jackson_0", "3_jackson_7", "9_theo_5"):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 8_000, 0, "NONE", ""))
            file.writeframes((16_000 * sine(440, rate=8_000)).astype("<i2").tobytes())
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"fsdd/recordings/{file.name}")
    for path in ("digits", "digits.zip"):
        settings = preset(
            "tiny", data="fsdd", path=str(tmp_path / path), cache=str(tmp_path / "cache")
        )
        train, valid = corpus.load(settings)
        assert (train.texts, valid.texts) == (["three", "nine"], ["three"])
        heard = valid[0].audio
        assert len(heard) == 8_000
        np.testing.assert_allclose(heard[500:-500], 16 / 32.768 * sine(440)[500:-500], atol=2e-3)
    with pytest.raises(FileNotFoundError, match="Free Spoken Digit Dataset"):
        corpus.load(dataclasses.replace(settings, path=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="needs recordings"):
        corpus.load(dataclasses.replace(settings, path=str(tmp_path / "cache")))
    with pytest.raises(ValueError, match="no corpus 'mine'"):
        corpus.load(dataclasses.replace(settings, data="mine"))


# --- Audio and features ---------------------------------------------------------------------------


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
