"""The joint network and the loss in one against materialised logits in float64."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support import collectives, full, needs_native, precision, ragged
from tolerances import assert_costs, assert_same_bits, relative_error

import jax_rnnt
from jax_rnnt.rows import joint_fused

IMPLEMENTATIONS = [None, "reference"]
# Norm over norm, of each of the four gradients. Half dtypes: the tiles' logits and activations are
# rounded, as a materialised joint's are.
GRADIENT_ERRORS = {"float64": 2e-12, "float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
COST_ERRORS = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 1e-2}


@pytest.fixture(autouse=True)
def whole_precision():
    """A GPU's products of float32 are of tf32 by default."""
    with jax.default_matmul_precision("highest"):
        yield


class Joint(NamedTuple):
    encoder: np.ndarray
    predictor: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray | None


class Problem(NamedTuple):
    """Everything that rnnt_loss_from_joint takes."""

    joint: Joint
    labels: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray


class Result(NamedTuple):
    costs: np.ndarray
    gradients: Joint


def make_problem(rng, N, T, U, H, V, make=ragged, dtype="float32") -> Problem:
    lattice = make(rng, (N,), T, U, V)

    def normal(*shape):
        return rng.standard_normal(shape).astype(jnp.dtype(dtype))

    joint = Joint(normal(N, T, H), normal(N, U, H), normal(H, V), normal(V))
    return Problem(joint, *lattice[1:])


_TANH_OF = {
    "gelu": lambda z: np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)),
    "silu": lambda z: np.tanh(z / 2),
}
# Each with its derivative.
ACTIVATIONS = {
    None: (lambda z: z, np.ones_like),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "silu": (
        lambda z: z * (1 + _TANH_OF["silu"](z)) / 2,
        lambda z: (1 + _TANH_OF["silu"](z)) / 2 + z * (1 - _TANH_OF["silu"](z) ** 2) / 4,
    ),
    "gelu": (
        lambda z: z * (1 + _TANH_OF["gelu"](z)) / 2,
        lambda z: (
            (1 + _TANH_OF["gelu"](z)) / 2
            + z
            * (1 - _TANH_OF["gelu"](z) ** 2)
            * math.sqrt(2 / math.pi)
            * (1 + 3 * 0.044715 * z**2)
            / 2
        ),
    ),
    jnp.sin: (np.sin, np.cos),
}


def expected(problem: Problem, activation="tanh", rounded=np.float64, **options) -> Result:
    """By materialised logits in float64 and the chain rule; `rounded`: what activations are in."""
    joint = Joint(*(None if x is None else np.asarray(x, np.float64) for x in problem.joint))
    function, derivative = ACTIVATIONS[activation]
    sums = joint.encoder[:, :, None] + joint.predictor[:, None]
    hidden = function(sums).astype(rounded).astype(np.float64)
    bias = np.zeros(joint.kernel.shape[1]) if joint.bias is None else joint.bias
    costs, logits = oracle.loss(
        hidden @ joint.kernel + bias, *problem[1:], from_logits=True, **options
    )
    back = (logits @ joint.kernel.T) * derivative(sums)
    return Result(
        costs,
        Joint(
            back.sum(2),
            back.sum(1),
            np.einsum("ntuh,ntuv->hv", hidden, logits),
            None if joint.bias is None else logits.sum((0, 1, 2)),
        ),
    )


@functools.cache
def compiled(options: tuple):
    """Costs and the gradients of their sum weighted by cotangents, jitted."""

    @jax.jit
    def run(problem, cotangents, traced):
        def costs(joint):
            return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], **dict(options), **traced)

        value, vjp = jax.vjp(costs, problem.joint)
        return value, *vjp(cotangents)

    return run


def evaluate(problem: Problem, cotangents=None, traced=None, **options) -> Result:
    if cotangents is None:
        cotangents = np.ones(problem.frames_lengths.shape)
    wide = problem.joint.encoder.dtype == np.float64
    cotangents = np.asarray(cotangents, np.float64 if wide else np.float32)
    costs, gradients = compiled(tuple(options.items()))(problem, cotangents, traced or {})
    return Result(np.asarray(costs), Joint(*gradients))


def assert_close(actual: Result, wanted: Result, dtype="float32") -> None:
    np.testing.assert_allclose(
        np.asarray(actual.costs, np.float64), wanted.costs, rtol=COST_ERRORS[dtype]
    )
    for name, gradient, other in zip(Joint._fields, actual.gradients, wanted.gradients):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            assert gradient.dtype == dtype, name
            assert relative_error(gradient, other) < GRADIENT_ERRORS[dtype], name


