"""A batch sharded over devices stays where it is.

The loss of one sequence needs nothing of another, so no partition of the batch should move data. A
custom call that the partitioner cannot see through is silently computed on all-gathered operands:
the results are right, while every device holds the logits of all of them, the largest array of the
whole model, and computes everybody's loss. Only the compiled program shows it, so these tests read
that.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from support import (
    LOSSES,
    PADDED_LOSSES,
    Loss,
    Problem,
    collectives,
    evaluate,
    every_lattice,
    for_loss,
    pack,
    ragged,
    unpack,
)
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")

MESHES = [(kind, axes) for kind in (AxisType.Auto, AxisType.Explicit) for axes in (1, 2)]


def _pairs(meshes, reference_meshes):
    """Every loss on every mesh, but the reference, slow to compile, on fewer."""
    for parameter in PADDED_LOSSES:
        (loss,) = parameter.values
        for kind, axes in reference_meshes if loss.implementation == "reference" else meshes:
            name = f"{loss}-{kind.name}-{axes}"
            yield pytest.param((loss, kind, axes), marks=parameter.marks, id=name)


@pytest.fixture(params=_pairs(MESHES, MESHES[1:3]))
def sharded(request) -> Iterator[tuple[Loss, Mesh]]:
    """A loss, and a mesh of all devices, of one axis or two of either kind, set as ambient."""
    yield from _with_mesh(*request.param)


@pytest.fixture(params=_pairs(MESHES[1::2], MESHES[1:2]))
def on_two_axes(request) -> Iterator[tuple[Loss, Mesh]]:
    """The same on two axes, of which one or both have a dimension of their own."""
    yield from _with_mesh(*request.param)


@pytest.fixture(params=_pairs(MESHES[1:3], MESHES[2:3]))
def manual(request) -> Iterator[tuple[Loss, Mesh]]:
    """The same for shard_map, within which axes are of one kind."""
    yield from _with_mesh(*request.param)


def _with_mesh(loss: Loss, kind: AxisType, axes: int) -> Iterator[tuple[Loss, Mesh]]:
    count = 2 ** (jax.device_count().bit_length() - 1)
    shape = (count,) if axes == 1 else (count // 2, 2)
    devices = jax.devices()[:count]
    mesh = jax.make_mesh(shape, ("a", "b")[:axes], axis_types=(kind,) * axes, devices=devices)
    with jax.set_mesh(mesh):
        yield loss, mesh


def _shard(arguments, mesh, spec: P) -> list[jax.Array]:
    return [jax.device_put(x, NamedSharding(mesh, spec)) for x in arguments]


def _batch_spec(mesh) -> P:
    return P(mesh.axis_names)


def _costs_and_gradients(loss, rows, *rest):
    costs, vjp = jax.vjp(lambda x: loss(x, *rest), rows)
    return costs, *vjp(jnp.ones_like(costs))


def _assert_as_alone(loss: Loss, problem: Problem, costs, gradients) -> None:
    """The kernels' results do not depend on how many sequences a device has; XLA's own may."""
    expected = evaluate(loss, problem)
    if loss.implementation == "native":
        assert_same_bits(costs, expected.costs)
        assert_same_bits(gradients, expected.gradients)
    assert_costs(costs, expected.costs.astype(np.float64))
    assert_gradients(gradients, expected.gradients.astype(np.float64))


def test_sharded_batch_moves_nothing(sharded, rng):
    loss, mesh = sharded
    problem = for_loss(loss, every_lattice(rng))
    arguments = _shard(problem, mesh, _batch_spec(mesh))
    run = jax.jit(functools.partial(_costs_and_gradients, loss))
    compiled = run.lower(*arguments).compile()
    assert not collectives(compiled)
    costs, gradients = compiled(*arguments)
    assert costs.sharding.is_equivalent_to(NamedSharding(mesh, _batch_spec(mesh)), 1)
    assert gradients.sharding.is_equivalent_to(NamedSharding(mesh, _batch_spec(mesh)), 4)
    _assert_as_alone(loss, problem, costs, gradients)


def test_mean_over_a_sharded_batch_is_one_all_reduce(on_two_axes, rng):
    loss, mesh = on_two_axes
    problem = for_loss(loss, every_lattice(rng))
    arguments = _shard(problem, mesh, _batch_spec(mesh))
    run = jax.jit(jax.value_and_grad(lambda *x: loss(*x, reduction="mean", fastemit_lambda=0.1)))
    compiled = run.lower(*arguments).compile()
    assert collectives(compiled) == {"all-reduce"}
    value, gradients = compiled(*arguments)
    cotangents = np.full(16, 1 / 16)
    expected = loss.expected(problem, cotangents=cotangents, fastemit_lambda=0.1)
    assert_costs(value, expected.costs.mean())
    assert_gradients(gradients, expected.gradients)


def test_several_batch_dimensions_each_sharded(on_two_axes, rng):
    loss, mesh = on_two_axes
    problem = for_loss(loss, ragged(rng, (8, 2), 3, 3, 4))
    arguments = _shard(problem, mesh, P(*mesh.axis_names))
    run = jax.jit(functools.partial(_costs_and_gradients, loss))
    compiled = run.lower(*arguments).compile()
    assert not collectives(compiled)
    costs, gradients = compiled(*arguments)
    expected = loss.expected(problem)
    assert_costs(costs, expected.costs)
    assert_gradients(gradients, expected.gradients)


def test_vmap_beside_a_sharded_batch_moves_nothing(on_two_axes, rng):
    loss, mesh = on_two_axes
    problem = for_loss(loss, ragged(rng, (8, 2), 3, 3, 4))
    arguments = _shard(problem, mesh, P(mesh.axis_names[0]))
    mapped = jax.vmap(functools.partial(_costs_and_gradients, loss), in_axes=1, out_axes=1)
    compiled = jax.jit(mapped).lower(*arguments).compile()
    assert not collectives(compiled)
    costs, gradients = compiled(*arguments)
    expected = loss.expected(problem)
    assert_costs(costs, expected.costs)
    assert_gradients(gradients, expected.gradients)


def test_shard_map_with_checked_varying_axes(manual, rng):
    loss, mesh = manual
    problem = for_loss(loss, every_lattice(rng))
    spec = _batch_spec(mesh)
    run = jax.shard_map(
        functools.partial(_costs_and_gradients, loss),
        mesh=mesh,
        in_specs=(spec,) * 4,
        out_specs=(spec, spec),
        check_vma=True,
    )
    arguments = _shard(problem, mesh, spec)
    compiled = jax.jit(run).lower(*arguments).compile()
    assert not collectives(compiled)
    costs, gradients = compiled(*arguments)
    _assert_as_alone(loss, problem, costs, gradients)


def test_shard_map_with_shared_labels_and_lengths(manual, rng):
    """Logits vary over the mesh, everything else is the same everywhere."""
    loss, mesh = manual
    count = mesh.size
    one = for_loss(loss, ragged(rng, (2,), 3, 3, 4))
    rows = rng.standard_normal((count, 2, 3, 3, 4))
    shared = [np.stack([x] * count) for x in one[1:]]
    problem = Problem(loss.rows(rows), *shared)
    spec = P(mesh.axis_names)

    def local(rows, *rest):
        costs, gradients = _costs_and_gradients(loss, rows[0], *rest)
        return costs[None], gradients[None]

    run = jax.shard_map(
        local, mesh=mesh, in_specs=(spec, P(), P(), P()), out_specs=(spec, spec), check_vma=True
    )
    arguments = _shard([problem.rows], mesh, spec) + _shard(one[1:], mesh, P())
    costs, gradients = jax.jit(run)(*arguments)
    expected = loss.expected(problem)
    assert_costs(costs, expected.costs)
    assert_gradients(gradients, expected.gradients)


def test_shard_map_with_shared_logits_sums_their_gradients(manual, rng):
    """Labels and lengths vary over the mesh, logits are the same everywhere."""
    loss, mesh = manual
    problem = for_loss(loss, ragged(rng, (mesh.size, 2), 3, 3, 4))
    shared = np.stack([problem.rows[0]] * mesh.size)
    spec = P(mesh.axis_names)

    def local(rows, *rest):
        costs, gradients = _costs_and_gradients(loss, rows, *(x[0] for x in rest))
        return costs[None], gradients

    run = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), spec, spec, spec), out_specs=(spec, P()), check_vma=True
    )
    arguments = _shard([problem.rows[0]], mesh, P()) + _shard(problem[1:], mesh, spec)
    costs, gradients = jax.jit(run)(*arguments)
    expected = loss.expected(problem._replace(rows=shared))
    assert_costs(costs, expected.costs)
    assert_gradients(gradients, expected.gradients.sum(0), scale=mesh.size)


def test_batch_that_does_not_divide_by_the_devices(padded_loss, rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    problem = for_loss(padded_loss, ragged(rng, (count + 2,), 4, 3, 5))

    @jax.jit
    def run(*arguments):
        sharded = [
            jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P("a"))) for x in arguments
        ]
        return _costs_and_gradients(padded_loss, *sharded)

    costs, gradients = run(*problem)
    expected = padded_loss.expected(problem)
    assert_costs(costs, expected.costs)
    assert_gradients(gradients, expected.gradients)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_sharding_of_frames_labels_or_symbols_is_still_right(dimension, rng):
    """Not an efficient thing to do; on Auto axes the partitioner gathers what it must."""
    mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    problem = ragged(rng, (2,), 4, 4, 6)
    loss = Loss(from_logits=True)
    spec = P(*(None,) * dimension, "a")
    rows = jax.device_put(problem.rows, NamedSharding(mesh, spec))
    costs, gradients = jax.jit(functools.partial(_costs_and_gradients, loss))(rows, *problem[1:])
    expected = loss.expected(problem)
    assert_costs(costs, expected.costs)
    assert_gradients(gradients, expected.gradients)


def _compact_ways():
    """Every compact loss each way, but the reference, slow to compile, on one."""
    for parameter in LOSSES:
        (loss,) = parameter.values
        ways = ("Auto",) if loss.implementation == "reference" else ("Auto", "Explicit", "pmap")
        for way in ways if loss.compact else ():
            yield pytest.param(loss, way, marks=parameter.marks, id=f"{loss}-{way}")


@pytest.mark.parametrize(("loss", "way"), list(_compact_ways()))
def test_compact_batches_one_for_each_device(loss, way, rng):
    count = jax.device_count()
    problems = [for_loss(loss, ragged(rng, (3,), 4, 3, 5)) for _ in range(count)]
    packed = [np.stack(arrays) for arrays in zip(*map(pack, problems))]
    run = functools.partial(_costs_and_gradients, loss)
    if way == "pmap":
        costs, gradients = jax.pmap(run)(*packed)
    else:
        mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType[way],))

        def local(*arguments):
            return [x[None] for x in run(*(x[0] for x in arguments))]

        spread = jax.shard_map(local, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=True)
        arguments = _shard(packed, mesh, P("a"))
        compiled = jax.jit(spread).lower(*arguments).compile()
        assert not collectives(compiled)
        costs, gradients = compiled(*arguments)
    for problem, own_costs, own_gradients in zip(problems, costs, gradients, strict=True):
        expected = loss.expected(problem)
        assert_costs(own_costs, expected.costs)
        assert_gradients(unpack(np.asarray(own_gradients), problem), expected.gradients)


def _arcs_cost(blank, label, *lengths, **options):
    return jax_rnnt.arcs_cost({(1, 0): blank, (0, 1): label}, *lengths, **options)


@pytest.mark.parametrize("function", [jax_rnnt.lattice_cost, _arcs_cost])
@pytest.mark.parametrize("implementation", [None, "reference"])
def test_packed_batches_one_for_each_device(implementation, function, rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    arcs = np.log(rng.uniform(0.1, 0.9, (2, count, 10)).astype(np.float32))
    lengths = np.array([[2, 1]] * count, np.int32), np.array([[2, 1]] * count, np.int32)

    def cost(*arguments):
        return function(*arguments, compact=True, max_labels=2, implementation=implementation)

    def costs_and_gradients(blank, label, *lengths):
        costs, vjp = jax.vjp(lambda *arcs: cost(*arcs, *lengths), blank, label)
        return costs, *vjp(jnp.ones_like(costs))

    def local(*arguments):
        return [x[None] for x in costs_and_gradients(*(x[0] for x in arguments))]

    one = jax.jit(costs_and_gradients)
    expected = [np.stack(x) for x in zip(*(one(*own) for own in zip(*arcs, *lengths)))]
    arguments = _shard([*arcs, *lengths], mesh, P("a"))
    run = jax.shard_map(local, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=True)
    for actual, value in zip(jax.jit(run)(*arguments), expected):
        np.testing.assert_allclose(actual, value, rtol=1e-6, atol=1e-7)


def test_fastemit_lambda_may_differ_between_devices():
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    problem = ragged(np.random.default_rng(0), (1,), 3, 3, 4)

    def cost(fastemit_lambda):
        return jax_rnnt.rnnt_loss_from_logits(*problem, fastemit_lambda=fastemit_lambda[0])

    run = jax.shard_map(cost, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=True)
    costs = jax.jit(run)(jnp.linspace(0, 1, count))
    assert_same_bits(costs, np.repeat(jax_rnnt.rnnt_loss_from_logits(*problem), count))
