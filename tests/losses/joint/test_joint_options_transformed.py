"""The options of the losses from a joint under JAX's transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from joint_problems import Joint, make_problem, needs_devices
from support import collectives, full
from tolerances import assert_same_bits, relative_error

import jax_rnnt

DURATIONS = (0, 1, 2)
OPTIONS = {"durations": DURATIONS, "dropout_rate": 0.4, "clamp": 0.1, "tile": (4, 4, 3)}


@functools.cache
def key() -> jax.Array:
    return jax.random.key(5)


def _arguments(rng, N, K):
    """Of K hypotheses an encoder, with two heads."""
    joint, labels, frames, lengths = make_problem(rng, N * K, 9, 6, 5, 7 + len(DURATIONS))
    folded = (x.reshape(N, K, *x.shape[1:]) for x in (joint.predictor, labels % 7, lengths))
    predictor, labels, lengths = folded
    return [joint.encoder[::K], predictor, *joint[2:], labels, frames[::K], lengths]


def _cost(key, *arguments):
    return jax_rnnt.tdt_loss_from_joint(*arguments, dropout_key=key, **OPTIONS)


def _both(key, *arguments):
    costs, vjp = jax.vjp(lambda *joint: _cost(key, *joint, *arguments[4:]), *arguments[:4])
    return costs, vjp(jnp.arange(1, costs.size + 1, dtype=costs.dtype).reshape(costs.shape))


@needs_devices
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_sharded_batch_has_the_masks_of_the_whole(rng, kind):
    count = 2 ** (jax.device_count().bit_length() - 1)
    devices = jax.devices()[:count]
    mesh = jax.make_mesh((count,), ("a",), axis_types=(kind,), devices=devices)
    arguments = _arguments(rng, 2 * count, 2)
    specs = P("a"), P("a"), P(), P(), P("a"), P("a"), P("a")
    placed = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arguments, specs)]
    compiled = jax.jit(_both).lower(key(), *placed).compile()
    assert collectives(compiled) <= {"all-reduce"}
    costs, gradients = compiled(key(), *placed)
    wanted, others = jax.jit(_both)(key(), *arguments)
    # A GPU takes other matrix products for a part of the batch than for the whole.
    np.testing.assert_allclose(costs, wanted, rtol=5e-6)
    for name, gradient, other in zip(Joint._fields, gradients, others):
        assert relative_error(gradient, np.asarray(other, np.float64)) < 1e-5, name


def test_vmap_over_keys_draws_each_keys_mask(rng):
    arguments = _arguments(rng, 2, 2)
    keys = jax.random.split(key(), 3)
    mapped = jax.jit(jax.vmap(_both, (0, *[None] * 7)))
    costs, gradients = mapped(keys, *arguments)
    one = jax.jit(_both)
    for i in range(3):
        wanted, others = one(keys[i], *arguments)
        np.testing.assert_allclose(costs[i], wanted, rtol=1e-6)
        for gradient, other in zip(gradients, others):
            assert relative_error(gradient[i], np.asarray(other, np.float64)) < 1e-6


def test_vmap_over_the_batch_has_one_mask_for_all(rng):
    """A key that is not mapped is each entry's own: every entry is the first of its batch."""
    arguments = _arguments(rng, 3, 2)
    axes = (None, 0, 0, None, None, 0, 0, 0)
    costs = jax.jit(jax.vmap(_cost, axes))(key(), *arguments)
    one = jax.jit(_cost)
    for n in range(3):
        own = [x if axis is None else x[n] for x, axis in zip(arguments, axes[1:])]
        np.testing.assert_allclose(costs[n], one(key(), *own), rtol=1e-6)


