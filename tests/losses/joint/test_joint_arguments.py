"""Arguments that the joint's loss refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import IMPLEMENTATIONS, Joint, evaluate, expected, make_problem

import jax_rnnt


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
        ("activation", "swish", ValueError),
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


@pytest.mark.parametrize("name", Joint._fields)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_strict_promotion_refuses_dtypes_that_differ(rng, name, implementation):
    """As it refuses them of jnp.matmul."""
    problem = make_problem(rng, 1, 3, 2, 2, 3)
    half = getattr(problem.joint, name).astype(jnp.bfloat16)
    joint = problem.joint._replace(**{name: half})
    error = pytest.raises(ValueError, match="no available implicit dtype promotion path")
    with jax.numpy_dtype_promotion("strict"), error:
        jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], implementation=implementation)
