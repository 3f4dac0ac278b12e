"""Arcs of the simple joint and their gradients against its logits as an array, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import PLATFORM, precision
from tolerances import assert_same_bits, relative_error

import jax_rnnt
from jax_rnnt.rows import simple

N, T, U, V = 4, 5, 4, 7


class Problem(NamedTuple):
    encoder: np.ndarray
    predictor: np.ndarray
    labels: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """(N, T, U)."""
        frames = np.arange(T)[:, None] < self.frames_lengths[:, None, None]
        return frames & (np.arange(U) <= self.labels_lengths[:, None, None])


# On CUDA products in float32 are of two bfloat16 halves of each factor.
ARC_ERROR, GRADIENT_ERROR = (2e-5, 1e-5) if PLATFORM == "cuda" else (2e-6, 1e-6)


def _problem(rng, dtype="float32", scale=1.0) -> Problem:
    """Of which padding is NaN, and some labels are equal."""
    frames, counts = np.array([5, 3, 1, 4], np.int32), np.array([3, 2, 0, 1], np.int32)
    labels = rng.integers(0, V, (N, U - 1)).astype(np.int32)
    labels[0] = labels[0, 0]
    encoder, predictor = (scale * rng.standard_normal((N, x, V)) for x in (T, U))
    encoder[np.arange(T) >= frames[:, None]] = np.nan
    predictor[np.arange(U) > counts[:, None]] = np.nan
    dtype = jnp.dtype(dtype)
    return Problem(encoder.astype(dtype), predictor.astype(dtype), labels, frames, counts)


@functools.cache
def _compiled(blank, lm_scale):
    @jax.jit
    def run(problem, cotangents):
        arcs, vjp = jax.vjp(
            lambda *x: jax_rnnt.simple_arcs(*x, *problem[2:], blank=blank, lm_scale=lm_scale),
            *problem[:2],
        )
        return arcs, vjp(cotangents)

    return run


def _evaluate(problem, cotangents, blank=0, lm_scale=0.25):
    dtype = np.float64 if problem.encoder.dtype == np.float64 else np.float32
    own = tuple(x.astype(dtype) for x in cotangents)
    return jax.tree.map(np.asarray, _compiled(blank, lm_scale)(problem, own))


def _expected(problem, cotangents, blank=0, lm_scale=0.25):
    arcs = np.full((2, N, T, U), -np.inf)
    gradients = np.zeros((N, T, V)), np.zeros((N, U, V))
    for n, (frames, count) in enumerate(zip(*problem[3:])):
        encoder = np.asarray(problem.encoder[n, :frames], np.float64)
        predictor = np.asarray(problem.predictor[n, : count + 1], np.float64)
        joint = oracle.log_softmax(encoder[:, None] + predictor)
        own = oracle.log_softmax(predictor)
        mixed = (1 - lm_scale) * joint + lm_scale * own
        labels = problem.labels[n, :count]
        arcs[0, n, :frames, : count + 1] = mixed[..., blank]
        arcs[1, n, :frames, :count] = mixed[:, np.arange(count), labels]
        picked = np.zeros(mixed.shape)
        picked[..., blank] += cotangents[0][n, :frames, : count + 1]
        for u, symbol in enumerate(labels):
            picked[:, u, symbol] += cotangents[1][n, :frames, u]
        total = picked.sum(-1, keepdims=True)
        of_joint = (1 - lm_scale) * (picked - total * np.exp(joint))
        gradients[0][n, :frames] = of_joint.sum(1)
        of_own = lm_scale * (picked - total * np.exp(own))
        gradients[1][n, : count + 1] = (of_joint + of_own).sum(0)
    return arcs, gradients


def _assert_close(actual, wanted, error: float, gradient_error: float) -> None:
    for own, other in zip(actual[0], wanted[0]):
        np.testing.assert_allclose(own, other, rtol=error, atol=error)
    for own, other in zip(actual[1], wanted[1]):
        assert relative_error(own, other) < gradient_error
        assert (own[other == 0] == 0).all()


def _cotangents(rng, problem):
    """Of arcs that exist, and of others, for which they have no effect."""
    return np.where(problem.inside, rng.standard_normal((2, N, T, U)), 100)


@pytest.mark.parametrize("lm_scale", [0.25, 0.0])
@pytest.mark.parametrize("blank", [0, -1])
def test_arcs_and_gradients(blank, lm_scale, rng):
    problem = _problem(rng)
    cotangents = _cotangents(rng, problem)
    options = dict(blank=blank, lm_scale=lm_scale)
    actual = _evaluate(problem, cotangents, **options)
    wanted = _expected(problem, cotangents, **options)
    assert actual[0][0].dtype == actual[1][0].dtype == np.float32
    _assert_close(actual, wanted, ARC_ERROR, GRADIENT_ERROR)


def test_float64(rng):
    with precision("float64"):
        problem = _problem(rng, "float64")
        cotangents = _cotangents(rng, problem)
        actual = _evaluate(problem, cotangents)
        _assert_close(actual, _expected(problem, cotangents), 1e-13, 1e-13)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_inputs_are_summed_in_float32(dtype, rng):
    problem = _problem(rng, dtype)
    cotangents = _cotangents(rng, problem)
    actual = _evaluate(problem, cotangents)
    assert actual[0][0].dtype == np.float32
    assert actual[1][0].dtype == jnp.dtype(dtype)
    wanted = _expected(problem, cotangents)
    gradients = [x.astype(np.float64) for x in actual[1]]
    _assert_close((actual[0], gradients), wanted, ARC_ERROR, 2**-8)


@pytest.mark.parametrize("apart", [40.0, 75.0, 100.0, 400.0, 1e4])
def test_peaks_apart(apart, rng):
    """Where a product loses terms, some or all of them, in one cell or in every one."""
    problem = _problem(rng)
    problem.encoder[0, :, 2] += apart
    problem.predictor[0, 1:, 5] += apart
    problem.encoder[3, 0, 1] += apart
    problem.predictor[3, 0, 6] += apart
    cotangents = _cotangents(rng, problem)
    actual = _evaluate(problem, cotangents)
    rounding = 1e-7 * apart  # of the inputs' sums
    _assert_close(
        actual,
        _expected(problem, cotangents),
        2 * ARC_ERROR + rounding,
        5 * GRADIENT_ERROR + 2 * rounding,
    )


def test_symbols_that_cannot_be(rng):
    """-inf among the logits, whole rows of it, and halves without a symbol in common."""
    problem = _problem(rng)
    problem.encoder[0, 0, 1:4] = -np.inf
    problem.encoder[0, 1] = -np.inf
    problem.predictor[1, 0] = -np.inf
    problem.encoder[3, 0, ::2] = -np.inf
    problem.predictor[3, 1, 1::2] = -np.inf
    cotangents = _cotangents(rng, problem)
    with np.errstate(invalid="ignore"):
        arcs, _ = _expected(problem, cotangents)
    arcs = np.where(np.isnan(arcs), -np.inf, arcs)
    actual = _evaluate(problem, cotangents)
    for own, other in zip(actual[0], arcs):
        np.testing.assert_allclose(own, other, rtol=ARC_ERROR, atol=ARC_ERROR)
    assert all(np.isfinite(x).all() for x in actual[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_seen_in_its_cells_alone(value, rng):
    problem = _problem(rng)
    zeros = np.zeros((2, N, T, U))
    clean, _ = _evaluate(problem, zeros)
    problem.encoder[0, 1, 3] = problem.predictor[3, 1, 3] = value
    arcs, gradients = _evaluate(problem, zeros)
    bad = np.zeros((N, T, U), bool)
    bad[0, 1] = bad[3, :, 1] = True
    for own, other, exists in zip(
        arcs, clean, (True, np.arange(U) < problem.labels_lengths[:, None])
    ):
        exists = np.broadcast_to(
            np.expand_dims(exists, -2) if np.ndim(exists) else exists, bad.shape
        )
        here = bad & problem.inside & exists
        assert np.isnan(own[here]).all()
        assert_same_bits(own[~bad], other[~bad])
    assert not any(np.any(x) for x in gradients)


def test_any_batch_dimensions_vmap_and_no_lengths(rng):
    problem = _problem(rng)
    arcs, _ = _evaluate(problem, _cotangents(rng, problem))
    for own in (
        jax.vmap(jax_rnnt.simple_arcs)(*problem),
        [x[0] for x in jax_rnnt.simple_arcs(*(x[None] for x in problem))],
    ):
        for a, b in zip(own, arcs):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    one = (x[0] for x in problem[:3])
    for a, b in zip(jax_rnnt.simple_arcs(*one), arcs):
        np.testing.assert_allclose(a, b[0], rtol=1e-6, atol=1e-6)


def test_a_product_by_halves_has_both_of_them(rng):
    """Whatever XLA makes of it: rounding to one half is 2^-9 of each factor."""
    a, b = (np.exp(-3 * rng.random((2, 40, 300))).astype(np.float32) for _ in range(2))
    product = jax.jit(functools.partial(simple._product_by_halves, "ntv,nuv->ntu"))(a, b)
    expected = np.einsum("ntv,nuv->ntu", *(x.astype(np.float64) for x in (a, b)))
    np.testing.assert_allclose(product, expected, rtol=5e-6)


def test_traced_lengths_and_labels_that_make_no_sense(rng):
    problem = _problem(rng)
    problem.frames_lengths[0] = 0
    problem.labels[1, 0] = V
    blank, label = _evaluate(problem, np.zeros((2, N, T, U)))[0]
    assert np.isnan(blank[:2]).all()
    assert np.isnan(label[:2]).all()
    assert not np.isnan(blank[2:]).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(lm_scale=-0.1), ValueError, r"^lm_scale must be in \[0, 1\), got -0.1"),
        (dict(lm_scale="0.25"), TypeError, "^lm_scale must be a number known in advance"),
        (dict(blank=7), ValueError, r"^blank must be in \[-7, 7\)"),
        (dict(encoder=np.zeros((N, T, V), int)), TypeError, "^encoder must be of dtype"),
        (
            dict(encoder=np.zeros(V, np.float32)),
            ValueError,
            r"^encoder must have shape \(\.\.\., T",
        ),
        (dict(predictor=np.zeros((N, 0, V), np.float32)), ValueError, "^predictor must have shape"),
        (dict(labels=np.zeros((N, U), int)), ValueError, "^labels must have shape"),
        (dict(labels_lengths=np.full(N, 4)), ValueError, r"^labels_lengths must be in \[0, 3\]"),
    ],
)
def test_arguments_are_checked(change, error, message, rng):
    with pytest.raises(error, match=message):
        jax_rnnt.simple_arcs(**(_problem(rng)._asdict() | change))
