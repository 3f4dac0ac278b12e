"""The data of examples.speech: settings, text and corpora."""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import wave
import zipfile

import numpy as np
import pytest

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

for module in ("espeakng_loader", "grain", "sentencepiece", "soundfile"):
    pytest.importorskip(module)

from examples.digits.synthesiser import synthesiser, voices  # noqa: E402
from examples.speech import corpus, espeak, packed, sentences  # noqa: E402
from examples.speech.corpus import Utterance  # noqa: E402
from examples.speech.settings import PRESETS, Settings, preset  # noqa: E402
from examples.speech.text import Tokenizer, normalise  # noqa: E402


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
    for sentence_words in ((5, 2), (0, 2), (3,)):
        with pytest.raises(ValueError, match="sentence_words must be the least and the most, not"):
            preset("tiny", sentence_words=sentence_words)


def test_tokenizer(tmp_path):
    texts = [
        sentences.draw(np.random.default_rng(i), False, sentences.WORDS, (4, 12))
        for i in range(200)
    ]
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
    words = sentences.vocabulary(60)
    assert len(words) == len(set(words)) == 60
    assert (words[0][0], words[-1][0]) == ("a", "w")
    assert sentences.vocabulary(2000) == sentences.vocabulary(9999) == sentences.WORDS
    train, held_out = (
        {sentences.draw(np.random.default_rng(i), part, words, (2, 5)) for i in range(200)}
        for part in (False, True)
    )
    assert not train & held_out
    assert {len(sentence.split()) for sentence in train} == set(range(2, 6))
    assert {word for sentence in train for word in sentence.split()} == set(words)
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
            utterance, expected = part[i], espeak.speak(i, held_out, settings)
            assert (utterance.key, utterance.text) == (expected.key, expected.text)
            assert utterance.text == part.texts[i]
            assert len(utterance.audio) == pytest.approx(len(expected.audio), rel=0.03)
            assert len(utterance.audio) == round(part.seconds[i] * 16_000)
            assert utterance.audio.dtype == np.float32
            assert 0.01 < np.std(utterance.audio) < 0.5
            assert utterance.key.split("-", 1)[1] in voices(held_out)
    assert not set(voices(True)) & set(voices(False))
    monkeypatch.setattr(espeak, "_synthesise", None)
    np.testing.assert_array_equal(corpus.load(settings)[0][5].audio, train[5].audio)
    assert len(pickle.dumps(train)) < 1_000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(train))[7].audio, train[7].audio)


def test_processes_that_die_end_the_speaking(tmp_path):
    """As those of a script do that trains while it is imported; a Pool would go on for ever."""
    script = tmp_path / "script.py"
    script.write_text(
        "from examples.speech import espeak\n"
        "from examples.speech.settings import preset\n"
        "espeak.PER_PROCESS = 4\n"
        f"espeak.load(preset('tiny', cache={str(tmp_path)!r}, train_sentences=8))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    run = subprocess.run(
        [sys.executable, "-P", str(script)], env=environment, capture_output=True, timeout=60
    )
    assert b"BrokenProcessPool" in run.stderr
    assert not list(tmp_path.glob("espeak*"))


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
