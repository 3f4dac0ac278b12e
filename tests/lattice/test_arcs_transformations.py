"""JAX's transformations of arcs_cost, whose arcs are a dict, give what the plain call gives."""

import arcs_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arcs_oracle import Problem
from arcs_problems import COMPACT, FALLBACK, KINDS, NATIVE, evaluate, make, parameters
from support import needs_native, precision
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

KIND = KINDS["long_durations_ends"]


def _weights(problem: Problem):
    return problem.arcs, tuple(problem[4:])


def _assert_result(costs, gradients, problem: Problem) -> None:
    expected = arcs_oracle.solve(problem)
    assert_costs(costs, expected.cost)
    arcs, ends = gradients
    for arc, own in arcs.items():
        assert_gradients(own, expected.arcs[arc])
    for own, other in zip(ends, expected[2:], strict=True):
        assert_gradients(own, other)


def _cost(way, last):
    """The way's costs as a function of weights and lengths, which is differentiated by weights."""
    return lambda weights, *lengths: way(weights[0], *lengths, weights[1], last)


@needs_native
def test_jit_is_the_plain_call(rng):
    problem = make(rng, KIND)
    costs = _cost(NATIVE, KIND.last)(_weights(problem), *problem[1:3])
    assert_same_bits(costs, evaluate(NATIVE, problem).cost)


@pytest.mark.parametrize(("way", "kind"), parameters(("long_durations_ends",), (NATIVE, FALLBACK)))
def test_vmap(way, kind, rng):
    problem = make(rng, kind)
    run = jax.jit(jax.vmap(jax.value_and_grad(_cost(way, kind.last))))
    with way.compiling():
        _assert_result(*run(_weights(problem), *problem[1:3]), problem)


@needs_native
def test_grad_of_vmap(rng):
    problem = make(rng, KIND)

    def total(weights, *lengths):
        costs = jax.vmap(_cost(NATIVE, KIND.last))(weights, *lengths)
        return costs.sum(), costs

    gradients, costs = jax.jit(jax.grad(total, has_aux=True))(_weights(problem), *problem[1:3])
    _assert_result(costs, gradients, problem)


MAPPED = {
    "arcs": lambda i, count: i < count - 4,
    "one arc": lambda i, count: i == 0,
    "lengths": lambda i, count: i >= count - 2,
    "initial": lambda i, count: i == count - 4,
}


@pytest.mark.parametrize("is_mapped", MAPPED.values(), ids=MAPPED)
@needs_native
def test_vmap_of_some_arguments(is_mapped, rng):
    """Sixteen lattices that have all other arguments in common."""
    problem = make(rng, KIND)
    leaves, tree = jax.tree.flatten((_weights(problem), *problem[1:3]))
    mapped = [is_mapped(i, len(leaves)) for i in range(len(leaves))]
    leaves = [x if own else np.stack([x[13]] * 16) for x, own in zip(leaves, mapped)]
    passed = [x if own else x[0] for x, own in zip(leaves, mapped)]
    axes = tuple(0 if own else None for own in mapped)
    one = jax.value_and_grad(_cost(NATIVE, KIND.last))
    run = jax.vmap(lambda *leaves: one(*jax.tree.unflatten(tree, leaves)), axes)
    (arcs, ends), *lengths = jax.tree.unflatten(tree, leaves)
    _assert_result(*jax.jit(run)(*passed), Problem(arcs, *lengths, KIND.last, *ends))


@needs_native
def test_vmap_of_the_compact_form(rng):
    """Three batches of one frame and no label, two frames and one label, in seven rows each."""
    arcs = {arc: rng.standard_normal((3, 7)).astype(np.float32) for arc in KINDS["rnnt"].arcs}
    lengths = np.array([[1, 2]] * 3, np.int32), np.array([[0, 1]] * 3, np.int32)

    def cost(arcs, *lengths):
        return COMPACT(arcs, *lengths, (None, None), None, 1)

    def run(arcs, *lengths):
        costs, vjp = jax.vjp(lambda arcs: cost(arcs, *lengths), arcs)
        return costs, *vjp(jnp.ones_like(costs))

    costs, gradients = jax.jit(jax.vmap(run))(arcs, *lengths)
    for i in range(3):
        own_costs, own = run({arc: x[i] for arc, x in arcs.items()}, *(x[i] for x in lengths))
        assert_same_bits(costs[i], own_costs)
        for arc in arcs:
            assert_same_bits(gradients[arc][i], own[arc])
            assert own[arc][:5].any()


def _slope(function, weights, direction, step=1e-6):
    def at(by):
        return function(jax.tree.map(lambda x, d: x + by * d, weights, direction))

    return (at(step) - at(-step)) / (2 * step)


def _wide(rng, kind) -> tuple[Problem, tuple]:
    """A problem of float64 weights, and a direction in which they may go."""
    problem = make(rng, kind)
    weights = jax.tree.map(lambda x: x.astype(np.float64), _weights(problem))
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), weights)
    return Problem(weights[0], *problem[1:4], *weights[1]), direction


@needs_native
def test_gradients_are_slopes(rng):
    problem, direction = _wide(rng, KIND)

    def total(weights):
        return _cost(NATIVE, KIND.last)(weights, *problem[1:3]).sum()

    with precision("float64"):
        gradients = jax.grad(total)(_weights(problem))
        products = jax.tree.map(np.vdot, gradients, direction)
        slope = _slope(total, _weights(problem), direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-7)


@pytest.mark.parametrize("forward", [False, True], ids=["grad of grad", "jvp of grad"])
def test_second_derivatives_of_the_reference(forward, rng):
    """The slope of the oracle's gradients along a direction."""
    problem, direction = _wide(rng, KINDS["any_ends"])

    def total(weights):
        return jax_rnnt.arcs_cost(
            weights[0],
            *problem[1:3],
            last=problem.last,
            initial=weights[1][0],
            final=weights[1][1],
            implementation="reference",
        ).sum()

    def expected(weights):
        result = arcs_oracle.solve(Problem(weights[0], *problem[1:4], *weights[1]))
        return np.concatenate([x.ravel() for x in (*result.arcs.values(), *result[2:])])

    def along(weights):
        if forward:
            return jax.jvp(jax.grad(total), (weights,), (direction,))[1]
        products = jax.tree.map(jnp.vdot, jax.grad(total)(weights), direction)
        return sum(jax.tree.leaves(products))

    with precision("float64"):
        arcs, ends = jax.jit(along if forward else jax.grad(along))(_weights(problem))
    actual = np.concatenate([np.ravel(x) for x in (*(arcs[k] for k in problem.arcs), *ends)])
    slope = _slope(expected, _weights(problem), direction, step=1e-5)
    assert np.abs(slope).max() > 0.1
    np.testing.assert_allclose(actual, slope, atol=1e-8)


@pytest.mark.parametrize("implementation", [None, "reference"])
@pytest.mark.parametrize("arcs", [((1, 0), (0, 1)), ((2, 2),)])
def test_no_sequences_in_the_compact_layout(arcs, implementation):
    def total(weights):
        costs = jax_rnnt.arcs_cost(
            dict.fromkeys(arcs, weights), [], [], compact=True, implementation=implementation
        )
        assert costs.shape == (0,)
        return costs.sum()

    assert not jax.grad(total)(jnp.ones(4)).any()
