"""The batches of examples.speech."""

import dataclasses
import itertools
import pathlib
import shutil
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

for module in ("grain", "sentencepiece"):
    pytest.importorskip(module)

from examples.speech import audio, batches, sentences  # noqa: E402
from examples.speech.batches import Loader  # noqa: E402
from examples.speech.corpus import Utterance  # noqa: E402
from examples.speech.plan import Plan, _bounds  # noqa: E402
from examples.speech.settings import preset  # noqa: E402
from examples.speech.text import Tokenizer  # noqa: E402


class Tones:
    """Utterance i is a second of a constant, i / 100, and i / 10 seconds more."""

    def __init__(self, count):
        self.texts = [sentences.WORDS[i] + " go" * (i % 3) for i in range(count)]
        self.seconds = 1 + np.arange(count) / 10

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        value = np.full(16_000 + 1_600 * int(index), 0.01 * (index + 1), np.float32)
        return Utterance(str(index), value, self.texts[index])


@pytest.fixture(scope="module")
def tones():
    corpus = Tones(30)
    settings = preset("tiny", buckets=3, frames_per_batch=1_000, max_seconds=3.5)
    return corpus, Tokenizer.train(corpus.texts, 64), settings


def test_bounds_pad_least(rng):
    for buckets in (1, 2, 3):
        lengths = rng.integers(1, 12, size=(20, 1))
        values = np.unique(lengths)

        def cells(bounds, lengths=lengths):
            return np.asarray(bounds)[np.searchsorted(bounds, lengths)].sum()

        best = min(
            cells([*inner, values[-1]])
            for inner in itertools.combinations(values[:-1], buckets - 1)
        )
        bounds = _bounds(lengths, buckets)
        assert len(bounds) == buckets
        assert cells(bounds) == best
    assert _bounds(np.array([[5], [7]]), 6) == [5, 7]


def test_every_utterance_is_in_an_epoch_once(tones):
    _, _, settings = tones
    samples = 16_000 + 160 * np.arange(300)
    settings = dataclasses.replace(
        settings, speeds=(1.1, 1.0, 0.9), max_seconds=3.0, frames_per_batch=2_000
    )
    plan = Plan(samples, np.arange(300) % 7, settings, training=True, divisor=4)
    assert len(plan.shapes) == 3
    assert plan.left_out == 99
    for rows, room, labels in plan.shapes:
        assert rows % 4 == 0
        assert room % (160 * settings.subsampling) == 0
        assert labels == 6
        assert 0.4 * 2_000 < rows * room / 160 <= 2_000
    number = 0
    orders = []
    for epoch in range(3):
        batches = plan.epoch(epoch)
        seen = np.concatenate([batch.utterances for batch in batches])
        np.testing.assert_array_equal(np.sort(seen), np.arange(201))  # up to 3 seconds
        orders.append(seen.tolist())
        assert {rate for batch in batches for rate in batch.rates} == {14_400, 16_000, 17_600}
        partial = [b for b in batches if len(b.utterances) < plan.shapes[b.bucket].rows]
        assert len(partial) <= 1
        for batch in batches:
            loaded = audio.resampled_length(samples[batch.utterances], batch.rates, 16_000)
            assert loaded.max() <= plan.shapes[batch.bucket].samples
            other = Plan(samples, np.arange(300) % 7, settings, training=True, divisor=4)[number]
            np.testing.assert_array_equal(other.utterances, batch.utterances)
            np.testing.assert_array_equal(other.rates, batch.rates)
            number += 1
    assert orders[0] != orders[1]
    assert 0 < plan.padding() < 0.3
    asked = np.random.default_rng(0).permutation(number).repeat(3).tolist()
    fresh = Plan(samples, np.arange(300) % 7, settings, training=True, divisor=4)
    with ThreadPoolExecutor(8) as threads:
        for n, found in zip(asked, threads.map(fresh.__getitem__, asked), strict=True):
            np.testing.assert_array_equal(found.utterances, plan[n].utterances)
    with pytest.raises(ValueError, match="No utterance is at most"):
        Plan(samples, samples, dataclasses.replace(settings, max_seconds=0.1), True, 1)


def test_batches_hold_what_the_corpus_has(tones):
    corpus, tokenizer, settings = tones
    loader = Loader(corpus, tokenizer, settings, training=False)
    for _ in range(2):  # a `for` each
        seen, filled, cells = set(), 0, 0
        for batch in loader:
            shape = (len(batch.audio), batch.audio.shape[1], batch.labels.shape[1])
            assert shape in loader.shapes
            cells += batch.audio.size
            for row in range(len(batch.audio)):
                samples, labels = batch.samples_lengths[row], batch.labels_lengths[row]
                filled += samples
                assert not batch.audio[row, samples:].any()
                assert not batch.labels[row, labels:].any()
                if samples:
                    i = round(batch.audio[row, 0] * 100) - 1
                    seen.add(i)
                    np.testing.assert_array_equal(batch.audio[row, :samples], corpus[i].audio)
                    assert tokenizer.decode(batch.labels[row, :labels]) == corpus.texts[i]
                else:
                    assert labels == 0
        assert seen == set(range(30))  # those that are too long for training, too
        assert loader.padding == pytest.approx(1 - filled / cells)


