"""Rows labelled by column, and rows of extreme logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rows_problems import rows_by_column
from support import DTYPES, WAYS, needs_native, precision
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt
from jax_rnnt.rows.pick import ColumnLabels, softmax_arcs


def _problem(rng, batch, R, C, V, dtype="float32"):
    """Rows by column and cotangents of both arcs."""
    logits, labels = rows_by_column(rng, batch, R, C, V, dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    return logits, labels, rng.standard_normal((2, *batch, R, C)).astype(wide)


def _arcs_and_gradients(implementation, logits, labels, cotangents, blank=1):
    pick = functools.partial(softmax_arcs, blank=blank, implementation=implementation)
    arcs, vjp = jax.vjp(lambda x: pick(x, labels), logits)
    return *arcs, *vjp((cotangents[0], cotangents[1]))


def _functions(implementation):
    """_arcs_and_gradients of labels by column, and of what they are by row, both jitted."""

    def by_row(logits, labels, cotangents):
        row_labels = labels.of_rows(logits.shape[-3])
        return _arcs_and_gradients(implementation, logits, row_labels, cotangents)

    return jax.jit(functools.partial(_arcs_and_gradients, implementation)), jax.jit(by_row)


def _assert_same(implementation, actual, expected):
    """The bits of kernels; of two programs on a GPU, XLA owes nobody those."""
    if implementation == "native" or jax.default_backend() == "cpu":
        assert_same_bits(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def _ways_and(cases, plain_cases):
    """Kernels with all cases; plain JAX, slow to compile and without sizes of its own, with few."""
    for parameter in WAYS:
        for case in cases if parameter.id == "native" else plain_cases:
            name = f"{parameter.id}-{'-'.join(map(str, case))}"
            yield pytest.param(*parameter.values, case, marks=parameter.marks, id=name)


SIZES = [(1, 1), (1, 5), (5, 1), (3, 4), (31, 2), (2, 31)]


@pytest.mark.parametrize(
    ("way", "size"), list(_ways_and(SIZES, [(3, 4), (5, 1)])), indirect=["way"]
)
def test_labels_by_column_are_labels_by_row(way, size, rng):
    R, C = size
    logits, labels, cotangents = _problem(rng, (23,), R, C, way.V)
    by_column, by_row = (f(logits, labels, cotangents) for f in _functions(way.implementation))
    for actual, expected in zip(by_column, by_row):
        _assert_same(way.implementation, actual, expected)
    assert np.isfinite(by_column[0]).any()
    assert not np.isnan(by_column[-1]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(implementation, dtype, rng):
    with precision(dtype):
        logits, labels, cotangents = _problem(rng, (5,), 4, 3, 9, dtype)
        by_column, by_row = (f(logits, labels, cotangents) for f in _functions(implementation))
        for actual, expected in zip(by_column, by_row):
            assert_same_bits(actual, expected)


@needs_native
def test_more_rows_than_one_task_takes(rng):
    """Blocks of the kernels begin in the middle of lines and groups."""
    logits, labels, cotangents = _problem(rng, (101,), 29, 17, 3)
    by_column, by_row = (f(logits, labels, cotangents) for f in _functions("native"))
    for actual, expected in zip(by_column, by_row):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("batch", [(), (2, 3), (2, 0)])
def test_batch_dimensions(way, batch, rng):
    logits, labels, cotangents = _problem(rng, batch, 4, 3, way.V)
    by_column, by_row = (f(logits, labels, cotangents) for f in _functions(way.implementation))
    for actual, expected in zip(by_column, by_row):
        _assert_same(way.implementation, actual, expected)


MAPPED = [(0, 0, 0), (0, None, 0), (0, 0, None), (None, 0, 0)]


@pytest.mark.parametrize(("way", "mapped"), list(_ways_and(MAPPED, MAPPED[1::2])), indirect=["way"])
def test_vmap_over_some_operands(way, mapped, rng):
    logits, labels, cotangents = _problem(rng, (3, 5), 4, 3, way.V)
    pick = functools.partial(softmax_arcs, blank=1, implementation=way.implementation)
    operands = [x if m == 0 else x[0] for x, m in zip((logits, *labels), mapped)]
    spread = [x if m == 0 else np.stack([x] * 3) for x, m in zip(operands, mapped)]

    def arcs_and_gradients(logits, labels, counts, cotangents):
        arcs, vjp = jax.vjp(lambda x: pick(x, ColumnLabels(labels, counts)), logits)
        return *arcs, *vjp((cotangents[0], cotangents[1]))

    over = jax.vmap(arcs_and_gradients, in_axes=(*mapped, 1))
    expected = jax.jit(arcs_and_gradients)(*spread, cotangents)
    for actual, value in zip(jax.jit(over)(*operands, cotangents), expected):
        _assert_same(way.implementation, actual, value)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_sharded_groups_stay_where_they_are(way, kind, rng):
    count = 2 ** (jax.device_count().bit_length() - 1)
    mesh = jax.make_mesh((count,), ("a",), axis_types=(kind,), devices=jax.devices()[:count])
    logits, labels, cotangents = _problem(rng, (2 * count,), 4, 3, way.V)
    run = jax.jit(functools.partial(_arcs_and_gradients, way.implementation))
    expected = run(logits, labels, cotangents)
    with jax.set_mesh(mesh):
        groups = NamedSharding(mesh, P("a"))
        arguments = (
            *jax.device_put((logits, labels), groups),
            jax.device_put(cotangents, NamedSharding(mesh, P(None, "a"))),
        )
        compiled = run.lower(*arguments).compile()
        assert not any(move in compiled.as_text() for move in ("all-gather", "all-to-all"))
        results = compiled(*arguments)
    for actual, value in zip(results, expected):
        assert actual.sharding.is_equivalent_to(groups, actual.ndim)
        _assert_same(way.implementation, actual, value)


def test_operands_that_do_not_fit_together():
    logits, counts = jnp.zeros((2, 4, 3, 7)), jnp.zeros(2, jnp.int32)
    with pytest.raises(ValueError, match=r"pick_forward_columns.*do not fit"):
        softmax_arcs(
            logits, ColumnLabels(jnp.zeros((2, 4), jnp.int32), counts), blank=0, implementation=None
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("V", [3, 8, 129, 600])
def test_rows_of_large_logits(implementation, dtype, V, rng):
    """Where the last place of a logit is far from nothing, up to the largest numbers there are."""
    largest = float(jnp.finfo(dtype).max)
    magnitudes = [1e4, 1e6, 2**24, 3e8, 2**30 - 64, 2**30, 2**31, 1e12, 1e30, largest]
    maxima = np.array([*magnitudes, *(-m for m in magnitudes)]).astype(jnp.dtype(dtype))
    rows = np.repeat(maxima[:, None], V, axis=1)
    with np.errstate(over="ignore"):
        below = np.nextafter(rows, np.array(-np.inf, rows.dtype))
    draw = rng.random(rows.shape)
    rows = np.where(draw < 0.5, rows, np.where(draw < 0.8, below, -rows))
    rows = np.where(draw > 0.95, np.array(-np.inf, rows.dtype), rows)
    rows = np.where(rows > maxima[:, None], np.array(-np.inf, rows.dtype), rows)
    rows[:, V // 2] = maxima
    labels = rng.integers(0, V, len(rows)).astype(np.int32)
    labels[::3] = V // 2
    cotangents = rng.uniform(-1, 1, (2, len(rows))).astype(np.float32)

    pick = functools.partial(jax_rnnt.log_softmax_pick, blank=V // 2, implementation=implementation)
    (blank, label), vjp = jax.vjp(jax.jit(lambda x: pick(x, labels)), jnp.asarray(rows))
    (gradients,) = vjp((jnp.asarray(cotangents[0]), jnp.asarray(cotangents[1])))
    log_probs = oracle.log_softmax(rows.astype(np.float64))
    index = np.arange(len(rows))
    assert_costs(blank, log_probs[:, V // 2])
    # The difference of the largest logit and the lowest has no float32.
    with np.errstate(over="ignore"):
        assert_costs(label, log_probs[index, labels].astype(np.float32))
    expected = np.zeros(rows.shape)
    expected[:, V // 2] += cotangents[0]
    np.add.at(expected, (index, labels), cotangents[1])
    expected -= np.exp(log_probs) * expected.sum(-1, keepdims=True)
    assert_gradients(gradients, expected, dtype)