# Tile edges: sizes below, at and just above multiples of the default 16 x 8 and of those given.
SHAPES = [
    (1, 1, 1, 1, 2, None),
    (1, 5, 1, 3, 4, None),
    (3, 16, 8, 4, 5, None),
    (3, 17, 9, 4, 5, None),
    (2, 33, 25, 6, 30, None),
    (5, 7, 5, 6, 9, (4, 4, 3)),
    (3, 8, 4, 6, 9, (4, 4, 1)),
    (3, 9, 3, 6, 9, (1, 1, 7)),
    (2, 5, 4, 6, 9, (50, 50, 50)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", [ragged, full])
def test_values_and_gradients(rng, shape, make):
    *sizes, tile = shape
    problem = make_problem(rng, *sizes, make=make)
    assert_close(evaluate(problem, tile=tile), expected(problem))


# Tiles whole, cut and mixed; H and V around what the kernels take at a time.
HALF_SHAPES = [
    (3, 16, 8, 64, 28),
    (2, 17, 9, 72, 257),
    (3, 40, 21, 100, 300),
    (1, 5, 3, 101, 31),
    (2, 33, 12, 640, 40),
    (2, 20, 12, 800, 520),
]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", HALF_SHAPES, ids=str)
def test_half_dtypes_at_many_sizes(rng, shape, dtype):
    problem = make_problem(rng, *shape)
    encoder, predictor, kernel, bias = problem.joint
    joint = Joint(encoder, predictor, 2 * kernel / math.sqrt(kernel.shape[0]), bias)
    problem = problem._replace(joint=Joint(*(x.astype(dtype) for x in joint)))
    wanted = expected(problem, rounded=dtype)
    actual = evaluate(problem, min_posterior=0.0)
    np.testing.assert_allclose(actual.costs, wanted.costs, rtol=1e-4)
    for name, gradient, other in zip(Joint._fields, actual.gradients, wanted.gradients):
        assert relative_error(gradient, other) < 2 * float(jnp.finfo(dtype).eps), name


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if not callable(name)])
def test_activations_in_half_precision(rng, activation):
    problem = make_problem(rng, 3, 20, 10, 40, 12)
    joint = problem.joint._replace(kernel=problem.joint.kernel / 6)
    problem = problem._replace(joint=Joint(*(x.astype(jnp.bfloat16) for x in joint)))
    wanted = expected(problem, activation, rounded=jnp.bfloat16)
    actual = evaluate(problem, activation=activation, min_posterior=0.0)
    np.testing.assert_allclose(actual.costs, wanted.costs, rtol=5e-4)
    for name, gradient, other in zip(Joint._fields, actual.gradients, wanted.gradients):
        assert relative_error(gradient, other) < 2**-6, name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: getattr(a, "__name__", str(a)))
def test_activations(rng, activation, implementation):
    problem = make_problem(rng, 3, 9, 6, 6, 7)
    options = {"activation": activation, "implementation": implementation}
    assert_close(evaluate(problem, **options), expected(problem, activation))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", GRADIENT_ERRORS)
def test_dtypes(rng, dtype, implementation):
    with precision(dtype):
        problem = make_problem(rng, 3, 20, 10, 16, 12, dtype=dtype)
        actual = evaluate(problem, implementation=implementation, tile=(8, 4, 3))
        assert actual.costs.dtype == ("float64" if dtype == "float64" else "float32")
        assert_close(actual, expected(problem), dtype)


def test_mixed_dtypes_are_promoted_and_gradients_are_each_arrays_own(rng):
    problem = make_problem(rng, 3, 20, 10, 16, 12)
    half = [x.astype(jnp.bfloat16) for x in problem.joint[:2]]
    problem = problem._replace(joint=Joint(*half, *problem.joint[2:]))
    actual, wanted = evaluate(problem), expected(problem)
    assert_costs(actual.costs, wanted.costs)
    dtypes = [x.dtype.name for x in actual.gradients]
    assert dtypes == ["bfloat16", "bfloat16", "float32", "float32"]
    for gradient, other in zip(actual.gradients[2:], wanted.gradients[2:]):
        assert relative_error(gradient, other) < GRADIENT_ERRORS["float32"]


def test_without_bias(rng):
    problem = make_problem(rng, 3, 9, 6, 6, 7)
    problem = problem._replace(joint=problem.joint._replace(bias=None))
    assert_close(evaluate(problem), expected(problem))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_options_of_the_loss(rng, implementation):
    problem = make_problem(rng, 4, 9, 6, 6, 7)
    cotangents = rng.standard_normal(4)
    options = {"average_frames": True, "blank": -2, "implementation": implementation}
    traced = {"fastemit_lambda": jnp.float32(0.3)}
    wanted = expected(
        problem, blank=5, average_frames=True, fastemit_lambda=0.3, cotangents=cotangents
    )
    assert_close(evaluate(problem, cotangents, traced, **options), wanted)


