"""The examples run: a short training of the digits, and the same step on every device."""

import dataclasses
import os
import pathlib
import pickle
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from support import SAME_BITS, needs_on_gpu

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[1]))


TRAIN_FROM_STDIN = """
import pickle, sys
from examples.digits import train
train.run(pickle.load(sys.stdin.buffer))
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The settings of a short training, and what it gives."""
    pytest.importorskip("espeakng_loader")
    from examples.digits import train

    config = train.Config(
        cache=tmp_path_factory.mktemp("cache"),
        steps=30,
        batch_size=16,
        warmup_steps=5,
        training_strings=120,
        test_strings=20,
        progress=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        with jax.numpy_dtype_promotion("standard"):  # optax needs it
            learner = train.Learner(config)
            patch.setattr(train, "Learner", lambda _: learner)  # or every run compiles it
            result = train.run(config)
        yield config, result


def test_digits_learn_and_align(digits):
    config, result = digits
    assert len(result.losses) == config.steps
    assert np.mean(result.losses[-5:]) < 0.5 * np.mean(result.losses[:5])
    assert [posterior.step for posterior in result.posteriors] == [0, 15, 30]
    for posterior in result.posteriors:
        np.testing.assert_allclose(posterior.blank.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(posterior.label[:, :-1].sum(0), 1, atol=1e-5)


@needs_on_gpu(SAME_BITS)
def test_killed_training_goes_on_along_the_same_curve(digits, tmp_path):
    """Killed while its second checkpoint is being written, or as soon as it is."""
    from examples.digits import train

    config, alone = digits
    config = dataclasses.replace(config, checkpoint=tmp_path, checkpoint_every=10)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-P", "-c", TRAIN_FROM_STDIN]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        try:
            process.stdin.write(pickle.dumps(config))
            process.stdin.close()
            for step, seconds in (("10", 0.1), ("20", 0.001)):
                while not any(path.name.startswith(step) for path in tmp_path.iterdir()):
                    assert process.poll() is None, "it ended too early"
                    time.sleep(seconds)
        finally:
            process.kill()

    with jax.numpy_dtype_promotion("standard"):
        resumed = train.run(config)
    assert resumed.resumed_from in (10, 20)
    assert resumed.losses == alone.losses
    for actual, expected in zip(resumed.curve, alone.curve, strict=True):
        assert (actual.step, actual.loss) == (expected.step, expected.loss)
        assert actual.digit_error_rate == expected.digit_error_rate


def test_losses_of_data_parallel_training_agree(monkeypatch, capsys):
    from examples import data_parallel

    monkeypatch.setattr(sys, "argv", ["data_parallel", "--steps", "2", "--per-device", "2"])
    data_parallel.main()
    assert "the losses agree" in capsys.readouterr().out


def test_words_and_subtitles():
    """Of five words, by a model that has not learnt."""
    pytest.importorskip("optax")
    from flax import nnx

    from examples import align
    from examples.digits.model import ModelConfig, Transducer

    digits = align.digits_of("three one 42 zero")
    assert digits == [3, 1, 4, 2, 0]
    with pytest.raises(ValueError, match="got 'ten'"):
        align.digits_of("one ten")
    features = np.random.default_rng(0).normal(size=(90, 40)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = Transducer(ModelConfig(), rngs=nnx.Rngs(0))
        aligned = align.align(model, align.Recording(features, digits))
    assert [word.text for word in aligned.words] == ["three", "one", "four", "two", "zero"]
    assert all(0 <= word.begin < word.end for word in aligned.words)
    assert all(0 < word.confidence <= 1 + 1e-6 for word in aligned.words)
    np.testing.assert_allclose(aligned.posteriors.sum(0), 1, atol=1e-5)
    cues = align.subtitles([align.Word("one", 61.5, 3602.25, 0.0, 1.0)])
    assert cues == "WEBVTT\n\n00:01:01.500 --> 01:00:02.250\none\n"
    assert align.table(aligned.words).count("\n") == 5
