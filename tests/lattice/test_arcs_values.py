"""arcs_cost is the sum over all paths, on every lattice up to 4 x 4 of each loss's arcs."""

import arcs_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arcs_oracle import Problem
from arcs_problems import (
    COMPACT,
    COMPACT_REFERENCE,
    FALLBACK,
    KINDS,
    NATIVE,
    REFERENCE,
    Kind,
    check,
    evaluate,
    make,
    parameters,
)
from support import needs_native, precision
from tolerances import assert_costs, assert_gradients

import jax_rnnt

# All kinds run where nothing has to be compiled. One reference takes any arcs as it takes some.
EVERY = [
    *parameters(ways=(NATIVE, COMPACT)),
    *parameters(("durations_201", "any_ends"), (REFERENCE,)),
    *parameters(("one_symbol", "long_durations_ends"), (FALLBACK,)),
    *parameters(("three_labels",), (COMPACT_REFERENCE,)),
]


@pytest.mark.parametrize(("way", "kind"), EVERY)
def test_costs_and_gradients_are_those_of_all_paths(way, kind, rng):
    check(way, make(rng, kind))


@pytest.mark.parametrize(("way", "kind"), EVERY)
def test_any_cotangents(way, kind, rng):
    cotangents = np.round(rng.standard_normal(16).astype(np.float32), 1)
    cotangents[3] = 0
    result = check(way, make(rng, kind), cotangents)
    assert not any(x[3].any() for x in result.arcs.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_oracle_walks_over_the_sums_of_all_paths(kind, rng):
    problem = make(rng, kind)
    walked = arcs_oracle.solve(problem, align=arcs_oracle.alpha_beta)
    expected = arcs_oracle.solve(problem)
    assert_costs(walked.cost, expected.cost, "float64")
    for own, other in zip(jax.tree.leaves(walked[1:]), jax.tree.leaves(expected[1:]), strict=True):
        assert_gradients(own, other, "float64")


@pytest.mark.parametrize(("way", "kind"), parameters(("long_durations_ends",), (NATIVE, REFERENCE)))
def test_float64(way, kind, rng):
    problem = make(rng, kind)
    arcs = {arc: rng.standard_normal(x.shape) for arc, x in problem.arcs.items()}
    ends = {"initial": rng.standard_normal((16, 5)), "final": rng.standard_normal((16, 5))}
    with precision("float64"):
        assert check(way, problem._replace(arcs=arcs, **ends)).cost.dtype == np.float64


@pytest.mark.parametrize(("way", "kind"), parameters(("rnnt",), (NATIVE, COMPACT)))
def test_bfloat16_arcs_are_promoted(way, kind, rng):
    problem = make(rng, kind)
    arcs = {arc: x.astype(jnp.bfloat16) for arc, x in problem.arcs.items()}
    result = check(way, problem._replace(arcs=arcs))
    assert result.cost.dtype == np.float32
    assert {x.dtype for x in result.arcs.values()} == {jnp.dtype(jnp.bfloat16)}


@needs_native
@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
def test_batch_of_any_dimensions(batch, rng):
    problem = make(rng, KINDS["long_durations_ends"], batch)
    check(NATIVE, problem)


@needs_native
def test_a_dict_in_any_order_is_the_same_lattice(rng):
    problem = make(rng, KINDS["durations_012"])
    turned = problem._replace(
        arcs=dict(reversed(problem.arcs.items())), last=tuple(reversed(problem.last))
    )
    np.testing.assert_array_equal(evaluate(NATIVE, turned).cost, evaluate(NATIVE, problem).cost)


@pytest.mark.parametrize(("way", "kind"), parameters(("one_symbol",), (NATIVE, FALLBACK)))
def test_one_symbol_a_frame_where_every_frame_writes(way, kind, rng):
    """T_n = U_n: one path."""
    problem = make(rng, kind)
    result = evaluate(way, problem)
    for n in np.flatnonzero(problem.frames_lengths == problem.labels_lengths):
        labels = problem.arcs[1, 1][n].diagonal()[: problem.labels_lengths[n]]
        assert_costs(result.cost[n], -labels.sum(dtype=np.float64))
        assert not result.arcs[1, 0][n].any()


def _composite(arcs, most: int):
    """Arcs (1, n): n labels and the blank behind them, all of one frame."""

    def after(x, columns):
        width = ((0, 0), (0, 0), (0, columns))
        return jnp.pad(x, width, constant_values=-jnp.inf)[..., columns:]

    composed, labels = {(1, 0): arcs[1, 0]}, jnp.zeros_like(arcs[0, 1])
    for n in range(1, most + 1):
        labels = labels + after(arcs[0, 1], n - 1)
        composed[1, n] = labels + after(arcs[1, 0], n)
    return composed


@pytest.mark.parametrize(
    ("implementation", "most"),
    [pytest.param("native", 1, marks=needs_native), ("reference", 2)],
)
def test_composite_arcs_are_rnnt_of_so_many_labels_a_frame(implementation, most, rng):
    """Constrained, with one; posteriors of a composite arc go into all that it is made of."""
    problem = make(rng, KINDS["rnnt"])

    @jax.jit
    def run(arcs):
        costs, vjp = jax.vjp(
            lambda arcs: jax_rnnt.arcs_cost(
                _composite(arcs, most), *problem[1:3], implementation=implementation
            ),
            arcs,
        )
        return costs, *vjp(jnp.ones_like(costs))

    def counts(path: arcs_oracle.Path) -> bool:
        written = [t for arc, t, _ in path.arcs if arc == (0, 1)]
        return all(written.count(t) <= most for t in written)

    costs, gradients = run(problem.arcs)
    expected = arcs_oracle.solve(
        problem, align=lambda lattice: arcs_oracle.enumerate_paths(lattice, counts)
    )
    assert_costs(costs, expected.cost)
    for arc in problem.arcs:
        assert_gradients(gradients[arc], expected.arcs[arc])


@needs_native
def test_parallel_arcs_are_one(rng):
    """Star: beside each blank but the last frame's, a blank that is free."""
    kind = Kind(((1, 0), (1, 0, "skip"), (0, 1)))
    problem = make(rng, kind)
    inner = np.arange(4) < problem.frames_lengths[:, None] - 1
    skip = np.where(inner[..., None], np.float32(0.3), -np.inf) + np.zeros((16, 4, 4), np.float32)
    problem.arcs[1, 0, "skip"][:] = skip
    folded = {
        (1, 0): np.logaddexp(problem.arcs[1, 0], skip),
        (0, 1): problem.arcs[0, 1],
    }
    expected = arcs_oracle.solve(problem)
    result = evaluate(NATIVE, problem._replace(arcs=folded))
    assert_costs(result.cost, expected.cost)
    assert_gradients(result.arcs[1, 0], expected.arcs[1, 0] + expected.arcs[1, 0, "skip"])
    assert_gradients(result.arcs[0, 1], expected.arcs[0, 1])


@pytest.mark.parametrize(("way", "kind"), parameters(("durations_201",), (NATIVE, REFERENCE)))
def test_the_derivative_by_sigma_is_the_expected_number_of_arcs(way, kind, rng):
    """Of a sigma that is taken off every arc's weight, which multiplies paths by its power."""
    problem = make(rng, kind)
    arcs = {arc: x.astype(np.float64) for arc, x in problem.arcs.items()}
    sigma, step = 0.25, 1e-5

    def shifted(by) -> Problem:
        return problem._replace(arcs={arc: x - by for arc, x in arcs.items()})

    result = evaluate(way, shifted(sigma))
    number = -sum(x.sum((-2, -1)) for x in result.arcs.values())
    above, below = (arcs_oracle.solve(shifted(sigma + by)).cost for by in (step, -step))
    np.testing.assert_allclose(number, (above - below) / (2 * step), rtol=1e-5)