@pytest.mark.parametrize(("reduction", "weight"), [("sum", 1), ("mean", 1 / 4)])
def test_reductions(rng, reduction, weight):
    problem = make_problem(rng, 4, 9, 6, 6, 7)
    wanted = expected(problem, cotangents=np.full(4, weight))
    actual = evaluate(problem, np.ones(()), reduction=reduction)
    assert_close(actual, wanted._replace(costs=wanted.costs.sum() * weight))


def test_eager_calls_and_batches_of_any_rank(rng):
    problem = make_problem(rng, 6, 5, 4, 3, 4)
    wanted = expected(problem).costs
    kernel, bias = problem.joint[2:]

    def cost(*arrays):
        encoder, predictor, *rest = arrays
        return jax_rnnt.rnnt_loss_from_joint(encoder, predictor, kernel, bias, *rest)

    batched = [*problem.joint[:2], *problem[1:]]
    assert_costs(cost(*(x[0] for x in batched)), wanted[0])
    folded = [x.reshape(2, 3, *x.shape[1:]) for x in batched]
    assert_costs(cost(*folded), wanted.reshape(2, 3))


def test_no_sequences():
    problem = make_problem(np.random.default_rng(0), 0, 4, 3, 2, 5)
    costs, gradients = evaluate(problem)
    assert costs.shape == (0,)
    assert not gradients.kernel.any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding_has_no_effect_and_no_gradient(rng, implementation):
    problem = make_problem(rng, 4, 18, 10, 5, 7)
    frames, labels = problem.frames_lengths, problem.labels_lengths
    beyond_frames = np.arange(18) >= frames[:, None]
    beyond_labels = np.arange(10) > labels[:, None]
    encoder, predictor = problem.joint.encoder.copy(), problem.joint.predictor.copy()
    encoder[beyond_frames], predictor[beyond_labels] = np.nan, np.inf
    wild = np.where(np.arange(9) >= labels[:, None], -(2**31), problem.labels)
    poisoned = Problem(
        Joint(encoder, predictor, *problem.joint[2:]), wild.astype(np.int32), frames, labels
    )
    actual = evaluate(poisoned, implementation=implementation)
    assert_close(actual, expected(problem))
    assert not np.asarray(actual.gradients.encoder)[beyond_frames].any()
    assert not np.asarray(actual.gradients.predictor)[beyond_labels].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_sequence_that_makes_no_sense_leaves_the_others_alone(rng, implementation):
    problem = make_problem(rng, 6, 9, 6, 5, 7, make=full)
    problem.frames_lengths[1] = 0
    problem.frames_lengths[2] = 10
    problem.labels_lengths[3] = -1
    problem.labels[4, 0] = 7
    problem.joint.encoder[5, 3] = np.nan
    actual = evaluate(problem, implementation=implementation)
    assert np.isnan(actual.costs[1:]).all()
    alone = Problem(
        Joint(*(x[:1] for x in problem.joint[:2]), *problem.joint[2:]),
        *(x[:1] for x in problem[1:]),
    )
    wanted = expected(alone)
    assert_costs(actual.costs[0], wanted.costs[0])
    assert not np.asarray(actual.gradients.encoder)[1:].any()
    assert not np.asarray(actual.gradients.predictor)[1:].any()
    sums = actual.gradients._replace(
        encoder=actual.gradients.encoder[:1], predictor=actual.gradients.predictor[:1]
    )
    assert_close(Result(actual.costs[:1], sums), wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "value"), [("float32", np.inf), ("float16", 6e4)])
def test_activations_that_overflow_leave_the_others_alone(rng, implementation, dtype, value):
    problem = make_problem(rng, 2, 9, 6, 5, 7, make=full, dtype=dtype)
    problem.joint.encoder[1, 3] = value
    problem.joint.predictor[1, :, 0] = 6e4
    options = {"activation": "relu", "implementation": implementation}
    actual = evaluate(problem, np.array([1.0, 1.0]), **options)
    alone = evaluate(problem, np.array([1.0, 0.0]), **options)
    assert np.isnan(actual.costs[1])
    assert actual.costs[0] == alone.costs[0]
    for gradient, wanted in zip(actual.gradients, alone.gradients, strict=True):
        assert relative_error(gradient, np.float64(wanted)) < GRADIENT_ERRORS[dtype]


