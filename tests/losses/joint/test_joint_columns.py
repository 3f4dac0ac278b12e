"""A joint on a band of columns against materialised logits with nothing allowed outside of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import IMPLEMENTATIONS, Problem, assert_close, make_problem
from materialised import evaluate, expected
from philox import dropout_mask
from support import full

import jax_rnnt

RNNT = jax_rnnt.rnnt_loss_from_joint
N, T, U, H, V, S = 3, 9, 6, 5, 7, 3


@functools.cache
def key() -> jax.Array:
    return jax.random.key(7)


def _problem(rng, dtype="float32") -> Problem:
    problem = make_problem(rng, N, T, U, H, V, make=full, dtype=dtype)
    problem.frames_lengths[1:], problem.labels_lengths[1:] = (7, 1), (4, 0)
    return problem


def _columns(rng, labels_lengths) -> np.ndarray:
    """(..., T), each at most one column further than the one before, the last at the end."""
    late = np.maximum(labels_lengths[..., None] - S + 1, 0)
    steps = np.sort(rng.permuted(np.arange(T) % (U - S + 1) + 0 * late, axis=-1), -1)
    return np.minimum(steps, late).astype(np.int32)


def _outside(columns):
    place = np.arange(U) - columns[..., None]
    return np.where((place >= 0) & (place < S), 0, -np.inf)


def _loss(problem, columns, label_bias=0.0, **options):
    """Of logits as an array."""
    outside = _outside(columns)
    return functools.partial(
        _of_logits,
        problem[1:],
        dict(label_bias=label_bias + outside, blank_bias=outside, **options),
    )


def _of_logits(lattice, options, logits):
    return jax_rnnt.rnnt_loss_from_logits(logits, *lattice, **options)


def _evaluate(problem, columns, cotangents=None, traced=None, **options):
    traced = {"columns": columns, **(traced or {})}
    return evaluate(RNNT, problem, cotangents, traced, width=S, **options)


@pytest.mark.parametrize("normalize", ["softmax", "hat"])
def test_costs_and_gradients(normalize, rng):
    problem = _problem(rng)
    columns, cotangents = _columns(rng, problem.labels_lengths), rng.standard_normal(N)
    options = dict(normalize=normalize, rnnt_type="constrained")
    labels = np.maximum(problem.labels, 1)
    problem = problem._replace(labels=labels)
    actual = _evaluate(problem, columns, cotangents, **options)
    wanted = expected(problem, _loss(problem, columns, **options), cotangents=cotangents)
    assert np.isfinite(wanted.costs).all()
    assert_close(actual, wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dropout_has_the_mask_of_all_columns(implementation, rng):
    problem = _problem(rng)
    columns = _columns(rng, problem.labels_lengths)
    mask = dropout_mask(key(), 0.3, N, T, U, H)
    actual = _evaluate(
        problem,
        columns,
        traced={"dropout_key": key()},
        dropout_rate=0.3,
        implementation=implementation,
    )
    assert_close(actual, expected(problem, _loss(problem, columns), mask=mask))


def test_clamp_is_of_each_cost(rng):
    problem = _problem(rng)
    columns, cotangents = _columns(rng, problem.labels_lengths), np.array([2.0, -1.0, 0.5])
    own = dict(clamp=0.05, activation="silu")
    actual = _evaluate(problem, columns, cotangents, **own)
    wanted = expected(problem, _loss(problem, columns), cotangents=cotangents, **own)
    assert_close(actual, wanted)
    other = expected(problem, _loss(problem, columns), cotangents=cotangents, activation="silu")
    assert np.abs(other.gradients.bias - wanted.gradients.bias).max() > 0.01


def test_hypotheses_share_an_encoder(rng):
    K = 2
    many = make_problem(rng, 2 * K, T, U, H, V, make=full)
    many.labels_lengths[:] = 5, 3, 4, 0
    many = many._replace(joint=many.joint._replace(encoder=many.joint.encoder[::K]))
    columns = _columns(rng, many.labels_lengths)
    mask = dropout_mask(key(), 0.3, 2 * K, T, U, H)
    wanted = expected(many, _loss(many, columns), mask=mask)

    def fold(x):
        return x.reshape(2, K, *x.shape[1:])

    problem = Problem(
        many.joint._replace(predictor=fold(many.joint.predictor)),
        fold(many.labels),
        many.frames_lengths[::K],
        fold(many.labels_lengths),
    )
    options = dict(traced={"dropout_key": key()}, dropout_rate=0.3)
    actual = _evaluate(problem, fold(columns), **options)
    flat = actual.gradients.predictor.reshape(many.joint.predictor.shape)
    actual = actual._replace(
        costs=actual.costs.ravel(), gradients=actual.gradients._replace(predictor=flat)
    )
    assert_close(actual, wanted)


def test_half_dtypes(rng):
    problem = _problem(rng, "bfloat16")
    columns = _columns(rng, problem.labels_lengths)
    assert_close(
        _evaluate(problem, columns), expected(problem, _loss(problem, columns)), "bfloat16"
    )


def test_a_band_of_all_columns_and_fastemit_and_biases(rng):
    problem = _problem(rng)
    bias = rng.standard_normal((T, U)).astype(np.float32)
    traced = dict(label_bias=bias, fastemit_lambda=np.float32(0.3))
    zeros = np.zeros((N, T), np.int32)
    actual = evaluate(RNNT, problem, None, dict(columns=zeros, **traced), width=99)
    assert_close(actual, evaluate(RNNT, problem, None, traced, min_posterior=0.0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(width=None), ValueError, "^columns and width must be given together, got no width"),
        (dict(columns=None), ValueError, "^columns and width must be given together, got no col"),
        (dict(width=0), ValueError, "^width must be at least 1"),
        (dict(tile=(4, 4, 1)), ValueError, "^tile is for a walk over tiles"),
        (dict(min_posterior=0.0), ValueError, "^min_posterior is for a walk over tiles"),
        (dict(columns=np.zeros(T, int)), ValueError, r"^columns must have shape \(3, 9\)"),
        (dict(columns=np.full((N, T), 4)), ValueError, r"^columns must be in \[0, 3\]"),
        (dict(normalize="none"), ValueError, "^normalize must be one of"),
    ],
)
def test_arguments_are_checked(change, error, message, rng):
    problem = _problem(rng)
    options = dict(columns=np.zeros((N, T), int), width=S) | change
    with pytest.raises(error, match=message):
        RNNT(*problem.joint, *problem[1:], **options)


def test_an_activation_that_closes_over_arrays_is_refused(rng):
    problem, scale = _problem(rng), jnp.float32(2)
    with pytest.raises(ValueError, match=r"^activation must not close over arrays"):
        RNNT(
            *problem.joint,
            *problem[1:],
            columns=np.zeros((N, T), int),
            width=S,
            activation=lambda x: scale * x,
        )
