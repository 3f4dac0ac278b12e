"""What searches refuse, and in which words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from search_models import model, problem, start

import jax_rnnt

ONE, GIVEN = model(), problem(N=3, T=4)


@functools.cache
def begun():
    return start(ONE, 3)


def search(**changed):
    given = dict(
        encoder=GIVEN.encoder,
        frames_lengths=np.array([4, 0, 1]),
        state=None,
        predictor_step=ONE.step,
        joint=ONE.joint,
        max_labels=5,
    )
    given |= changed
    if given["state"] is None:
        given["state"] = begun()
    return jax_rnnt.greedy_search(**given)


def _id(value):
    """The name of an argument, an error, or what is said: the same in every process."""
    if isinstance(value, dict):
        return "-".join(value)
    return value.__name__ if isinstance(value, type) else str(value)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (dict(encoder=GIVEN.encoder[:2]), ValueError, "encoder must have N = 3 sequences"),
        (dict(encoder=np.zeros(3)), ValueError, r"encoder must be \(N, T, ...\)"),
        (dict(encoder=()), ValueError, "encoder must be"),
        (dict(encoder=(np.zeros((3, 4)), np.zeros((3, 5)))), ValueError, "encoder must be"),
        (dict(frames_lengths=[4, 5, 0]), ValueError, r"frames_lengths\[1\] = 5"),
        (dict(frames_lengths=[4, -1, 0]), ValueError, r"frames_lengths\[1\] = -1"),
        (dict(frames_lengths=[1.0, 1, 1]), TypeError, "frames_lengths must be integers"),
        (dict(frames_lengths=[4, 4]), ValueError, r"frames_lengths must have shape \(3,\)"),
        (dict(max_labels=0), ValueError, "max_labels must be at least 1, got 0"),
        (dict(max_labels=2.0), TypeError, "max_labels must be an integer"),
        (dict(max_symbols=0), ValueError, "max_symbols must be at least 1"),
        (dict(window=0), ValueError, "window must be at least 1"),
        (dict(blank=7), ValueError, "blank must be in"),
        (dict(blank="0"), TypeError, "blank must be an integer"),
        (dict(rnnt_type="rnnt"), ValueError, "rnnt_type must be one of 'regular'"),
        (dict(rnnt_type="modified", durations=(0, 1)), ValueError, "durations are for rnnt_type"),
        (dict(durations=(0,)), ValueError, "durations must be different integers"),
        (dict(durations=tuple(range(9))), ValueError, "joint must return shape"),
        (dict(state=(1, 2)), TypeError, "state must be a GreedyState"),
        (dict(joint=lambda e, f: e[..., 0]), ValueError, r"joint must return shape \(3, \d, V\)"),
        (dict(joint=lambda e, f: jnp.int32(e)), TypeError, "What joint returns must be of dtype"),
        (dict(predictor_step=lambda s, y: s), TypeError, r"must return \(state, features\)"),
        (
            dict(predictor_step=lambda s, y: (s.astype("float16"), s @ ONE.projection)),
            TypeError,
            r"must keep its arrays' shapes and dtypes: float32\[3, 5\] became float16\[3, 5\]",
        ),
        (
            dict(predictor_step=lambda s, y: (s, s)),
            TypeError,
            "The features of predictor_step must keep",
        ),
        (dict(measure=lambda x: x), ValueError, r"measure must return shape \(3,\)"),
    ],
    ids=_id,
)
def test_arguments_that_do_not_fit(changed, error, words):
    with pytest.raises(error, match=words):
        search(**changed)


@pytest.mark.parametrize(
    ("state", "options", "error", "words"),
    [
        ((), {}, ValueError, r"jnp.zeros\(\(N, 0\)\)"),
        (jnp.zeros(()), {}, ValueError, r"Each array of predictor_state must be \(N, ...\)"),
        ((jnp.zeros(2), jnp.zeros(3)), {}, ValueError, "Each array of predictor_state"),
        (jnp.zeros((2, 5)), dict(blank=-1), ValueError, "blank must not be negative"),
        (jnp.zeros((2, 5)), dict(blank=1.5), TypeError, "blank must be an integer"),
        (jnp.zeros((2, 5)), dict(beam=2), ValueError, "max_labels must be given with beam"),
        (jnp.zeros((2, 5)), dict(beam=0, max_labels=2), ValueError, "beam must be at least 1"),
        (jnp.zeros((2, 5)), dict(max_labels=2), ValueError, "max_labels and durations are for"),
    ],
)
def test_starts_that_do_not_fit(state, options, error, words):
    with pytest.raises(error, match=words):
        jax_rnnt.search_start(ONE.step, state, **options)


@functools.cache
def begun_beam(durations):
    return jax_rnnt.search_start(ONE.step, ONE.start(3), beam=2, max_labels=4, durations=durations)


def beam_search(begun_with=None, **changed):
    given = dict(state=begun_beam(begun_with)) | changed
    return jax_rnnt.beam_search(
        GIVEN.encoder, GIVEN.frames_lengths, given.pop("state"), ONE.step, ONE.joint, **given
    )


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (dict(state=(1, 2)), TypeError, "state must be a BeamState"),
        (dict(max_symbols=0), ValueError, "max_symbols must be at least 1"),
        (dict(rnnt_type="modified", durations=(0, 1)), ValueError, "durations are for rnnt_type"),
        (dict(normalized=2), TypeError, "normalized must be True or False"),
        (dict(length_penalty="1"), TypeError, "length_penalty"),
        (dict(durations=(0, 3)), ValueError, "for some of up to 1 frames, durations have 3"),
        (dict(begun_with=(0, 3)), ValueError, "for some of up to 3 frames, durations have 1"),
    ],
    ids=_id,
)
def test_arguments_of_a_beam_that_do_not_fit(changed, error, words):
    with pytest.raises(error, match=words):
        beam_search(**changed)


def test_shapes_are_told_while_tracing():
    with pytest.raises(ValueError, match="encoder must have N = 3"):
        jax.eval_shape(lambda x: search(encoder=x), jnp.zeros((2, 4, 6)))
