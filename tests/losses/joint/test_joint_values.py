"""The loss of a joint network against materialised logits in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import (
    ACTIVATIONS,
    GRADIENT_ERRORS,
    IMPLEMENTATIONS,
    Joint,
    Result,
    assert_close,
    evaluate,
    expected,
    make_problem,
)
from support import PLATFORM, full, needs_native, precision, ragged
from tolerances import assert_costs, assert_same_bits, relative_error

import jax_rnnt
from jax_rnnt.rows import joint_entries, joint_grid

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


HALF_DTYPES = ["bfloat16", "float16"]
# Tiles whole, cut and mixed; H and V around what the kernels take at a time.
HALF_SHAPES = [
    (3, 16, 8, 64, 28),
    (2, 17, 9, 72, 257),
    (3, 40, 21, 100, 300),
    (1, 5, 3, 101, 31),
    (2, 33, 12, 640, 40),
    (2, 20, 12, 800, 520),
]


def _every_pair_on_a_gpu(first, second):
    """Where there are kernels for each pair; in plain JAX, slow to compile, each in some pair."""
    for i, a in enumerate(first):
        for b in second if PLATFORM == "cuda" else second[i % len(second) :][:1]:
            yield a, b


@pytest.mark.parametrize(
    ("shape", "dtype"), list(_every_pair_on_a_gpu(HALF_SHAPES, HALF_DTYPES)), ids=str
)
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


@pytest.mark.parametrize(
    "activation",
    # All that the fused kernels know; elsewhere they are functions of float32, whatever the dtype.
    [name for name in ACTIVATIONS if not callable(name)] if PLATFORM == "cuda" else ["silu"],
)
def test_activations_in_half_precision(rng, activation):
    problem = make_problem(rng, 3, 20, 10, 40, 12)
    joint = problem.joint._replace(kernel=problem.joint.kernel / 6)
    problem = problem._replace(joint=Joint(*(x.astype(jnp.bfloat16) for x in joint)))
    wanted = expected(problem, activation, rounded=jnp.bfloat16)
    actual = evaluate(problem, activation=activation, min_posterior=0.0)
    np.testing.assert_allclose(actual.costs, wanted.costs, rtol=5e-4)
    for name, gradient, other in zip(Joint._fields, actual.gradients, wanted.gradients):
        assert relative_error(gradient, other) < 2**-6, name


# Each by the tiles; materialised logits call the same functions.
OF_ACTIVATIONS = [*((name, None) for name in ACTIVATIONS), ("gelu", "reference")]
OF_ACTIVATIONS += [(jnp.sin, "reference")]


@pytest.mark.parametrize(
    ("activation", "implementation"), OF_ACTIVATIONS, ids=lambda a: getattr(a, "__name__", str(a))
)
def test_activations(rng, activation, implementation):
    problem = make_problem(rng, 3, 9, 6, 6, 7)
    options = {"activation": activation, "implementation": implementation}
    assert_close(evaluate(problem, **options), expected(problem, activation))


@pytest.mark.parametrize(
    ("dtype", "implementation"),
    [
        *((dtype, None) for dtype in GRADIENT_ERRORS),
        *((dtype, "reference") for dtype in ("float64", "bfloat16")),
    ],
)
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
    with jax.numpy_dtype_promotion("standard"):
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


def test_gradients_are_the_same_bits_every_time(rng):
    problem = make_problem(rng, 8, 40, 20, 16, 12)
    first = evaluate(problem, tile=(8, 4, 16))
    for _ in range(3):
        again = evaluate(problem, tile=(8, 4, 16))
        for a, b in zip(first.gradients, again.gradients):
            assert_same_bits(a, b)


@needs_native
@pytest.mark.parametrize("unit", [2, 3, 50])
def test_steps_of_several_units(rng, unit, monkeypatch):
    """The last steps of a list are smaller; of 3 x 9 x 2 tiles."""
    problem = make_problem(rng, 3, 17, 4, 6, 9)
    monkeypatch.setattr(
        joint_entries, "choose_tile", lambda *_: joint_grid.Tile(2, 2, 4 * unit, unit)
    )
    costs, vjp = jax.vjp(
        lambda joint: jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:]), problem.joint
    )
    (gradients,) = vjp(jnp.ones_like(costs))
    assert_close(Result(costs, gradients), expected(problem))


def test_native_insists():
    problem = make_problem(np.random.default_rng(0), 2, 9, 6, 5, 7)
    assert_close(evaluate(problem, implementation="native"), expected(problem))


def test_training_follows_materialised_logits(rng):
    """Two runs of gradient descent, step by step."""
    problem = make_problem(rng, 4, 24, 10, 8, 9)

    def materialised(joint):
        hidden = jnp.tanh(joint.encoder[:, :, None] + joint.predictor[:, None])
        logits = hidden @ joint.kernel + joint.bias[None, None, None]
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
