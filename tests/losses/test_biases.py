"""Biases of arcs: gradients that are posteriors, from logits and from a joint."""

import functools

import alignments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    ANY_LOSSES,
    DEFAULT_LOSS,
    Loss,
    Problem,
    cells_of,
    evaluate,
    every_lattice,
    for_loss,
    full,
    precision,
)
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

every_loss = pytest.mark.parametrize("loss", ANY_LOSSES, ids=str)
every_type = pytest.mark.parametrize("rnnt_type", list(alignments.TYPES))


def _answer(loss: Loss, problem: Problem, rnnt_type: str, **options) -> alignments.Answer:
    moves = alignments.TYPES[rnnt_type]
    return alignments.answer(problem, moves, from_logits=loss.from_logits, **options)


@functools.cache
def _bias_gradients(rnnt_type: str, implementation: str | None):
    """Jitted gradients of the summed costs with respect to both biases."""

    @jax.jit
    def run(problem, label_bias, blank_bias):
        def total(biases):
            return jax_rnnt.rnnt_loss_from_logits(
                *problem,
                rnnt_type=rnnt_type,
                label_bias=biases[0],
                blank_bias=biases[1],
                implementation=implementation,
                fastemit_lambda=0.5,
                reduction="sum",
            )

        return jax.grad(total)((label_bias, blank_bias))

    return run


