"""The joint's loss of a batch that is spread over devices."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from joint_problems import (
    Joint,
    Problem,
    Result,
    assert_close,
    expected,
    flat,
    joint_cost,
    make_problem,
    needs_devices,
    value_and_gradients,
)
from support import collectives
from tolerances import assert_costs

import jax_rnnt
from jax_rnnt.rows import joint_fused


def test_pmap(rng):
    count = min(4, jax.local_device_count())
    problem = make_problem(rng, count, 9, 6, 5, 7)
    run = jax.pmap(value_and_gradients, in_axes=(0, 0, None, None, 0, 0, 0))
    costs, gradients = run(*flat(problem))
    sums = [*gradients[:2], *(g.sum(0) for g in gradients[2:])]
    assert_close(Result(costs, Joint(*sums)), expected(problem))


# Each kind of axes and each number of them. A joint takes seconds to compile: all four are for what
# depends on both.
TWO_MESHES = [(AxisType.Auto, 1), (AxisType.Explicit, 2)]
OTHER_MESHES = [(AxisType.Auto, 2), (AxisType.Explicit, 1)]


@pytest.fixture(params=TWO_MESHES, ids=str)
def mesh(request):
    kind, axes = request.param
    count = 2 ** (jax.device_count().bit_length() - 1)
    shape = (count,) if axes == 1 else (count // 2, 2)
    devices = jax.devices()[:count]
    return jax.make_mesh(shape, ("a", "b")[:axes], axis_types=(kind,) * axes, devices=devices)


def _specs(mesh) -> list:
    batch = P(mesh.axis_names)
    return [batch, batch, P(), P(), batch, batch, batch]


def _placed(problem, mesh):
    return [
        jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(flat(problem), _specs(mesh))
    ]


def _numbers_of_steps(mesh) -> int:
    """How many of them devices tell each other: parts of Auto axes take as many as the longest."""
    return 0 if AxisType.Explicit in mesh.axis_types else 1


def _assert_sums(program, numbers: int, floats: int = 0) -> None:
    """All that the program moves are so many floats and at most so many integers, by all-reduce."""
    assert collectives(program) <= ({"all-reduce"} if numbers or floats else set())
    moved = {"s": 0, "f": 0}
    for shapes, start in re.findall(r"= (.*) all-reduce(-start)?\(", program.as_text()):
        # What starts has the types of its operands and of its results.
        types = re.findall(r"\b([a-z]+)\d+\[([\d,]*)\]", shapes)
        for kind, sizes in types[: len(types) // 2 if start and shapes[0] == "(" else None]:
            moved[kind] += math.prod(int(size) for size in sizes.split(",") if size)
    assert moved["f"] == floats
    assert moved["s"] <= numbers


@needs_devices
@pytest.mark.parametrize(
    ("mesh", "ambient"),
    [*((mesh, True) for mesh in TWO_MESHES), *((mesh, False) for mesh in OTHER_MESHES)],
    indirect=["mesh"],
    ids=str,
)
def test_sharded_batch_moves_nothing_but_the_sums(mesh, ambient, rng):
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    arguments = _placed(problem, mesh)
    steps = _numbers_of_steps(mesh)

    def check():
        forward = jax.jit(joint_cost).lower(*arguments).compile()
        _assert_sums(forward, steps)
        both = jax.jit(value_and_gradients).lower(*arguments).compile()
        _assert_sums(both, 2 * steps, 5 * 7 + 7)
        costs, gradients = both(*arguments)
        assert costs.sharding.is_equivalent_to(arguments[4].sharding, 1)
        assert gradients[0].sharding.is_equivalent_to(arguments[0].sharding, 3)
        assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))

    if ambient:
        with jax.set_mesh(mesh):
            check()
    else:
        check()


_AUTO = (AxisType.Auto,)


@needs_devices
@pytest.mark.parametrize(
    ("sizes", "batch", "spec"),
    [
        ((-1,), (4,), P("a")),
        ((-1, 2), (16,), P("a")),
        ((-1, 2), (16,), P("b")),
        ((-1, 2), (8, 2), P("a", "b")),
        ((-1, 2), (2, 8), P(None, ("a", "b"))),
        ((-1, 2), (8, 2), P()),
    ],
    ids=str,
)
def test_batches_spread_over_some_axes_or_several_dimensions(sizes, batch, spec, rng):
    """No gather where a batch is spread evenly, whichever of its dimensions over whichever axes."""
    count = 2 ** (jax.device_count().bit_length() - 1)
    count = math.gcd(count, batch[0]) if len(sizes) == 1 else count
    mesh = jax.make_mesh(
        (count // math.prod(sizes[1:]), *sizes[1:]),
        ("a", "b")[: len(sizes)],
        axis_types=_AUTO * len(sizes),
        devices=jax.devices()[:count],
    )
    problem = make_problem(rng, math.prod(batch), 9, 6, 5, 7)
    arguments = [
        jax.device_put(
            x if i in (2, 3) else x.reshape(*batch, *x.shape[1:]),
            NamedSharding(mesh, P() if i in (2, 3) else spec),
        )
        for i, x in enumerate(flat(problem))
    ]
    run = jax.jit(value_and_gradients).lower(*arguments).compile()
    # One dimension is reduced after the other; an axis may have one device.
    spread = [axis if isinstance(axis, tuple) else (axis,) for axis in spec if axis is not None]
    dims = sum(math.prod(mesh.shape[axis] for axis in axes) > 1 for axes in spread)
    _assert_sums(run, 2 * dims, dims * (5 * 7 + 7))
    costs, gradients = run(*arguments)
    wanted = expected(problem)
    folded = (g.reshape(w.shape) for g, w in zip(gradients, wanted.gradients))
    assert_close(Result(np.asarray(costs).reshape(-1), Joint(*folded)), wanted)


@needs_devices
def test_shard_map(mesh, rng):
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    arguments = _placed(problem, mesh)

    def total(*joint):
        def local(*local_arguments):
            costs = joint_cost(*local_arguments)
            return jax.lax.psum(costs.sum(), mesh.axis_names), costs

        specs = tuple(_specs(mesh))
        run = jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=(P(), specs[-1]), check_vma=True
        )
        return run(*joint, *arguments[4:])

    with jax.set_mesh(mesh):
        run = jax.jit(jax.grad(total, range(4), has_aux=True)).lower(*arguments[:4]).compile()
        assert collectives(run) == {"all-reduce"}
        gradients, costs = run(*arguments[:4])
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


@needs_devices
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_over_one_axis_of_two(check_vma, rng):
    """The other one, over which the model may be spread, is left to the partitioner."""
    count = 2 ** (jax.device_count().bit_length() - 1)
    mesh = jax.make_mesh(
        (count // 2, 2),
        ("data", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:count],
    )
    problem = make_problem(rng, 8, 9, 6, 5, 7)
    specs = [P("data"), P("data"), P(), P(), P("data"), P("data"), P("data")]

    def total(*joint):
        def local(*arguments):
            return jax.lax.psum(joint_cost(*arguments).sum(), "data")

        run = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=tuple(specs),
            out_specs=P(),
            axis_names={"data"},
            check_vma=check_vma,
        )
        return run(*joint, *problem[1:])

    value, gradients = jax.jit(jax.value_and_grad(total, range(4)))(*problem.joint)
    wanted = expected(problem)
    actual = Result(np.asarray(value), Joint(*gradients))
    if check_vma:  # without it, what is the same everywhere has a gradient of its own everywhere
        assert_close(actual, wanted._replace(costs=wanted.costs.sum()))
    else:
        np.testing.assert_allclose(value, wanted.costs.sum(), rtol=1e-5)


@needs_devices
@pytest.mark.parametrize(
    ("sharded", "mesh"),
    [
        *itertools.product(["encoder", "kernel", "none"], TWO_MESHES),
        *itertools.product(["labels", "bias"], OTHER_MESHES),
    ],
    indirect=["mesh"],
    ids=str,
)
def test_operands_that_are_spread_apart(sharded, mesh, rng):
    """One operand or none sharded, the others everywhere; the kernel as its optimiser may be."""
    problem = make_problem(rng, 16, 9, 6, 8, 8)
    names = [*Joint._fields, *Problem._fields[1:]]
    axis = mesh.axis_names[0]
    arguments = [
        jax.device_put(x, NamedSharding(mesh, P(axis) if name == sharded else P()))
        for name, x in zip(names, flat(problem))
    ]
    with jax.set_mesh(mesh):
        costs, gradients = jax.jit(value_and_gradients)(*arguments)
    for gradient, argument in zip(gradients, arguments):
        if AxisType.Explicit in mesh.axis_types:
            assert gradient.sharding.is_equivalent_to(argument.sharding, gradient.ndim)
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


@needs_devices
@pytest.mark.skipif(
    jax.__version_info__ < (0, 9), reason="JAX 0.8 has no shard_map under a vmap of Explicit axes"
)
def test_vmap_over_a_sharded_batch(mesh, rng):
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    arguments = _placed(problem, mesh)

    def total(*joint):
        costs = jax.vmap(joint_cost, (0, 0, None, None, 0, 0, 0))(*joint, *arguments[4:])
        return costs.sum(), costs

    with jax.set_mesh(mesh):
        gradients, costs = jax.jit(jax.grad(total, range(4), has_aux=True))(*arguments[:4])
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


@needs_devices
def test_vmap_beside_a_sharded_batch_moves_nothing(mesh, rng):
    """The mapped axis lies behind the sharded one."""
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    kernel, bias = problem.joint[2:]
    spec = NamedSharding(mesh, P(mesh.axis_names[0]))
    batched = [*problem.joint[:2], *problem[1:]]
    arguments = [jax.device_put(x.reshape(8, 2, *x.shape[1:]), spec) for x in batched]
    mapped = jax.vmap(lambda e, p, *rest: joint_cost(e, p, kernel, bias, *rest), 1, 1)
    with jax.set_mesh(mesh):
        run = jax.jit(mapped).lower(*arguments).compile()
        _assert_sums(run, _numbers_of_steps(mesh))
        assert_costs(np.asarray(run(*arguments)).reshape(-1), expected(problem).costs)


@needs_devices
@pytest.mark.parametrize("way", ["Auto", "Explicit", "shard_map", "pmap"])
def test_half_dtypes_over_devices(way, rng):
    """With tiles of the default size, for which there are fused kernels."""
    count, H, V = jax.device_count(), 16, 12
    problem = make_problem(rng, 2 * count, 20, 10, H, V, dtype="bfloat16")
    run = functools.partial(value_and_gradients, cost=jax_rnnt.rnnt_loss_from_joint)
    if way == "pmap":
        batched = {0, 1, 4, 5, 6}
        arguments = [
            x.reshape(count, 2, *x.shape[1:]) if i in batched else x
            for i, x in enumerate(flat(problem))
        ]
        axes = tuple(0 if i in batched else None for i in range(7))
        costs, gradients = jax.pmap(run, in_axes=axes)(*arguments)
        split = [x.reshape(2 * count, *x.shape[2:]) for x in gradients[:2]]
        sums = [x.astype("float32").sum(0).astype(x.dtype) for x in gradients[2:]]
        costs, gradients = costs.reshape(-1), [*split, *sums]
    else:
        kind = AxisType.Explicit if way == "Explicit" else AxisType.Auto
        mesh = jax.make_mesh((count,), ("a",), axis_types=(kind,))
        specs = tuple(_specs(mesh))
        if way == "shard_map":
            run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(specs[-1], specs[:4]))
        arguments = _placed(problem, mesh)
        program = jax.jit(run).lower(*arguments).compile()
        assert collectives(program) == {"all-reduce"}
        fits = joint_fused.fits(H, V, jnp.dtype("bfloat16"), jnp.tanh)
        assert ("jax_rnnt_joint_gradients_cuda" in program.as_text()) == fits
        costs, gradients = program(*arguments)
    assert_close(Result(costs, Joint(*gradients)), expected(problem), "bfloat16")


@needs_devices
def test_export_of_a_spread_batch(mesh, rng):
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    arguments = _placed(problem, mesh)
    exported = jax.export.export(
        jax.jit(value_and_gradients), disabled_checks=jax_rnnt.custom_call_checks()
    )(*arguments)
    reloaded = jax.export.deserialize(exported.serialize())
    costs, gradients = jax.jit(reloaded.call)(*arguments)
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


@needs_devices
def test_batch_that_does_not_divide_by_the_devices(rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    problem = make_problem(rng, count + 2, 9, 6, 5, 7)

    @jax.jit
    def run(*arguments):
        return value_and_gradients(
            *(
                jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
                for x, spec in zip(arguments, _specs(mesh))
            )
        )

    costs, gradients = run(*flat(problem))
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))
