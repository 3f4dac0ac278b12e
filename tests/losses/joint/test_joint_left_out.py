"""What the joint's backward leaves out is within its bounds."""

import functools

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from joint_problems import (
    ACTIVATIONS,
    Joint,
    assert_close,
    confident,
    evaluate,
    expected,
    make_problem,
)
from support import full
from tolerances import relative_error


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