@every_type
@pytest.mark.parametrize("implementation", [None, "reference"])
def test_minus_the_gradient_of_a_bias_is_the_posterior(rnnt_type, implementation, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    biases = rng.standard_normal((2, 16, 4, 4)).astype(np.float32)
    gradients = _bias_gradients(rnnt_type, implementation)(problem, *biases)
    expected = _answer(DEFAULT_LOSS, problem, rnnt_type, label_bias=biases[0], blank_bias=biases[1])
    assert_gradients(-gradients[0], expected.label)
    assert_gradients(-gradients[1], expected.blank)


@pytest.mark.parametrize("shapes", [((), (4,)), ((4, 1), (16, 1, 1)), ((1, 1, 1), (16, 1, 4))])
def test_a_bias_broadcasts_and_its_gradient_is_its_own(shapes, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    biases = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    gradients = _bias_gradients("modified", None)(problem, *biases)
    expected = _answer(
        DEFAULT_LOSS, problem, "modified", label_bias=biases[0], blank_bias=biases[1]
    )
    for gradient, posterior, shape in zip(gradients, (expected.label, expected.blank), shapes):
        assert gradient.shape == shape
        padded = (1,) * (3 - len(shape)) + shape
        axes = tuple(axis for axis, size in enumerate(padded) if size == 1)
        total = posterior.sum(axes, keepdims=True).reshape(shape)
        assert_gradients(-gradient, total, scale=16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_a_bias_has_a_dtype_of_its_own(dtype, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    with precision(dtype):
        bias = jnp.asarray(rng.standard_normal((16, 4, 4)).astype(jnp.dtype(dtype)))
        gradient, _ = _bias_gradients("regular", None)(problem, bias, np.float32(0))
        assert gradient.dtype == bias.dtype
        bias = np.asarray(bias, np.float64)
    expected = _answer(DEFAULT_LOSS, problem, "regular", label_bias=bias)
    assert_gradients(-np.asarray(gradient, np.float64), expected.label, "bfloat16")


@every_type
@pytest.mark.parametrize("implementation", [None, "reference"])
def test_posteriors_come_from_a_joint_too(rnnt_type, implementation, rng):
    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    joint = normal(3, 5, 6), normal(3, 4, 6), normal(6, 5), normal(5)
    labels, frames, lengths = rng.integers(1, 5, (3, 3)), np.array([5, 3, 4]), np.array([3, 2, 0])
    biases = normal(3, 5, 4), normal(3, 5, 4)

    def cost(joint, biases):
        return jax_rnnt.rnnt_loss_from_joint(
            *joint,
            labels,
            frames,
            lengths,
            rnnt_type=rnnt_type,
            label_bias=biases[0],
            blank_bias=biases[1],
            implementation=implementation,
            reduction="sum",
        )

    with jax.default_matmul_precision("highest"):
        value, (gradients, posteriors) = jax.jit(jax.value_and_grad(cost, (0, 1)))(joint, biases)
    wide = [np.asarray(x, np.float64) for x in joint]
    hidden = np.tanh(wide[0][:, :, None] + wide[1][:, None])
    problem = Problem(hidden @ wide[2] + wide[3], labels, frames, lengths)
    expected = _answer(DEFAULT_LOSS, problem, rnnt_type, label_bias=biases[0], blank_bias=biases[1])
    assert_costs(value, expected.costs.sum())
    np.testing.assert_allclose(-posteriors[0], expected.label, atol=1e-5)
    np.testing.assert_allclose(-posteriors[1], expected.blank, atol=1e-5)
    np.testing.assert_allclose(gradients[3], expected.gradients.sum((0, 1, 2)), atol=2e-5)


@every_loss
def test_a_bias_of_minus_infinity_forbids(loss, rng):
    """Some sequences have no way left; a label of theirs is forbidden at every frame."""
    problem = for_loss(loss, every_lattice(rng))
    label_bias = np.where(rng.random((16, 4, 4)) < 0.4, -np.inf, 0)
    blank_bias = np.where(rng.random((16, 4, 4)) < 0.1, -np.inf, 0)
    biases = dict(label_bias=label_bias, blank_bias=blank_bias)
    own = {name: cells_of(loss, problem, x.astype(np.float32)) for name, x in biases.items()}
    options = dict(average_frames=True, fastemit_lambda=np.float32(0.5), blank=-1)
    actual = evaluate(loss, problem, rnnt_type="modified", **own, **options)
    expected = _answer(loss, problem, "modified", **biases, **options)
    assert 3 < np.isinf(expected.costs).sum() < 13
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, scale=2)


def _with_bias(problem: Problem, bias, rnnt_type="modified"):
    return evaluate(DEFAULT_LOSS, problem, rnnt_type=rnnt_type, label_bias=bias.copy())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_senseless_biases_spoil_their_sequence_alone_and_only_where_there_is_an_arc(value, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    plain = np.zeros((16, 4, 4), np.float32)
    untouched = _with_bias(problem, plain)
    frame, column = np.arange(4)[:, None], np.arange(4)
    legal = (frame < problem.frames_lengths[:, None, None]) & (
        column < problem.labels_lengths[:, None, None]
    )
    outside = _with_bias(problem, np.where(legal, plain, np.float32(value)))
    assert_same_bits(outside.costs, untouched.costs)
    assert_same_bits(outside.gradients, untouched.gradients)
    for n, t, u in np.argwhere(legal)[::7]:
        bias = plain.copy()
        bias[n, t, u] = value
        actual = _with_bias(problem, bias)
        others = np.arange(16) != n
        assert np.isnan(actual.costs[n])
        assert not actual.gradients[n].any()
        assert_same_bits(actual.costs[others], untouched.costs[others])
        assert_same_bits(actual.gradients[others], untouched.gradients[others])


@pytest.mark.parametrize("rnnt_type", ["modified", "constrained"])
def test_as_many_labels_as_frames_leave_one_alignment(rnnt_type, rng):
    problem = full(rng, (), 3, 4, 5)
    posterior = -_bias_gradients(rnnt_type, None)(
        problem, np.zeros((3, 4), np.float32), np.float32(0)
    )[0]
    np.testing.assert_allclose(posterior, np.eye(3, 4), atol=1e-6)


@every_type
def test_every_frame_is_left_and_every_label_written_once(rnnt_type, rng):
    """At a size that is not enumerated, from both biases' gradients."""
    problem = full(rng, (2,), 150, 40, 12)
    zeros = np.zeros((2, 150, 40), np.float32)
    label, blank = (
        -np.asarray(g, np.float64) for g in _bias_gradients(rnnt_type, None)(problem, zeros, zeros)
    )
    frames = blank.sum(-1) if rnnt_type != "modified" else (blank + label).sum(-1)
    np.testing.assert_allclose(frames, 1, atol=2e-5)
    np.testing.assert_allclose(label[..., :-1].sum(1), 1, atol=2e-5)