def test_the_rows_of_a_joint_are_those_of_its_logits(rng):
    joint, *lattice = make_problem(rng, 3, 17, 9, 6, 7 + 2)
    labels, frames, lengths = lattice
    labels = labels % 7
    options = {"others": (3, -1), "rest": True, "durations": 2, "blank": 2}
    rows = jax.jit(functools.partial(jax_rnnt.pick_rows_from_joint, **options))(
        *joint, labels, frames, lengths
    )
    logits = jnp.tanh(joint.encoder[:, :, None] + joint.predictor[:, None]) @ joint.kernel
    logits += joint.bias[None, None, None]
    column = np.arange(9)
    own = np.where(column == lengths[:, None], -1, np.pad(labels, ((0, 0), (0, 1))))
    inside = (np.arange(17)[None, :, None] < frames[:, None, None]) & (
        column <= lengths[:, None, None]
    )
    row_labels = np.where(inside, own[:, None], -2).astype(np.int32)
    wanted = jax_rnnt.pick_rows(logits, row_labels, **options)
    for name, ours, theirs in zip(rows._fields, rows, wanted):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


def test_any_loss_over_the_rows_of_a_joint_has_its_gradients(rng):
    """A bypass arc beside each label, whose weight is of all other symbols."""
    joint, *lattice = make_problem(rng, 3, 17, 9, 6, 7)
    _, frames, lengths = lattice
    cotangents = rng.standard_normal(3).astype(np.float32)

    def cost(rows):
        arcs = {(1, 0): rows.blank, (0, 1): jnp.logaddexp(rows.label, rows.rest - 1)}
        return (jax_rnnt.arcs_cost(arcs, frames, lengths) * cotangents).sum()

    def of_tiles(joint, **options):
        return cost(jax_rnnt.pick_rows_from_joint(*joint, *lattice, rest=True, **options))

    gradients = jax.jit(jax.grad(of_tiles))(Joint(*map(jnp.asarray, joint)))
    of_logits = functools.partial(of_tiles, implementation="reference")
    wanted = jax.jit(jax.grad(of_logits))(Joint(*map(jnp.asarray, joint)))
    for name, gradient, other in zip(Joint._fields, gradients, wanted):
        assert relative_error(gradient, np.asarray(other, np.float64)) < 1e-5, name


def test_the_same_key_is_the_same_bits(rng):
    arguments = _arguments(rng, 2, 3)
    run = jax.jit(_both)
    first, again = run(key(), *arguments), run(key(), *arguments)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)):
        assert_same_bits(a, b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dropout_rate": 0.2}, ValueError, r"^dropout_rate=0.2 needs a dropout_key"),
        ({"dropout_rate": 1.0, "dropout_key": 3}, ValueError, r"^dropout_rate must be in \[0, 1"),
        ({"dropout_rate": "a", "dropout_key": 3}, TypeError, r"^dropout_rate must be a number"),
        ({"dropout_rate": 0.2, "dropout_key": 3}, TypeError, r"^dropout_key must be a key"),
        ({"clamp": 1e300}, ValueError, r"^clamp must be in \[0, 3.4"),
        ({"clamp": 0.0}, ValueError, r"^clamp must be above 0"),
        ({"clamp": "a"}, TypeError, r"^clamp must be a number"),
        ({"normalize": "sigmoid"}, ValueError, r"^normalize must be one of"),
    ],
    ids=str,
)
def test_errors_name_the_option(rng, options, error, message):
    joint, *lattice = make_problem(rng, 1, 3, 3, 2, 3)
    with pytest.raises(error, match=message):
        jax_rnnt.rnnt_loss_from_joint(*joint, *lattice, **options)


@pytest.mark.parametrize("kind", ["batch", "integers"])
def test_keys_that_are_not_one(rng, kind):
    several = jax.random.split(key()) if kind == "batch" else jnp.zeros(3, jnp.uint32)
    joint, *lattice = make_problem(rng, 1, 3, 3, 2, 3)
    with pytest.raises(TypeError, match=r"^dropout_key must be one key"):
        jax_rnnt.rnnt_loss_from_joint(*joint, *lattice, dropout_rate=0.2, dropout_key=several)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: np.zeros((2, 2, 6, 4), np.float32)}, r"^predictor must have shape .*hypotheses"),
        ({1: np.zeros((3, 2, 6, 5), np.float32)}, r"^predictor must have shape .*hypotheses"),
        ({5: np.full((2, 2), 9, np.int32)}, r"^frames_lengths must have shape \(2,\) \(one for"),
        ({4: np.zeros((2, 5), np.int32)}, r"^labels must have shape \(2, 2, 5\)"),
        ({6: np.zeros(2, np.int32)}, r"^labels_lengths must have shape \(2, 2\)"),
    ],
    ids=["units", "batch", "frames", "labels", "lengths"],
)
def test_errors_of_hypotheses(rng, change, message):
    arguments = _arguments(rng, 2, 2)
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        jax_rnnt.rnnt_loss_from_joint(*arguments)


