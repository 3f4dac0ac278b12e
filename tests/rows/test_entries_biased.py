"""The row kernels whose logits are a matrix product's, without its bias."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rows
import pytest
from rows_problems import rows_by_column
from support import DTYPES, needs_native, precision
from tolerances import TOLERANCES, assert_costs, assert_gradients, assert_same_bits

from jax_rnnt import reference
from jax_rnnt.rows.entries import WITH_BIAS, Selection
from jax_rnnt.rows.pick import ColumnLabels

WITHOUT = [*itertools.product([False, True], repeat=2)]
# (G, R, C) and (V, others behind the symbols): for tiles, rows of a warp and of a block, vectors
# and single elements.
SIZES = [((3, 4, 5), (1, 0)), ((3, 4, 5), (2, 3)), ((5, 7, 3), (33, 0)), ((2, 16, 8), (28, 4))]
SIZES += [
    ((1, 33, 1), (61, 0)),
    ((2, 3, 11), (511, 1)),
    ((2, 5, 3), (513, 0)),
    ((2, 5, 7), (640, 5)),
]
SIZES += [
    ((2, 5, 3), (1029, 0)),
    ((2, 16, 4), (1020, 4)),
    ((1, 3, 2), (4099, 3)),
    ((2, 2, 2), (5120, 0)),
]
CASES = [*((*size, "float32") for size in SIZES)]
CASES += [(*SIZES[i], dtype) for i in (2, 7, 9) for dtype in ("bfloat16", "float16", "float64")]


def _of(dtype):
    """The dtype of logits whose gradients are of `dtype`."""
    return "float64" if dtype == "float64" else "float32"


def _problem(rng, cells, size, dtype, picks=2):
    """Logits, labels, bias, bounds and cotangents; some biases are -inf, and some bounds inf."""
    V, more = size
    logits, labels = rows_by_column(rng, cells[:1], *cells[1:], V, _of(dtype), more)
    bias = 3 * rng.standard_normal(V + more)
    bias[rng.random(V + more) < 0.05] = -np.inf
    bounds = np.where(rng.random(cells) < 0.5, np.inf, rng.random(cells))
    cotangents = rng.standard_normal((3 + picks, *cells))
    cotangents[0, ..., ::3] = 0
    return logits, labels, *(x.astype(_of(dtype)) for x in (bias, bounds, cotangents))


def _run(insist, selection, dtype, logits, labels, bias, bounds, cotangents):
    options = {"insist": insist, **selection.attributes()}
    found = WITH_BIAS.forward(logits, *labels, bias, repeats=len(selection.picks), **options)
    gradients, parts = WITH_BIAS.backward(
        logits, *labels, bias, bounds, *found[:2], *cotangents, dtype=dtype, **options
    )
    return jnp.stack(found), gradients, parts


def _expected(selection, logits, labels, bias, bounds, cotangents):
    """In float64, of the sums that the kernels make."""
    rows = logits + bias
    W, cells = rows.shape[-1], rows.shape[:-1]
    values, gradients = oracle_rows.sum_and_entries(
        rows.reshape(-1, W),
        np.asarray(labels.of_rows(cells[-2])).reshape(-1),
        cotangents.reshape(len(cotangents), -1),
        **selection._asdict(),
    )
    gradients = np.clip(gradients, -bounds.reshape(-1, 1), bounds.reshape(-1, 1))
    rest = -len(gradients) % reference.BIAS_PART_ROWS
    parts = np.pad(gradients, ((0, rest), (0, 0))).reshape(-1, reference.BIAS_PART_ROWS, W).sum(1)
    return values.reshape(-1, *cells), gradients.reshape(*cells, W), parts.reshape(-1)


def _check(insist, rng, cells, size, dtype, without=WITHOUT):
    V, more = size
    problem = _problem(rng, cells, size, dtype)
    selections = [
        Selection((0, V // 2, V - 1)[i % 3], V, *own, picks=(V + more - 1, 0))
        for i, own in enumerate(without)
    ]

    @jax.jit
    def run(*arguments):
        return [_run(insist, selection, dtype, *arguments) for selection in selections]

    with precision(dtype):
        results = run(*problem)
    for selection, (values, gradients, parts) in zip(selections, results, strict=True):
        expected, expected_gradients, expected_parts = _expected(selection, *problem)
        assert (gradients.dtype, parts.dtype) == (dtype, _of(dtype))
        assert_costs(values, expected, _of(dtype))
        assert_gradients(gradients, expected_gradients, dtype, scale=4)
        # The parts are sums of what has not been rounded to the gradients' dtype.
        tolerance = TOLERANCES[_of(dtype)]
        scale = reference.BIAS_PART_ROWS * tolerance.gradient
        np.testing.assert_allclose(parts, expected_parts, rtol=tolerance.gradient, atol=scale)


@needs_native
@pytest.mark.parametrize(("cells", "size", "dtype"), CASES, ids=str)
def test_rows_of_every_size(cells, size, dtype, rng):
    _check(True, rng, cells, size, dtype)


@pytest.mark.parametrize("way", ["fallback"], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
def test_definition(way, dtype, rng):
    _check(False, rng, (3, 5, 4), (way.V, 2), dtype, without=[(True, True)])


@needs_native
def test_a_bias_is_that_of_rows_that_have_it(rng):
    """The same bits as of logits to which it was added before."""
    logits, labels, bias, bounds, cotangents = _problem(rng, (7, 16, 5), (97, 3), "float32")
    selection = Selection(4, 97, False, False, picks=(98, 4))
    run = jax.jit(functools.partial(_run, True, selection, "float32"))
    for actual, expected in zip(
        run(logits, labels, bias, bounds, cotangents),
        run(logits + bias, labels, np.zeros_like(bias), bounds, cotangents),
        strict=True,
    ):
        assert_same_bits(actual, expected)


@needs_native
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("W", [60, 101, 700])
def test_mapped_biases(dtype, W, rng):
    """Each bias has 35 rows: a part and what is left."""
    problems = [_problem(rng, (1, 7, 5), (W - 2, 2), dtype) for _ in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *problems)
    selection = Selection(0, W - 2, False, True, picks=(W - 1, 3))
    run = functools.partial(_run, True, selection, dtype)
    mapped = jax.jit(jax.vmap(run))(*stacked)
    own = jax.jit(run)
    for i, problem in enumerate(problems):
        for actual, expected in zip(mapped, own(*problem), strict=True):
            assert_same_bits(actual[i], expected)


@needs_native
def test_more_rows_than_one_task_takes(rng):
    """Parts begin with tasks, and a task begins in the middle of lines and groups."""
    _check(True, rng, (101, 29, 17), (2, 1), "float32", without=[(False, True)])


@needs_native
@pytest.mark.parametrize("W", [12, 33, 600])
def test_what_is_no_number(W, rng):
    """+inf or NaN of a bias makes sums NaN, and no gradient but those of entries."""
    logits, labels, bias, bounds, _ = _problem(rng, (2, 4, 3), (W, 0), "float32")
    cotangents = np.zeros((3, 2, 4, 3), np.float32)
    cotangents[0] = 1
    selection = Selection(0, W, False, False, picks=())
    run = jax.jit(functools.partial(_run, True, selection, "float32"))
    rows = np.asarray(labels.of_rows(4))
    wanted = (rows >= -1) & (rows < W)
    for wrong in (np.inf, np.nan):
        bias[W // 2] = wrong
        values, gradients, parts = run(logits, labels, bias, bounds, cotangents)
        assert np.isnan(np.asarray(values)[1][wanted]).all()
        assert not np.asarray(gradients).any()
        assert not np.asarray(parts).any()


@needs_native
def test_gradients_that_are_no_numbers_are_not_cut(rng):
    logits, labels, bias, bounds, cotangents = _problem(rng, (2, 4, 3), (9, 0), "float32", picks=0)
    labels = ColumnLabels(np.zeros((2, 3), np.int32), np.full(2, 4, np.int32))
    logits, bias = np.zeros_like(logits), np.zeros_like(bias)
    cotangents[1] = np.nan
    run = functools.partial(_run, True, Selection(1, 9, False, False, ()), "bfloat16")
    _, gradients, parts = jax.jit(run)(logits, labels, bias, np.ones_like(bounds), cotangents)
    isnan = np.isnan(np.asarray(gradients, np.float32))
    assert isnan[..., 1].all()
    assert not np.delete(isnan, 1, -1).any()
    assert np.isnan(np.asarray(parts).reshape(-1, 9)[:, 1]).all()
