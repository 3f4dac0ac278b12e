"""Costs and posteriors from one pair of sweeps, and their derivative."""

import functools

import arcs_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arcs_problems import KINDS, make
from support import assert_examples_are_true, collectives
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt


def _two_arcs(rng):
    problem = make(rng, KINDS["rnnt"])
    return problem, (*(problem.arcs[arc] for arc in ((1, 0), (0, 1))), *problem[1:3])


def _with_gradients(function, cotangents):
    """jitted: results of function(arcs), a pytree whose first leaf is costs; and its gradient."""

    @jax.jit
    def run(arcs):
        results, vjp = jax.vjp(function, arcs)
        leaves, tree = jax.tree.flatten(results)
        # The posteriors' own cotangents are for nothing.
        rest = [jnp.full_like(x, np.nan) for x in leaves[1:]]
        return results, *vjp(jax.tree.unflatten(tree, [cotangents, *rest]))

    return run


@pytest.mark.parametrize("implementation", [None, "reference"])
def test_costs_posteriors_and_gradients_of_two_arcs(implementation, rng):
    problem, (blank, label, *lengths) = _two_arcs(rng)
    cotangents = rng.standard_normal(problem.frames_lengths.shape).astype(np.float32)
    cotangents[:3] = 0, -0.0, 2
    found, gradients = _with_gradients(
        lambda arcs: jax_rnnt.lattice_cost_and_posteriors(
            *arcs, *lengths, implementation=implementation
        ),
        cotangents,
    )((blank, label))
    posteriors = arcs_oracle.solve(problem, -1.0)
    wanted = arcs_oracle.solve(problem, cotangents)
    assert isinstance(found, jax_rnnt.CostAndPosteriors)
    assert_costs(found.costs, wanted.cost)
    for arc, own, gradient in zip(((1, 0), (0, 1)), found[1:], gradients):
        assert_gradients(own, posteriors.arcs[arc])
        assert_gradients(gradient, wanted.arcs[arc], scale=3)


@pytest.mark.parametrize("name", ["one_symbol", "durations_012", "multi_blank"])
def test_costs_posteriors_and_gradients_of_any_arcs(name, rng):
    problem = make(rng, KINDS[name])
    cotangents = rng.standard_normal(problem.frames_lengths.shape).astype(np.float32)
    found, gradients = _with_gradients(
        lambda arcs: jax_rnnt.arcs_cost_and_posteriors(arcs, *problem[1:3], last=problem.last),
        cotangents,
    )(problem.arcs)
    costs, posteriors = jax_rnnt.arcs_posteriors(problem.arcs, *problem[1:3], last=problem.last)
    assert_same_bits(found[0], costs)
    wanted = arcs_oracle.solve(problem, cotangents)
    assert_costs(costs, wanted.cost)
    assert posteriors.keys() == gradients.keys() == found[1].keys()
    for arc, own in posteriors.items():
        assert_same_bits(found[1][arc], own)
        assert_gradients(gradients[arc], wanted.arcs[arc], scale=3)


@pytest.mark.parametrize("worst", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("implementation", [None, "reference"])
def test_a_cost_that_is_masked_away_has_no_gradient(implementation, worst):
    """Of which 0 times infinity or NaN would be NaN."""
    arcs = np.zeros((3, 2, 2), np.float32)
    arcs[1], arcs[2] = -np.inf, np.nan
    found, (blank, label) = _with_gradients(
        lambda arcs: jax_rnnt.lattice_cost_and_posteriors(
            *arcs, [2, 2, 2], [1, 1, 1], implementation=implementation
        ),
        np.array([1, worst, worst], np.float32),
    )((arcs, arcs))
    np.testing.assert_array_equal(found.costs[1:], [np.inf, np.nan])
    for x in (*found[1:], blank, label):
        assert np.asarray(x)[0].any()
        assert not np.any(x[1:])


def test_posteriors_are_constants_and_second_derivatives_are_refused(rng):
    _, (blank, label, *lengths) = _two_arcs(rng)

    def entropy(blank, implementation):
        both = jax_rnnt.lattice_cost_and_posteriors(
            blank, label, *lengths, implementation=implementation
        )
        return (both.blank_posteriors**2).sum()

    for implementation in (None, "reference"):
        assert not np.any(jax.grad(entropy)(blank, implementation))

    def cost(blank, implementation=None):
        return jax_rnnt.lattice_cost_and_posteriors(
            blank, label, *lengths, implementation=implementation
        ).costs[-1]

    with pytest.raises(NotImplementedError, match="differentiated once"):
        jax.grad(lambda x: jax.grad(cost)(x).sum())(blank)
    with pytest.raises(NotImplementedError, match="reverse-mode derivatives only"):
        jax.jvp(cost, (blank,), (blank,))
    one = functools.partial(cost, implementation="reference")
    second = jax.jit(jax.grad(lambda x: (jax.grad(one)(x) ** 2).sum()))(jnp.asarray(blank))
    own = jax_rnnt.lattice_cost
    wanted = jax.jit(
        jax.grad(
            lambda x: (
                jax.grad(lambda y: own(y, label, *lengths, implementation="reference")[-1])(x) ** 2
            ).sum()
        )
    )(jnp.asarray(blank))
    np.testing.assert_allclose(second, wanted, rtol=1e-5, atol=1e-6)
    assert np.any(second)


def test_vmap_and_batch_dimensions_are_one_batch(rng):
    _, arguments = _two_arcs(rng)
    both = jax_rnnt.lattice_cost_and_posteriors(*arguments)
    mapped = jax.vmap(jax_rnnt.lattice_cost_and_posteriors)(*arguments)
    one = jax_rnnt.lattice_cost_and_posteriors(*(x[3] for x in arguments))
    for own, other, single in zip(both, mapped, one):
        assert_same_bits(own, other)
        assert_same_bits(own[3], single)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
def test_a_sharded_batch_moves_nothing(rng):
    problem, arguments = _two_arcs(rng)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("a",), axis_types=auto, devices=jax.devices()[:2])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    arguments = [jax.device_put(x, sharding) for x in arguments]
    run = jax.jit(jax_rnnt.lattice_cost_and_posteriors).lower(*arguments).compile()
    assert not collectives(run)
    assert_costs(run(*arguments).costs, arcs_oracle.solve(problem).cost)


@pytest.mark.parametrize("name", ["lattice_cost_and_posteriors", "arcs_cost_and_posteriors"])
def test_examples_and_arguments(name):
    function = getattr(jax_rnnt, name)
    assert_examples_are_true(name, function)
    zeros = np.zeros((2, 2), np.float32)
    arcs = [zeros, zeros] if name.startswith("lattice") else [{(1, 0): zeros, (0, 1): zeros}]
    with pytest.raises(ValueError, match=r"^frames_lengths must be in \[1, 2\]"):
        function(*arcs, 3, 1)
    with pytest.raises(ValueError, match=r"^implementation must be one of"):
        function(*arcs, 2, 1, implementation="fast")