def test_texts_are_those_of_the_rows(tones):
    """Letters that the tokenizer does not know among them, which labels lose."""
    corpus, tokenizer, settings = tones
    corpus = Tones(30)
    corpus.texts = [f"{text} \N{LATIN SMALL LETTER O WITH STROKE}!" for text in corpus.texts]
    loaders = [
        Loader(corpus, tokenizer, settings, training=False, divisor=2, processes=(i, 2))
        for i in range(2)
    ]
    said, shapes = [], set()
    for loader in loaders:
        for batch in loader:
            texts = loader.texts()
            assert len(texts) == np.count_nonzero(batch.samples_lengths)
            for row, text in enumerate(texts):
                i = round(batch.audio[row, 0] * 100) - 1
                assert f"{text}!" == corpus.texts[i]
            said += texts
            shapes.add((2 * len(batch.audio), batch.audio.shape[1]))
    assert len(said) == 30
    # None is compiled that there is not: what fills no batch went to a longer bucket.
    assert {shape[:2] for shape in loaders[0].shapes} == shapes
    small = dataclasses.replace(settings, frames_per_batch=100_000)
    assert len(Loader(corpus, tokenizer, small, training=False).shapes) == 1


def test_speeds_change_lengths(tones):
    corpus, tokenizer, settings = tones
    settings = dataclasses.replace(settings, speeds=(0.8,))
    batch = next(Loader(corpus, tokenizer, settings, training=True))
    i = round(batch.audio[0, 5_000] * 100) - 1
    assert batch.samples_lengths[0] == len(corpus[i].audio) / 0.8
    np.testing.assert_allclose(batch.audio[0, 100:10_000], 0.01 * (i + 1), rtol=1e-2)


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_loading_goes_on_where_it_was(tones):
    """With threads and with processes, whichever had loaded before."""
    corpus, tokenizer, settings = tones
    threads = Loader(corpus, tokenizer, settings, training=True)
    expected = [next(threads) for _ in range(12)]  # more than an epoch
    assert threads.state() == {"next": 12}
    threads.set_state({"next": 3})
    assert_same(next(threads), expected[3])
    state = threads.state()
    threads.close()
    workers = dataclasses.replace(settings, loader_workers=2)
    loader = Loader(corpus, tokenizer, workers, training=True)
    loader.set_state(state)
    for number in range(4, 12):
        assert_same(next(loader), expected[number])
    loader.close()
    assert_same(next(Loader(corpus, tokenizer, settings, training=True)), expected[0])
    other = dataclasses.replace(settings, seed=1)
    batch = next(Loader(corpus, tokenizer, other, training=True))
    assert batch.audio.shape != expected[0].audio.shape or (batch.audio != expected[0].audio).any()


def test_prefetching_loads_before_a_batch_is_asked_for(tones):
    corpus, tokenizer, settings = tones
    is_asked = threading.Event()

    class Noticing(Tones):
        def __getitem__(self, index):
            is_asked.set()
            return super().__getitem__(index)

    expected = next(Loader(corpus, tokenizer, settings, training=True))
    loader = Loader(Noticing(30), tokenizer, settings, training=True)
    loader.prefetch()
    assert is_asked.wait(60)
    assert_same(next(loader), expected)
    loader.prefetch()
    loader.set_state({"next": 0})  # what was loaded in vain is forgotten
    assert_same(next(loader), expected)


def test_shared_memory_that_is_too_small_is_said(tones, tmp_path, monkeypatch):
    """What Docker gives by default is less than one batch of `small`."""
    corpus, tokenizer, settings = tones
    one_each = dataclasses.replace(settings, loader_workers=1)
    loader = Loader(corpus, tokenizer, one_each, training=True, divisor=2)
    free = types.SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(batches, "SHARED_MEMORY", tmp_path)
    with pytest.raises(ValueError, match=r"2 processes .* need 3 MB in .*, where 1 are free"):
        next(loader)


def test_processes_share_a_batch(tones):
    corpus, tokenizer, settings = tones
    options = {"training": True, "divisor": 2}
    whole = Loader(corpus, tokenizer, settings, **options)
    parts = [Loader(corpus, tokenizer, settings, **options, processes=(i, 2)) for i in range(2)]
    for _ in range(6):
        pieces = [next(part) for part in parts]
        assert_same(map(np.concatenate, zip(*pieces, strict=True)), next(whole))
    with pytest.raises(ValueError, match="2 processes do not divide 3 devices"):
        Loader(corpus, tokenizer, settings, training=True, divisor=3, processes=(0, 2))