@pytest.mark.parametrize("tile", [(2**40, 1, 1), (1, 2**40, 1), (2**70,) * 3])
def test_tiles_wider_than_the_lattice(rng, tile):
    problem = make_problem(rng, 2, 9, 6, 5, 7, make=full)
    assert_close(evaluate(problem, tile=tile), expected(problem))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_cotangents_that_are_not_finite_stay_with_their_sequence(rng, implementation):
    problem = make_problem(rng, 3, 20, 10, 5, 7, make=full)
    wanted = expected(problem)
    for cotangent in (np.nan, np.inf):
        gradients = evaluate(
            problem, np.array([1, cotangent, 1]), implementation=implementation
        ).gradients
        for gradient, other in zip(gradients[:2], wanted.gradients[:2]):
            others = np.asarray(gradient)[[0, 2]]
            assert relative_error(others, other[[0, 2]]) < GRADIENT_ERRORS["float32"]
        assert not np.isfinite(gradients.kernel).all()


def test_an_infinite_loss_scale_is_not_lost(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7, make=full)
    gradients = evaluate(problem, np.array([np.inf, 1]), min_posterior=0.1).gradients
    assert not np.isfinite(gradients.encoder[0]).all()


def _steep(x):
    """The square root with its sign: no derivative at zero."""
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))


def test_activations_without_a_derivative_at_zero(rng):
    problem = make_problem(rng, 2, 17, 9, 5, 7)
    actual = evaluate(problem, activation=_steep)
    reference = evaluate(problem, activation=_steep, implementation="reference")
    wanted = Joint(*(np.asarray(x, np.float64) for x in reference.gradients))
    assert_close(actual, Result(reference.costs, wanted))


def test_impossible_alignments_cost_inf_and_have_no_gradient(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7, make=full)
    problem.joint.bias[0] = -np.inf
    costs, gradients = evaluate(problem)
    assert np.isposinf(costs).all()
    assert all(not np.asarray(g).any() for g in gradients)


def confident(rng, N, T, U, H, V, strength=4.0) -> Problem:
    """Alignments near one path: units count frames up and labels down, so blank wins below it."""
    problem = make_problem(rng, N, T, U, H, V, make=full)
    place = np.arange(T)[:, None] / T - 0.5
    column = np.arange(U)[:, None] / (U - 1) - 0.5
    encoder = np.array(np.broadcast_to(-place * 16, (N, T, H)), np.float32)
    predictor = np.array(np.broadcast_to(column * 16, (N, U, H)), np.float32)
    encoder += 0.01 * rng.standard_normal(encoder.shape)
    kernel = np.full((H, V), -strength / H, np.float32)
    kernel[:, 0] = strength / H
    kernel += 0.01 * rng.standard_normal(kernel.shape)
    return problem._replace(joint=Joint(encoder, predictor, kernel, np.zeros(V, np.float32)))


@pytest.mark.parametrize("activation", ["tanh", "relu", None])
@pytest.mark.parametrize("make", [functools.partial(make_problem, make=full), confident])
def test_what_the_default_leaves_out_is_within_its_bound(rng, make, activation):
    """Of every block of frames and of labels, by the bounds that the docstring derives."""
    T, U, size = 64, 40, 4
    problem = make(rng, 2, T, U, 8, 6)
    every, some = (
        evaluate(problem, activation=activation, min_posterior=x, tile=(size, size, 64)).gradients
        for x in (0.0, None)
    )
    joint = Joint(*(np.asarray(x, np.float64) for x in problem.joint))
    function, derivative = ACTIVATIONS[activation]
    sums = joint.encoder[:, :, None] + joint.predictor[:, None]
    logits = function(sums) @ joint.kernel + joint.bias
    norms = np.abs(oracle.loss(logits, *problem[1:], from_logits=True).gradients).sum(-1)
    steepest = np.abs(derivative(sums)).max() * np.abs(joint.kernel).max()
    off = Joint(*(np.abs(a - np.asarray(b, np.float64)) for a, b in zip(some, every)))
    part = 1e-6 + 3e-7  # and rounding

    def of_blocks(x):
        return x.reshape(2, -1, size, *x.shape[2:]).sum(2)

    of_frames, of_labels = of_blocks(norms.sum(2)), of_blocks(norms.sum(1))
    assert (of_blocks(off.encoder) < part * steepest * of_frames[..., None]).all()
    assert (of_blocks(off.predictor) < part * steepest * of_labels[..., None]).all()
    assert off.kernel.sum(1).max() < part * np.abs(function(sums)).max() * norms.sum()
    assert off.bias.sum() < part * norms.sum()
    # Something was left out, or this would see nothing.
    assert max(x.max() for x in off) > 1e-9


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2**-8)])
def test_what_the_default_leaves_out_of_random_joints(rng, dtype, bound):
    problem = make_problem(rng, 2, 64, 40, 8, 6, make=full)
    problem = problem._replace(joint=Joint(*(x.astype(dtype) for x in problem.joint)))
    every = evaluate(problem, min_posterior=0.0, tile=(4, 4, 64)).gradients
    for a, b in zip(evaluate(problem, tile=(4, 4, 64)).gradients, every, strict=True):
        assert 0 < relative_error(a, np.asarray(b, np.float64)) < bound


