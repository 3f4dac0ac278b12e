"""A sharded batch stays where it is, whatever the lattice, the rows and the biases.

As in test_sharding.py, the compiled program shows it.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from support import collectives, every_lattice, pack, ragged, with_durations
from tolerances import assert_costs, assert_gradients

import jax_rnnt

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")


def _biased(rows, labels, frames, lengths, label_bias, blank_bias, **options):
    """One symbol a frame."""
    return jax_rnnt.rnnt_loss_from_logits(
        rows,
        labels,
        frames,
        lengths,
        label_bias=label_bias,
        blank_bias=blank_bias,
        rnnt_type="modified",
        **options,
    )


def _hat(*arguments, **options):
    return jax_rnnt.rnnt_loss_from_logits(
        *arguments, normalize="hat", rnnt_type="constrained", **options
    )


def _timed(*arguments, **options):
    return jax_rnnt.tdt_loss_from_logits(
        *arguments, durations=(0, 1, 2), sigma=0.05, omega=0.25, fastemit_lambda=0.1, **options
    )


LOSSES = [_biased, _hat, _timed]
MESHES = [(AxisType.Auto, 1), (AxisType.Explicit, 2)]


def _arguments(rng, loss: Callable, problem=None) -> list[np.ndarray]:
    problem = every_lattice(rng) if problem is None else problem
    problem = with_durations(rng, problem, 3 if loss is _timed else 0)
    if loss is _hat:
        problem = problem._replace(labels=np.maximum(problem.labels, 1))
    cells = problem.rows.shape[:-1]
    biases = [rng.standard_normal(shape, np.float32) for shape in (cells, (*cells[:2], 1))]
    return [*problem, *(biases if loss is _biased else ())]


@pytest.fixture(params=MESHES, ids=str)
def mesh(request) -> Iterator[Mesh]:
    kind, axes = request.param
    count = 2 ** (jax.device_count().bit_length() - 1)
    shape = (count,) if axes == 1 else (count // 2, 2)
    mesh = jax.make_mesh(
        shape, ("a", "b")[:axes], axis_types=(kind,) * axes, devices=jax.devices()[:count]
    )
    with jax.set_mesh(mesh):
        yield mesh


def _costs_and_gradients(loss, rows, labels, frames, lengths, *biases):
    costs, vjp = jax.vjp(lambda x, *b: loss(x, labels, frames, lengths, *b), rows, *biases)
    return costs, *vjp(jnp.ones_like(costs))


@functools.cache
def _on_one_device(loss: Callable) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Arguments, and costs and gradients, compiled once for all meshes and ways."""
    arguments = _arguments(np.random.default_rng(0), loss)
    results = jax.jit(functools.partial(_costs_and_gradients, loss))(*arguments)
    return arguments, [np.asarray(x) for x in results]


def _assert_near(actual, expected) -> None:
    assert_costs(actual[0], np.asarray(expected[0], np.float64))
    for own, other in zip(actual[1:], expected[1:], strict=True):
        assert_gradients(own, np.asarray(other, np.float64))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", ["jit", "shard_map"])
def test_sharded_batches_move_nothing(loss, way, mesh):
    arguments, expected = _on_one_device(loss)
    run = functools.partial(_costs_and_gradients, loss)
    spec = P(mesh.axis_names)
    if way == "shard_map":
        run = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True)
    sharded = [jax.device_put(x, NamedSharding(mesh, spec)) for x in arguments]
    compiled = jax.jit(run).lower(*sharded).compile()
    assert not collectives(compiled)
    _assert_near(compiled(*sharded), expected)


def test_a_shared_bias_sums_its_gradient(mesh, rng):
    """One all-reduce, of the bias' gradient; nothing of the logits moves."""
    *arguments, _, _ = _arguments(rng, _biased)
    biases = [rng.standard_normal(shape, np.float32) for shape in ((4, 4), (4, 1))]
    run = functools.partial(_costs_and_gradients, _biased)
    expected = jax.jit(run)(*arguments, *biases)
    sharded = [jax.device_put(x, NamedSharding(mesh, P(mesh.axis_names))) for x in arguments]
    shared = [jax.device_put(x, NamedSharding(mesh, P())) for x in biases]
    compiled = jax.jit(run).lower(*sharded, *shared).compile()
    assert collectives(compiled) == {"all-reduce"}
    actual = compiled(*sharded, *shared)
    _assert_near(actual[:2], expected[:2])
    for own, other in zip(actual[2:], expected[2:]):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", [_hat, _timed])
def test_compact_batches_one_for_each_device(loss, rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    problems = [
        with_durations(rng, ragged(rng, (3,), 4, 3, 5), 3 if loss is _timed else 0)
        for _ in range(count)
    ]
    problems = [x._replace(labels=np.maximum(x.labels, 1)) for x in problems]
    packed = [np.stack(arrays) for arrays in zip(*map(pack, problems))]
    run = functools.partial(_costs_and_gradients, functools.partial(loss, compact=True))

    def local(*arguments):
        return [x[None] for x in run(*(x[0] for x in arguments))]

    spread = jax.shard_map(local, mesh=mesh, in_specs=P("a"), out_specs=P("a"), check_vma=True)
    costs, _ = jax.jit(spread)(*packed)
    for problem, own in zip(problems, costs, strict=True):
        assert_costs(own, np.asarray(loss(*problem), np.float64))


def test_a_joint_with_a_sharded_bias_moves_no_more_than_without(mesh, rng):
    """The gradients of kernel and bias are sums over the batch; label_bias stays with it."""

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    joint = normal(16, 4, 6), normal(16, 4, 6), normal(6, 5), normal(5)
    problem = every_lattice(rng)

    def run(encoder, predictor, kernel, bias, labels, frames, lengths, label_bias):
        def loss(*arrays):
            own = dict(label_bias=arrays[4], rnnt_type="modified")
            return jax_rnnt.rnnt_loss_from_joint(
                *arrays[:4], labels, frames, lengths, reduction="sum", **own
            )

        arrays = encoder, predictor, kernel, bias, label_bias
        return jax.value_and_grad(loss, range(len(arrays)))(*arrays)

    spread, whole = NamedSharding(mesh, P(mesh.axis_names)), NamedSharding(mesh, P())
    given = [jax.device_put(x, spread) for x in (*joint[:2], *problem[1:], normal(16, 4, 4))]
    weights = [jax.device_put(x, whole) for x in joint[2:]]
    arguments = [*given[:2], *weights, *given[2:]]
    assert collectives(jax.jit(run).lower(*arguments).compile()) == {"all-reduce"}
