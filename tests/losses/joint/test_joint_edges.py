"""Numbers that are not finite, padding and sequences that make no sense, in the joint's loss."""

import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import (
    GRADIENT_ERRORS,
    IMPLEMENTATIONS,
    Joint,
    Problem,
    Result,
    assert_close,
    evaluate,
    expected,
    make_problem,
)
from support import full
from tolerances import assert_costs, relative_error


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