@pytest.mark.parametrize("shape", [(2, 40, 20, 16, 40), (2, 33, 17, 24, 300)], ids=str)
def test_confident_models_in_half_precision(rng, shape):
    """What is left of a gradient near 1 - 1 is right only if logits are the same twice."""
    problem = confident(rng, *shape, strength=16.0)
    half = Joint(*(x.astype(jnp.bfloat16) for x in problem.joint))
    problem = problem._replace(joint=half)
    wanted = expected(problem, rounded=jnp.bfloat16)
    actual = evaluate(problem)
    np.testing.assert_allclose(actual.costs, wanted.costs, rtol=1e-4)
    # Through a kernel of nearly equal columns, encoder and predictor see the logits' gradient less
    # its mean: a twentieth of it.
    bounds = Joint(0.2, 0.2, 2e-2, 2e-2)
    for name, gradient, other in zip(Joint._fields, actual.gradients, wanted.gradients):
        assert relative_error(gradient, other) < getattr(bounds, name), name


def test_min_posterior_of_zero_visits_every_cell(rng):
    problem = make_problem(rng, 2, 33, 20, 6, 7)
    assert_close(evaluate(problem, min_posterior=0.0, tile=(4, 4, 3)), expected(problem))


def test_a_high_min_posterior_leaves_out_all_but_the_surest_tiles(rng):
    """The first and the last cell of a lattice are on every alignment."""
    problem = make_problem(rng, 1, 12, 9, 6, 7, make=full)
    gradients = evaluate(problem, min_posterior=0.999, tile=(1, 1, 5)).gradients
    visited = np.asarray(gradients.encoder).any(-1)[0]
    assert visited[[0, -1]].all()
    assert visited.sum() < 12


def test_min_posterior_does_not_depend_on_the_scale_of_the_loss(rng):
    problem = make_problem(rng, 2, 33, 20, 6, 7)
    options = {"min_posterior": 1e-2, "tile": (4, 4, 3)}
    one = evaluate(problem, np.full(2, 1.0), **options).gradients
    tiny = evaluate(problem, np.full(2, 2.0**-20), **options).gradients
    for a, b in zip(one, tiny):
        np.testing.assert_allclose(np.asarray(b) * 2.0**20, a, rtol=1e-5, atol=1e-6)


def test_gradients_are_the_same_bits_every_time(rng):
    problem = make_problem(rng, 8, 40, 20, 16, 12)
    first = evaluate(problem, tile=(8, 4, 16))
    for _ in range(3):
        again = evaluate(problem, tile=(8, 4, 16))
        for a, b in zip(first.gradients, again.gradients):
            assert_same_bits(a, b)


def _cost(encoder, predictor, kernel, bias, *rest):
    return jax_rnnt.rnnt_loss_from_joint(encoder, predictor, kernel, bias, *rest, tile=(2, 2, 3))


def _flat(problem: Problem) -> list:
    return [*problem.joint, *problem[1:]]


def _value_and_gradients(*arguments, cost=_cost):
    costs, vjp = jax.vjp(lambda *joint: cost(*joint, *arguments[4:]), *arguments[:4])
    return costs, vjp(jnp.ones_like(costs))


def test_vmap_over_the_batch(rng):
    problem = make_problem(rng, 5, 9, 6, 5, 7)

    def total(*joint):
        mapped = jax.vmap(_cost, (0, 0, None, None, 0, 0, 0))
        costs = mapped(*joint, *problem[1:])
        return costs.sum(), costs

    gradients, costs = jax.jit(jax.grad(total, range(4), has_aux=True))(*problem.joint)
    assert_close(Result(costs, Joint(*gradients)), expected(problem))


def test_vmap_of_gradients_is_each_sequences_own(rng):
    problem = make_problem(rng, 3, 9, 6, 5, 7)
    mapped = jax.vmap(_value_and_gradients, (0, 0, None, None, 0, 0, 0))
    costs, gradients = jax.jit(mapped)(*_flat(problem))
    for n in range(3):
        one = Problem(
            Joint(*(x[n : n + 1] for x in problem.joint[:2]), *problem.joint[2:]),
            *(x[n : n + 1] for x in problem[1:]),
        )
        own = Joint(*(g[n : n + 1] for g in gradients[:2]), *(g[n] for g in gradients[2:]))
        assert_close(Result(costs[n : n + 1], own), expected(one))


