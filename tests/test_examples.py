"""The examples run: a short training of the digits, and the same step on every device."""

import pathlib
import sys

import jax
import numpy as np
import pytest

# Behind everything else: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[1]))


def test_digits_learn_and_align(tmp_path):
    pytest.importorskip("espeakng_loader")
    from examples.digits import train

    config = train.Config(
        cache=tmp_path,
        steps=30,
        batch_size=16,
        warmup_steps=5,
        training_strings=120,
        test_strings=20,
        progress=False,
    )
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        result = train.run(config)

    assert len(result.losses) == config.steps
    assert np.mean(result.losses[-5:]) < 0.5 * np.mean(result.losses[:5])
    assert [posterior.step for posterior in result.posteriors] == [0, 15, 30]
    for posterior in result.posteriors:
        np.testing.assert_allclose(posterior.blank.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(posterior.label[:, :-1].sum(0), 1, atol=1e-5)


def test_losses_of_data_parallel_training_agree(monkeypatch, capsys):
    from examples import data_parallel

    monkeypatch.setattr(sys, "argv", ["data_parallel", "--steps", "2", "--per-device", "2"])
    data_parallel.main()
    assert "the losses agree" in capsys.readouterr().out