def test_kernels_must_have_more_columns_than_durations(rng):
    joint, *lattice = make_problem(rng, 1, 3, 3, 2, 3)
    with pytest.raises(ValueError, match=r"^kernel must have shape \(H, V \+ 3\)"):
        jax_rnnt.tdt_loss_from_joint(*joint, *lattice, durations=DURATIONS)


@pytest.mark.parametrize("options", [{"implementation": "reference"}, {"width": 4}], ids=str)
def test_vmap_weighs_each_clamped_cost_by_itself(rng, options):
    joint, *lattice = make_problem(rng, 3, 9, 6, 5, 7, make=full)
    weights = jnp.array([1.0, -1.0, 0.3])
    more = {"clamp": 0.05, **options}
    columns = jnp.minimum(jnp.arange(9, dtype=jnp.int32), 2)

    def cost(encoder, predictor, *rest):
        own = {"columns": columns, **more} if "width" in more else more
        return jax_rnnt.rnnt_loss_from_joint(encoder, predictor, *joint[2:], *rest, **own)

    def total(arrays, mapped):
        costs = mapped(*arrays, *lattice)
        return (weights * costs).sum()

    each = lambda *arrays: jnp.stack([cost(*(x[n] for x in arrays)) for n in range(3)])  # noqa: E731
    arrays = tuple(map(jnp.asarray, joint[:2]))
    found, wanted = (jax.grad(total)(arrays, way) for way in (jax.vmap(cost), each))
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_second_derivatives_of_a_clamped_reference(rng):
    """The gradient's own derivative, by differences of the gradient."""
    joint, *lattice = make_problem(rng, 1, 4, 3, 3, 4, make=full)
    along = rng.standard_normal(joint.bias.shape).astype(np.float32)

    def slope(bias):
        def cost(bias):
            own = {"clamp": 0.1, "implementation": "reference", "reduction": "sum"}
            return jax_rnnt.rnnt_loss_from_joint(*joint[:3], bias, *lattice, **own)

        return (jax.grad(cost)(bias) * along).sum()

    found = (jax.grad(slope)(jnp.asarray(joint.bias)) * along).sum()
    step = 1e-2 * along
    difference = (slope(joint.bias + step) - slope(joint.bias - step)) / 2e-2
    assert abs(found) > 1e-3
    np.testing.assert_allclose(found, difference, rtol=3e-2)


def test_durations_alone_have_gradients_wherever_they_are_asked_for(rng):
    joint, *lattice = make_problem(rng, 2, 9, 6, 5, 7 + 2)
    lattice[0] = lattice[0] % 7

    def total(kernel, least):
        rows = jax_rnnt.pick_rows_from_joint(
            *joint[:2], kernel, joint.bias, *lattice, durations=2, min_posterior=least
        )
        return jnp.where(rows.durations > -jnp.inf, rows.durations, 0)[..., 0].sum()

    every, default = (jax.grad(total)(jnp.asarray(joint.kernel), x) for x in (0.0, None))
    assert jnp.abs(default).max() > 1
    np.testing.assert_allclose(every, default, atol=1e-3)


def test_numpy_keys_are_keys(rng):
    joint, *lattice = make_problem(rng, 1, 3, 3, 2, 3)
    own, other = (
        jax_rnnt.rnnt_loss_from_joint(*joint, *lattice, dropout_rate=0.5, dropout_key=k)
        for k in (jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3)))
    )
    assert_same_bits(own, other)