def test_vmap_over_kernels(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    kernels = rng.standard_normal((3, 5, 7), np.float32)
    mapped = jax.vmap(_value_and_gradients, (None, None, 0, None, None, None, None))
    arguments = _flat(problem)
    arguments[2] = kernels
    costs, gradients = jax.jit(mapped)(*arguments)
    for i, kernel in enumerate(kernels):
        own = problem._replace(joint=problem.joint._replace(kernel=kernel))
        assert_close(Result(costs[i], Joint(*(g[i] for g in gradients))), expected(own))


def test_nested_vmap_and_scan_and_checkpoint(rng):
    problem = make_problem(rng, 4, 6, 4, 3, 5)
    wanted = expected(problem)
    batched = [problem.joint.encoder, problem.joint.predictor, *problem[1:]]
    folded = [x.reshape(2, 2, *x.shape[1:]) for x in batched]

    def total(joint, body):
        def one(encoder, predictor, *rest):
            return _cost(encoder, predictor, *joint[2:], *rest)

        arrays = [x.reshape(2, 2, *x.shape[1:]) for x in joint[:2]] + folded[2:]
        return body(one, arrays)

    def nested(one, arrays):
        return jax.vmap(jax.vmap(one))(*arrays).sum()

    def scanned(one, arrays):
        step = jax.checkpoint(lambda carry, x: (carry + one(*x).sum(), None))
        return jax.lax.scan(step, jnp.float32(0), tuple(arrays))[0]

    for body in (nested, scanned):
        value, gradients = jax.jit(jax.value_and_grad(functools.partial(total, body=body)))(
            problem.joint
        )
        assert_close(Result(value, gradients), wanted._replace(costs=wanted.costs.sum()))


def test_pmap(rng):
    count = min(4, jax.local_device_count())
    problem = make_problem(rng, count, 9, 6, 5, 7)
    run = jax.pmap(_value_and_gradients, in_axes=(0, 0, None, None, 0, 0, 0))
    costs, gradients = run(*_flat(problem))
    sums = [*gradients[:2], *(g.sum(0) for g in gradients[2:])]
    assert_close(Result(costs, Joint(*sums)), expected(problem))


needs_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")


@pytest.fixture(
    params=[(kind, axes) for kind in AxisType if kind.name != "Manual" for axes in (1, 2)]
)
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
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(_flat(problem), _specs(mesh))
    ]


@needs_devices
@pytest.mark.parametrize("ambient", [True, False])
def test_sharded_batch_moves_nothing_but_the_sums(mesh, ambient, rng):
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    arguments = _placed(problem, mesh)

    def check():
        forward = jax.jit(_cost).lower(*arguments).compile()
        assert not collectives(forward)
        both = jax.jit(_value_and_gradients).lower(*arguments).compile()
        assert collectives(both) == {"all-reduce"}
        costs, gradients = both(*arguments)
        assert costs.sharding.is_equivalent_to(arguments[4].sharding, 1)
        assert gradients[0].sharding.is_equivalent_to(arguments[0].sharding, 3)
        assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))

    if ambient:
        with jax.set_mesh(mesh):
            check()
    else:
        check()


@needs_devices
def test_shard_map(mesh, rng):
    problem = make_problem(rng, 16, 9, 6, 5, 7)
    arguments = _placed(problem, mesh)

    def total(*joint):
        def local(*local_arguments):
            costs = _cost(*local_arguments)
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
            return jax.lax.psum(_cost(*arguments).sum(), "data")

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
@pytest.mark.parametrize("sharded", ["encoder", "labels", "kernel", "bias", "none"])
def test_operands_that_are_spread_apart(mesh, sharded, rng):
    """One operand or none sharded, the others everywhere; the kernel as its optimiser may be."""
    problem = make_problem(rng, 16, 9, 6, 8, 8)
    names = [*Joint._fields, *Problem._fields[1:]]
    axis = mesh.axis_names[0]
    arguments = [
        jax.device_put(x, NamedSharding(mesh, P(axis) if name == sharded else P()))
        for name, x in zip(names, _flat(problem))
    ]
    with jax.set_mesh(mesh):
        costs, gradients = jax.jit(_value_and_gradients)(*arguments)
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
        costs = jax.vmap(_cost, (0, 0, None, None, 0, 0, 0))(*joint, *arguments[4:])
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
    mapped = jax.vmap(lambda e, p, *rest: _cost(e, p, kernel, bias, *rest), 1, 1)
    with jax.set_mesh(mesh):
        run = jax.jit(mapped).lower(*arguments).compile()
        assert not collectives(run)
        assert_costs(np.asarray(run(*arguments)).reshape(-1), expected(problem).costs)


