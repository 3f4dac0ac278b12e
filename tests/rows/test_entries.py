"""The kernels behind every normalisation: sums over rows with and without some of their entries."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rows
import pytest
from rows_problems import rows_by_column, rows_of_every_kind
from support import WAYS, needs_native, precision
from tolerances import assert_costs, assert_gradients, assert_same_bits

from jax_rnnt.rows.entries import Entries, Selection, entries
from jax_rnnt.rows.pick import ColumnLabels

WITHOUT = [*itertools.product([False, True], repeat=2)]
SIZES = [(1, 0), (1, 1), (2, 0), (3, 2), (5, 0), (15, 1), (28, 0), (28, 5), (31, 2), (33, 0)]
SIZES += [(64, 1), (65, 0), (129, 0), (124, 5), (1029, 0), (1024, 5), (2049, 3), (4100, 0)]
OF_DTYPES = [*((size, "float32") for size in SIZES)]
OF_DTYPES += itertools.product([(5, 0), (31, 2), (2060, 3)], ["bfloat16", "float16", "float64"])


def _results(implementation, selection, logits, labels, cotangents):
    """All that entries gives, (4 + picks, ...), and the gradient of all but the maxima."""
    run = functools.partial(entries, selection=selection, implementation=implementation)
    found, vjp = jax.vjp(lambda x: run(x, labels), logits)
    sums, blanks, labels, *picks = cotangents
    given = Entries(jnp.zeros_like(found.maxima), sums, blanks, labels, tuple(picks))
    return jnp.stack([*found[:4], *found.picks]), vjp(given)[0]


def _check_sizes(implementation, rng, V, more, dtype):
    blank = (0, V // 2, V - 1)[(V + more) % 3]
    logits, labels = rows_of_every_kind(rng, V, blank, more, dtype, plain=70)
    cotangents = rng.standard_normal((5, len(labels)))
    cotangents = cotangents.astype("float64" if dtype == "float64" else "float32")
    cotangents[0, ::7] = 0
    selections = [Selection(blank, V, *without, picks=(V + more - 1, 0)) for without in WITHOUT]

    @jax.jit
    def run(*arguments):
        return [_results(implementation, selection, *arguments) for selection in selections]

    with precision(dtype):
        results = run(logits, labels, cotangents)
    for selection, (values, gradients) in zip(selections, results, strict=True):
        expected, expected_gradients = oracle_rows.sum_and_entries(
            logits, labels, cotangents, **selection._asdict()
        )
        assert_costs(values, expected, dtype)
        assert_gradients(gradients, expected_gradients, dtype, scale=4)


@needs_native
@pytest.mark.parametrize(("size", "dtype"), OF_DTYPES, ids=str)
def test_sizes_that_straddle_vectors(size, dtype, rng):
    _check_sizes("native", rng, *size, dtype)


def test_definitions(way, rng):
    """The reference and, where no kernel is there, the fallback with a backward of its own."""
    _check_sizes(way.implementation, rng, way.V, 2, "float32")


def _mapped():
    """All for kernels; for plain JAX, which is slow to compile, two."""
    for parameter in WAYS:
        for mapped in (None, (0, None, None), (None, 0, 0), (0, 0, 0)):
            if parameter.id == "native" or (mapped is not None and None in mapped):
                name = f"{parameter.id}-{mapped}"
                yield pytest.param(*parameter.values, mapped, marks=parameter.marks, id=name)


@functools.cache
def _by_row_and_by_column(implementation, V, mapped):
    selection = Selection(1, V, True, True, picks=(V, 2))

    def by_column(logits, labels, counts, cotangents):
        return _results(implementation, selection, logits, ColumnLabels(labels, counts), cotangents)

    def by_row(logits, labels, counts, cotangents):
        row_labels = ColumnLabels(labels, counts).of_rows(logits.shape[-3])
        return _results(implementation, selection, logits, row_labels, cotangents)

    if mapped is not None:
        by_row, by_column = (jax.vmap(f, (*mapped, None)) for f in (by_row, by_column))
    return jax.jit(by_row), jax.jit(by_column)


@pytest.mark.parametrize(("way", "mapped"), list(_mapped()), indirect=["way"])
def test_labels_by_column_are_labels_by_row(way, mapped, rng):
    logits, labels = rows_by_column(rng, (2, 3), 4, 5, way.V, durations=1)
    cotangents = rng.standard_normal((5, 2, 3, 4, 5)).astype(np.float32)
    operands = [logits, *labels]
    if mapped is not None:
        cotangents = cotangents[:, 0]
        operands = [x if m == 0 else x[0] for x, m in zip(operands, mapped)]
    by_row, by_column = _by_row_and_by_column(way.implementation, way.V, mapped)
    expected = by_row(*operands, cotangents)
    for actual, value in zip(by_column(*operands, cotangents), expected, strict=True):
        if way.implementation == "native":
            assert_same_bits(actual, value)
        else:
            assert_costs(actual, value)
    assert not np.isnan(expected[1]).any()


@needs_native
def test_more_rows_than_one_task_takes(rng):
    """Blocks of the kernels begin in the middle of lines and groups."""
    logits, labels = rows_by_column(rng, (101,), 29, 17, 3)
    cotangents = rng.standard_normal((5, 101, 29, 17)).astype(np.float32)
    selection = Selection(0, 2, False, True, picks=(2, 1))
    run = jax.jit(functools.partial(_results, "native", selection))
    by_row = run(logits, labels.of_rows(29), cotangents)
    for actual, expected in zip(run(logits, labels, cotangents), by_row, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("count", [0, 1, 16])
def test_numbers_of_picks(way, count, rng):
    logits = rng.standard_normal((3, way.V), np.float32)
    picks = tuple(int(i) for i in rng.integers(0, way.V, count))
    cotangents = rng.standard_normal((3 + count, 3)).astype(np.float32)
    labels = np.array([-1, 4, 0], np.int32)
    selection = Selection(0, way.V, True, False, picks)
    run = jax.jit(functools.partial(_results, way.implementation, selection))
    values, gradients = run(logits, labels, cotangents)
    expected, expected_gradients = oracle_rows.sum_and_entries(
        logits, labels, cotangents, **selection._asdict()
    )
    assert_costs(values, expected)
    assert_gradients(gradients, expected_gradients, scale=4)
