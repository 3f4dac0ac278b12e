"""The pruned recipe under transformations, on several devices, and exported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from pruned_problems import (
    Operands,
    Problem,
    Result,
    assert_close,
    evaluate,
    expected,
    make_problem,
)
from support import collectives

import jax_rnnt

needs_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
WIDTH = 2


def _problem(rng) -> Problem:
    return make_problem(rng, (5, 4, 3, 5), (4, 3, 1, 0))


def _losses(operands, *batch):
    return jax_rnnt.pruned_rnnt_loss(*operands, *batch, width=WIDTH)


def _total(operands, *batch):
    losses = _losses(operands, *batch)
    return 0.5 * losses.simple.sum() + losses.pruned.sum(), losses


def _both(operands, *batch):
    (_, losses), gradients = jax.value_and_grad(_total, has_aux=True)(operands, *batch)
    return losses, gradients


def _result(losses, gradients) -> Result:
    return Result(*map(np.asarray, losses), Operands(*map(np.asarray, gradients)))


def _spread(problem: Problem, mesh) -> tuple:
    """The arguments, of which each but kernel and bias is sharded by utterances."""

    def put(x, spec):
        return jax.device_put(x, NamedSharding(mesh, spec))

    operands = {
        name: put(x, P() if name in ("kernel", "bias") else P("a"))
        for name, x in problem.operands._asdict().items()
    }
    return Operands(**operands), *(put(x, P("a")) for x in problem.batch)


@needs_devices
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_sharded_batch_stays_where_it_is(kind, rng):
    """But for the weights' gradients, and whether there is a cell to rescue."""
    problem = _problem(rng)
    mesh = jax.make_mesh((2,), ("a",), axis_types=(kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        arguments = _spread(problem, mesh)
        run = jax.jit(_both).lower(*arguments).compile()
        assert collectives(run) <= {"all-reduce"}
        losses, gradients = run(*arguments)
    for x in (*losses, gradients.encoder, gradients.simple_predictor):
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, P("a")), x.ndim)
    wanted, _ = expected(problem, width=WIDTH)
    assert_close(_result(losses, gradients), wanted)


@needs_devices
def test_shard_map_with_checked_varying_axes(rng):
    problem = _problem(rng)
    mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    own = P("a")
    specs = Operands(own, own, P(), P(), own, own)

    def local(operands, *batch):
        losses, vjp = jax.vjp(lambda x: _losses(x, *batch), operands)
        ones = jax_rnnt.PrunedLosses(0.5 * jnp.ones_like(losses[0]), jnp.ones_like(losses[1]))
        return losses, *vjp(ones)

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, own, own, own),
        out_specs=(jax_rnnt.PrunedLosses(own, own), specs),
        check_vma=True,
    )
    losses, gradients = jax.jit(run)(*_spread(problem, mesh))
    assert_close(_result(losses, gradients), expected(problem, width=WIDTH)[0])


def test_vmap_is_one_batch(rng):
    problem = _problem(rng)
    wanted = evaluate(problem, width=WIDTH)
    axes = Operands(0, 0, None, None, 0, 0)
    losses, gradients = jax.jit(jax.vmap(_both, (axes, 0, 0, 0)))(*problem)
    summed = gradients._replace(kernel=gradients.kernel.sum(0), bias=gradients.bias.sum(0))
    result = _result(losses, summed)
    np.testing.assert_allclose(result.pruned, wanted.pruned, rtol=1e-6)
    np.testing.assert_allclose(result.simple, wanted.simple, rtol=1e-6)
    for own, other in zip(result.gradients, wanted.gradients):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


def test_any_batch_dimensions_are_one_batch(rng):
    problem = _problem(rng)
    wanted = evaluate(problem, width=WIDTH)

    def split(x):
        return x.reshape(2, 2, *x.shape[1:])

    own = problem.operands
    operands = Operands(*map(split, own[:2]), own.kernel, own.bias, *map(split, own[4:]))
    losses = jax.jit(_losses)(operands, *map(split, problem.batch))
    np.testing.assert_allclose(losses.pruned.reshape(4), wanted.pruned, rtol=1e-6)
    one = Operands(*(x if i in (2, 3) else x[0] for i, x in enumerate(own)))
    losses = _losses(one, *(x[0] for x in problem.batch))
    np.testing.assert_allclose(losses.pruned, wanted.pruned[0], rtol=1e-6)


def test_an_exported_program_is_the_same(rng):
    problem = _problem(rng)
    platforms = {"cpu", "cuda", "cuda" if jax.default_backend() == "gpu" else "cpu"}

    @jax.jit
    def run(operands, batch):
        return jax.tree.leaves(_both(Operands(*operands), *batch))

    exported = export.export(
        run, platforms=sorted(platforms), disabled_checks=jax_rnnt.custom_call_checks()
    )(tuple(problem.operands), problem.batch)
    both = export.deserialize(exported.serialize()).call(tuple(problem.operands), problem.batch)
    losses, gradients = both[:2], both[2:]
    wanted = evaluate(problem, width=WIDTH)
    result = _result(losses, gradients)
    np.testing.assert_allclose(result.pruned, wanted.pruned, rtol=1e-6)
    np.testing.assert_allclose(result.gradients.encoder, wanted.gradients.encoder, atol=1e-6)


def test_the_same_inputs_give_the_same_bits(rng):
    problem = _problem(rng)
    run = functools.partial(evaluate, problem, width=WIDTH)
    for a, b in zip(jax.tree.leaves(run()), jax.tree.leaves(run())):
        np.testing.assert_array_equal(a, b)


def test_debugging_options_see_no_infinities_between(rng):
    problem = _problem(rng)
    clean = Problem(Operands(*map(np.nan_to_num, problem.operands)), *problem.batch)
    with jax.debug_nans(True), jax.debug_infs(True), jax.disable_jit():
        losses, gradients = _both(*clean)
    assert_close(_result(losses, gradients), expected(problem, width=WIDTH)[0])