@needs_devices
@pytest.mark.parametrize("way", ["Auto", "Explicit", "shard_map", "pmap"])
def test_half_dtypes_over_devices(way, rng):
    """With tiles of the default size, for which Hopper has kernels."""
    count, H, V = jax.device_count(), 16, 12
    problem = make_problem(rng, 2 * count, 20, 10, H, V, dtype="bfloat16")
    run = functools.partial(_value_and_gradients, cost=jax_rnnt.rnnt_loss_from_joint)
    if way == "pmap":
        batched = {0, 1, 4, 5, 6}
        arguments = [
            x.reshape(count, 2, *x.shape[1:]) if i in batched else x
            for i, x in enumerate(_flat(problem))
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
def test_batch_that_does_not_divide_by_the_devices(rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    problem = make_problem(rng, count + 2, 9, 6, 5, 7)

    @jax.jit
    def run(*arguments):
        return _value_and_gradients(
            *(
                jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
                for x, spec in zip(arguments, _specs(mesh))
            )
        )

    costs, gradients = run(*_flat(problem))
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_fused_kernels_are_called_where_they_run(rng, dtype):
    problem = make_problem(rng, 2, 20, 10, 16, 12)
    problem = problem._replace(joint=Joint(*(x.astype(dtype) for x in problem.joint)))

    def run(joint):
        return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], reduction="sum")

    lowered = jax.jit(jax.grad(run)).lower(problem.joint).as_text()
    fits = joint_fused.fits(16, 12, jnp.dtype(dtype), jnp.tanh)
    assert fits == (joint_fused._has_hopper() and dtype == "bfloat16")
    for name in ("pack", "forward", "gradients", "hidden"):
        assert (f"jax_rnnt_joint_{name}_cuda" in lowered) == fits


def test_memory_does_not_grow_with_frames_times_labels_times_symbols():
    def temporary(T, U, tile):
        shapes = [(4, T, 32), (4, U, 32), (32, 512), (512,)]
        joint = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        labels = jax.ShapeDtypeStruct((4, U - 1), jnp.int32)
        lengths = jax.ShapeDtypeStruct((4,), jnp.int32)

        def loss(*arguments):
            return jax_rnnt.rnnt_loss_from_joint(*arguments, reduction="mean", tile=tile)

        run = jax.jit(jax.value_and_grad(loss, range(4)))
        compiled_program = run.lower(*joint, labels, lengths, lengths).compile()
        return compiled_program.memory_analysis().temp_size_in_bytes

    cells = 4 * 160 * 80
    growth = temporary(160, 80, (16, 8, 4)) - temporary(80, 40, (16, 8, 4))
    # Per cell: arcs, normalisers, lattice values, cotangents and their tiles.
    assert growth < 3 / 4 * cells * 200
    assert temporary(400, 200, None) < 4 * 400 * 200 * 512 * 4 / 8


def test_second_derivatives_by_the_reference(rng):
    problem = make_problem(rng, 1, 4, 3, 2, 3)

    def loss(bias):
        joint = problem.joint._replace(bias=bias)
        return jax_rnnt.rnnt_loss_from_joint(
            *joint, *problem[1:], reduction="sum", implementation="reference"
        )

    hessian = np.asarray(jax.hessian(loss)(problem.joint.bias))
    step = 1e-2
    for i, direction in enumerate(np.eye(3, dtype=np.float32)):
        ahead, behind = (jax.grad(loss)(problem.joint.bias + s * direction) for s in (step, -step))
        np.testing.assert_allclose(hessian[i], (ahead - behind) / (2 * step), atol=2e-3)


def test_second_derivatives_of_the_walk_are_refused(rng):
    problem = make_problem(rng, 1, 4, 3, 2, 3)

    def loss(bias):
        joint = problem.joint._replace(bias=bias)
        return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], reduction="sum")

    with pytest.raises(NotImplementedError, match=r"implementation='reference'"):
        jax.hessian(loss)(problem.joint.bias)


@needs_native
def test_native_insists():
    problem = make_problem(np.random.default_rng(0), 2, 9, 6, 5, 7)
    assert_close(evaluate(problem, implementation="native"), expected(problem))


