"""Rows of every normalisation, and what is kept of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_rows
import pytest
from rows_problems import compiled_rows, options_of_seven, rows_cotangents, rows_of_every_kind
from support import IMPLEMENTATIONS, precision
from tolerances import assert_costs, assert_gradients

import jax_rnnt

NORMALIZE = ["softmax", "hat"]


def _check(implementation, logits, labels, rng, rest=False, **options):
    """Values and gradients against the oracle; returns the gradients."""
    dtype = logits.dtype.name
    others, durations = options.get("others", ()), options.get("durations", 0)
    cotangents = rows_cotangents(rng, len(logits), len(others), rest, durations, dtype)
    run = compiled_rows(implementation, rest, **options)
    rows, gradients = run(logits, labels, cotangents)
    expected, expected_gradients = oracle_rows.pick_rows(logits, labels, cotangents, **options)
    given = True, True, bool(others), rest, bool(durations)
    for name, actual, value, is_given in zip(rows._fields, rows, expected, given, strict=True):
        if not is_given:
            assert actual is None, name
            continue
        assert actual.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert_costs(actual, value, dtype)
    assert gradients.dtype == logits.dtype
    assert_gradients(gradients, expected_gradients, dtype, scale=4)
    return gradients


EVERY_COMBINATION = [*itertools.product(NORMALIZE, [False, True], [0, 2], [0, 3])]


def _combinations():
    """All for kernels; half of them for plain JAX, which is slow to compile."""
    for parameter in IMPLEMENTATIONS:
        for case in EVERY_COMBINATION:
            if parameter.id == "native" or bool(case[2]) == bool(case[3]):
                name = f"{parameter.id}-{'-'.join(map(str, case))}"
                yield pytest.param(*parameter.values, *case, marks=parameter.marks, id=name)


@pytest.mark.parametrize(
    ("implementation", "normalize", "rest", "others", "durations"), list(_combinations())
)
def test_every_combination(implementation, normalize, rest, others, durations, rng):
    blank = 6 if durations and rest else 0 if others else 1
    options = options_of_seven(normalize, others, durations, blank)
    logits, labels = rows_of_every_kind(rng, 7, blank, durations)
    gradients = np.asarray(_check(implementation, logits, labels, rng, rest, **options))
    # Each softmax's part of a row sums to zero.
    among = np.arange(7) != blank if normalize == "hat" else np.arange(7) >= 0
    np.testing.assert_allclose(gradients[:, :7][:, among].sum(-1), 0, atol=3e-6)
    np.testing.assert_allclose(gradients[:, 7:].sum(-1), 0, atol=3e-6)


@pytest.mark.parametrize(
    ("dtype", "normalize"), [("bfloat16", "softmax"), ("float16", "hat"), ("float64", "hat")]
)
def test_other_dtypes(implementation, dtype, normalize, rng):
    with precision(dtype):
        logits, labels = rows_of_every_kind(rng, 9, 8, 2, dtype)
        options = dict(blank=8, normalize=normalize, others=(4,), durations=2)
        _check(implementation, logits, labels, rng, True, **options)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_gradients_of_the_oracle_are_finite_differences(normalize, rng):
    V, durations = 6, 3
    logits = rng.standard_normal((30, V + durations))
    labels = rng.integers(-2, V, 30)
    cotangents = rows_cotangents(rng, 30, 2, True, durations, "float64")
    options = dict(blank=1, others=(0, 4), normalize=normalize, durations=durations)
    _, gradients = oracle_rows.pick_rows(logits, labels, cotangents, **options)

    def total(logits):
        rows, _ = oracle_rows.pick_rows(logits, labels, cotangents, **options)
        return sum(
            np.where(np.isfinite(x), x * c, 0).sum() for x, c in zip(rows, cotangents, strict=True)
        )

    step = 1e-6
    for _ in range(3):
        direction = rng.standard_normal(logits.shape)
        slope = (total(logits + step * direction) - total(logits - step * direction)) / (2 * step)
        np.testing.assert_allclose((gradients * direction).sum(), slope, rtol=1e-7)


def test_a_rest_too_small_for_one_minus_the_others(implementation):
    logits = np.array([[60, 30, 0, -1]], np.float32)
    rows = jax_rnnt.pick_rows(logits, [1], rest=True, implementation=implementation)
    np.testing.assert_allclose(rows.rest, [np.logaddexp(0, -1) - 60], rtol=1e-6)


@pytest.mark.parametrize(("normalize", "dtype"), [("softmax", "float32"), ("hat", "bfloat16")])
def test_rows_of_large_logits(implementation, normalize, dtype, rng):
    """Up to the largest numbers there are; the differences of some have no float32."""
    largest = float(jnp.finfo(dtype).max)
    sizes = np.array([1e4, 2**24, 3e8, 2**31, 1e30, largest])
    logits = rng.choice([-1, 0, 1], (len(sizes) * 8, 7)) * np.repeat(sizes, 8)[:, None]
    labels = rng.integers(-1, 5, len(logits)).astype(np.int32)
    logits = logits.astype(jnp.dtype(dtype))
    with np.errstate(over="ignore"):
        cotangents = rows_cotangents(rng, len(logits), 0, True, 2)
        run = compiled_rows(implementation, True, blank=3, normalize=normalize, durations=2)
        rows, gradients = run(logits, labels, cotangents)
        expected, expected_gradients = oracle_rows.pick_rows(
            logits, labels, cotangents, blank=3, normalize=normalize, durations=2
        )
        for name in ("blank", "label", "rest", "durations"):
            assert_costs(getattr(rows, name), getattr(expected, name).astype(np.float32))
    assert_gradients(gradients, expected_gradients, dtype, scale=4)


def test_more_picks_than_kernels_take(rng):
    logits = rng.standard_normal((3, 18), np.float32)
    rows = jax_rnnt.pick_rows(logits, [0, 0, -1], durations=17)
    assert_costs(rows.durations, oracle.log_softmax(np.float64(logits[:, 1:])))
    with pytest.raises(NotImplementedError, match="at most 16 others and durations"):
        jax_rnnt.pick_rows(logits, [0, 0, -1], durations=17, implementation="native")


def test_indices_from_the_end_of_the_symbols():
    logits = np.arange(8, dtype=np.float32)[None]
    rows = jax_rnnt.pick_rows(logits, [0], blank=-1, others=[-2, 1], durations=2)
    expected = jax.nn.log_softmax(logits[0, :6])
    np.testing.assert_allclose(rows.blank, expected[5:], rtol=1e-6)
    np.testing.assert_allclose(rows.others, expected[None, jnp.array([4, 1])], rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "error", "complaint"),
    [
        (dict(logits=np.zeros((3, 4), np.int32)), TypeError, "^logits must be of dtype"),
        (dict(labels=np.zeros(3)), TypeError, "^labels must be integers"),
        (dict(labels=np.zeros(4, int)), ValueError, "^labels must have one entry"),
        (dict(logits=np.float32(0), labels=0), ValueError, "^labels must have one entry"),
        (dict(durations=4), ValueError, "V at least 1.*D = 4 durations"),
        (dict(durations=-1), ValueError, "^durations must not be negative"),
        (dict(durations=1.0), TypeError, "^durations must be an integer"),
        (dict(blank=4), ValueError, "^blank must be in"),
        (dict(blank=2, durations=2), ValueError, r"^blank must be in \[-2, 2\)"),
        (dict(others=3), TypeError, "^others must be a sequence"),
        (dict(others=(1, 4)), ValueError, "^others must be in"),
        (dict(others=(1.5,)), TypeError, "^others must be an integer"),
        (dict(others=(1, -4)), ValueError, "^others must not have the blank, 0, among them"),
        (dict(rest="yes"), TypeError, "^rest must be True or False"),
        (dict(normalize="sigmoid"), ValueError, "^normalize must be one of 'softmax', 'hat'"),
        (dict(implementation="fast"), ValueError, "^implementation must be one of"),
    ],
)
def test_complaints(changed, error, complaint):
    arguments = dict(logits=np.zeros((3, 4), np.float32), labels=np.zeros(3, np.int32))
    with pytest.raises(error, match=complaint):
        jax_rnnt.pick_rows(**(arguments | changed))
