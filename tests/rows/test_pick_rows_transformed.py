"""pick_rows under JAX's transformations, and what its programs hold."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rows
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rows_problems import (
    compiled_rows,
    options_of_seven,
    rows_by_column,
    rows_cotangents,
    rows_of_every_kind,
)
from support import collectives, needs_native, precision
from tolerances import assert_costs

import jax_rnnt
from jax_rnnt.rows.normalise import Picking
from jax_rnnt.rows.pick_rows import row_arcs

NORMALIZE = ["softmax", "hat"]


@needs_native
@pytest.mark.parametrize("mapped", [(0, None), (None, 0)])
def test_vmap(mapped, rng):
    logits, labels = rows_of_every_kind(rng, 7, 6, 3)
    run = compiled_rows("native", True, **options_of_seven("hat", 2, 3, 6))
    cotangents = rows_cotangents(rng, len(logits), 2, True, 3)
    operands = [
        x if m is None else np.stack([x, x[::-1]]) for x, m in zip((logits, labels), mapped)
    ]
    results = jax.jit(jax.vmap(run, (*mapped, None)))(*operands, cotangents)
    for i in range(2):
        own = (x if m is None else x[i] for x, m in zip(operands, mapped))
        alone = run(*own, cotangents)
        for actual, expected in zip(jax.tree.leaves(results), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(actual[i], expected, rtol=1e-5, atol=1e-6)


@jax.jit
def _by_column(logits, labels):
    """All that row_arcs gives of labels by column, and the gradient of their sum."""

    def pick(x):
        return row_arcs(x, labels, Picking(rest=True, **options_of_seven("hat", 2, 2)), None)

    planes, vjp = jax.vjp(pick, logits)
    return jax.tree.leaves((planes, vjp(jax.tree.map(jnp.ones_like, planes))))


def test_labels_by_column_are_labels_by_row(rng):
    logits, labels = rows_by_column(rng, (2,), 4, 3, 7, durations=2)
    blank, label, *others, rest, first, second, _ = _by_column(logits, labels)
    rows = jax_rnnt.pick_rows(logits, labels.of_rows(4), rest=True, **options_of_seven("hat", 2, 2))
    expected = rows.blank, rows.label, rows.others, rows.rest, rows.durations
    actual = blank, label, jnp.stack(others, -1), rest, jnp.stack([first, second], -1)
    for own, value in zip(actual, expected, strict=True):
        assert_costs(own, value)


@needs_native
@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_sharded_groups_stay_where_they_are(kind, rng):
    count = 2 ** (jax.device_count().bit_length() - 1)
    mesh = jax.make_mesh((count,), ("a",), axis_types=(kind,), devices=jax.devices()[:count])
    logits, labels = rows_by_column(rng, (2 * count,), 4, 3, 7, durations=2)
    expected = _by_column(logits, labels)
    with jax.set_mesh(mesh):
        groups = NamedSharding(mesh, P("a"))
        arguments = jax.device_put((logits, labels), groups)
        compiled = _by_column.lower(*arguments).compile()
        assert not collectives(compiled)
        results = compiled(*arguments)
    for actual, value in zip(results, expected, strict=True):
        assert actual.sharding.is_equivalent_to(groups, actual.ndim)
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6)


@needs_native
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_no_part_of_the_logits_is_copied(normalize):
    """Nothing of their size but themselves, the gradients and what the kernel takes and gives."""
    rows, V, durations = 512, 40, 4

    @jax.jit
    def run(logits, labels):
        def total(x):
            picked = jax_rnnt.pick_rows(
                x,
                labels,
                others=(3,),
                rest=True,
                normalize=normalize,
                durations=durations,
                implementation="native",
            )
            return sum(x.sum() for x in jax.tree.leaves(picked))

        return jax.value_and_grad(total)(logits)

    logits = jax.ShapeDtypeStruct((rows, V + durations), jnp.float32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    text = run.lower(logits, labels).compile().as_text()
    large = re.findall(r"= \(?\w+\[512,(\d+)\][^=]*? ([a-z][\w-]*)\(", text)
    assert large, "the program has no logits"
    operations = {operation for width, operation in large if int(width) >= durations}
    assert operations <= {"parameter", "custom-call", "get-tuple-element", "tuple"}, operations


def _hessian_problem(rng):
    logits = rng.standard_normal((5, 7))
    logits[3, 2], logits[4, :5], logits[1, 5] = -np.inf, -np.inf, -np.inf
    return logits, np.array([0, 1, -1, 4, 2], np.int32)


@pytest.mark.parametrize(
    ("normalize", "rest"), [("softmax", False), ("softmax", True), ("hat", True)]
)
def test_second_derivatives_of_the_reference(normalize, rest, rng):
    logits, labels = _hessian_problem(rng)
    options = dict(blank=1, others=(3,), normalize=normalize, durations=2)
    cotangents = rows_cotangents(rng, 5, 1, rest, 2, "float64")

    def total(x):
        rows = jax_rnnt.pick_rows(x, labels, rest=rest, implementation="reference", **options)
        terms = [
            jnp.where(jnp.isfinite(x), jnp.where(jnp.isfinite(x), x, 0) * c, 0).sum()
            for x, c in zip(rows, cotangents)
            if x is not None
        ]
        return functools.reduce(jnp.add, terms)

    with precision("float64"):
        hessian = np.asarray(jax.jit(jax.hessian(total))(logits))
    assert np.isfinite(hessian).all()
    rows, _ = oracle_rows.pick_rows(logits, labels, cotangents, **options)
    # An arc of -inf has no part in `total`.
    cotangents = oracle_rows.Rows(
        *(np.where(np.isfinite(x), c, 0) for x, c in zip(rows, cotangents, strict=True))
    )
    direction, step = rng.standard_normal(logits.shape), 1e-5
    above, below = (
        oracle_rows.pick_rows(logits + sign * step * direction, labels, cotangents, **options)[1]
        for sign in (1, -1)
    )
    product = np.einsum("ijkl,kl->ij", hessian, direction)
    np.testing.assert_allclose(product, (above - below) / (2 * step), atol=1e-8)


@needs_native
def test_second_derivatives_of_the_kernels_are_refused(rng):
    logits = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)

    def total(x):
        return jax_rnnt.pick_rows(x, [1, 2, 3, 0], normalize="hat").label[:3].sum()

    for twice in (jax.hessian(total), lambda x: jax.grad(lambda x: jax.grad(total)(x).sum())(x)):
        with pytest.raises(NotImplementedError, match="implementation='reference'"):
            twice(logits)


def test_export_with_symbolic_rows(implementation, rng):
    def run(logits, labels):
        rows = jax_rnnt.pick_rows(
            logits, labels, rest=True, durations=2, implementation=implementation
        )
        return rows.blank, rows.rest, rows.durations

    (rows,) = jax.export.symbolic_shape("R")
    arguments = (
        jax.ShapeDtypeStruct((rows, 9), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    exported = jax.export.export(jax.jit(run), disabled_checks=jax_rnnt.custom_call_checks())(
        *arguments
    )
    reloaded = jax.export.deserialize(exported.serialize())
    for count in (1, 6):
        logits = rng.standard_normal((count, 9), np.float32)
        labels = rng.integers(-1, 7, count).astype(np.int32)
        cotangents = rows_cotangents(rng, count, 0, True, 2)
        expected, _ = oracle_rows.pick_rows(logits, labels, cotangents, blank=0, durations=2)
        wanted = expected.blank, expected.rest, expected.durations
        for actual, value in zip(reloaded.call(logits, labels), wanted, strict=True):
            assert_costs(actual, value)