def test_training_follows_materialised_logits(rng):
    """Two runs of gradient descent, step by step."""
    problem = make_problem(rng, 4, 24, 10, 8, 9)

    def materialised(joint):
        hidden = jnp.tanh(joint.encoder[:, :, None] + joint.predictor[:, None])
        logits = hidden @ joint.kernel + joint.bias
        return jax_rnnt.rnnt_loss_from_logits(logits, *problem[1:], reduction="mean")

    def tiled(joint):
        return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], reduction="mean", tile=(4, 4, 9))

    def train(loss):
        @jax.jit
        def step(joint):
            value, gradients = jax.value_and_grad(loss)(joint)
            return jax.tree.map(lambda x, g: x - 0.05 * g, joint, gradients), value

        joint, values = Joint(*map(jnp.asarray, problem.joint)), []
        for _ in range(60):
            joint, value = step(joint)
            values.append(float(value))
        return values

    values, wanted = train(tiled), train(materialised)
    assert wanted[-1] < wanted[0] / 2
    np.testing.assert_allclose(values, wanted, rtol=1e-4)


def test_export(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    exported = jax.export.export(
        jax.jit(_value_and_gradients), disabled_checks=jax_rnnt.custom_call_checks()
    )(*_flat(problem))
    reloaded = jax.export.deserialize(exported.serialize())
    costs, gradients = reloaded.call(*_flat(problem))
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


def test_symbolic_sizes_are_refused_with_a_sentence(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    (N,) = jax.export.symbolic_shape("N")
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in _flat(problem)]
    for i in (0, 1, 4, 5, 6):
        arguments[i] = jax.ShapeDtypeStruct((N, *arguments[i].shape[1:]), arguments[i].dtype)
    with pytest.raises(NotImplementedError, match="symbolic"):
        jax.export.export(jax.jit(_cost))(*arguments)


class _Unhashable:
    __hash__ = None

    def __call__(self, x):
        return x


def test_activations_that_close_over_numbers(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    slope = 0.5
    actual = evaluate(problem, activation=lambda x: slope * x)
    halved = problem.joint._replace(kernel=problem.joint.kernel / 2)
    wanted = expected(problem._replace(joint=halved), None)
    np.testing.assert_allclose(actual.costs, wanted.costs, rtol=1e-5)


def test_activations_may_not_close_over_arrays(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)

    def loss(slope):
        return jax_rnnt.rnnt_loss_from_joint(
            *problem.joint, *problem[1:], activation=lambda x: slope * x, reduction="sum"
        )

    with pytest.raises(ValueError, match=r"^activation must not close over arrays"):
        loss(jnp.float32(0.5))
    with pytest.raises(ValueError, match=r"^activation must not close over arrays"):
        jax.grad(loss)(0.5)


def test_activations_must_be_hashable(rng):
    problem = make_problem(rng, 1, 3, 2, 2, 3)
    with pytest.raises(TypeError, match=r"^activation must be hashable"):
        jax_rnnt.rnnt_loss_from_joint(*problem.joint, *problem[1:], activation=_Unhashable())


_GOOD = {
    "encoder": np.zeros((2, 4, 3), np.float32),
    "predictor": np.zeros((2, 3, 3), np.float32),
    "kernel": np.zeros((3, 5), np.float32),
    "bias": np.zeros(5, np.float32),
    "labels": np.ones((2, 2), np.int32),
    "frames_lengths": np.full(2, 4, np.int32),
    "labels_lengths": np.full(2, 2, np.int32),
}


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("encoder", np.zeros((2, 4, 3), np.int32), TypeError),
        ("encoder", np.zeros(3, np.float32), ValueError),
        ("encoder", np.zeros((2, 0, 3), np.float32), ValueError),
        ("predictor", np.zeros((2, 3, 4), np.float32), ValueError),
        ("predictor", np.zeros((1, 3, 3), np.float32), ValueError),
        ("predictor", np.zeros((2, 0, 3), np.float32), ValueError),
        ("kernel", np.zeros((4, 5), np.float32), ValueError),
        ("kernel", np.zeros((3, 0), np.float32), ValueError),
        ("kernel", "no", TypeError),
        ("bias", np.zeros(4, np.float32), ValueError),
        ("labels", np.ones((2, 3), np.int32), ValueError),
        ("labels", np.full((2, 2), 5, np.int32), ValueError),
        ("frames_lengths", np.array([4, 5]), ValueError),
        ("labels_lengths", np.array([2, 3]), ValueError),
        ("activation", "sigmoid", ValueError),
        ("min_posterior", -0.1, ValueError),
        ("min_posterior", 1.0, ValueError),
        ("min_posterior", "low", TypeError),
        ("tile", (4, 4), ValueError),
        ("tile", (4, 0, 4), ValueError),
        ("tile", 16, ValueError),
        ("blank", 5, ValueError),
        ("reduction", "max", ValueError),
        ("implementation", "fast", ValueError),
    ],
)
def test_errors_name_the_argument(argument, value, error):
    with pytest.raises(error, match=f"^{argument}"):
        jax_rnnt.rnnt_loss_from_joint(**{**_GOOD, argument: value})
