"""The biases that have a function of their own: windows around an alignment, delay penalties."""

import alignments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import DEFAULT_LOSS, Problem, evaluate, every_lattice, for_loss
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt


def _answer(problem: Problem, rnnt_type: str, **options) -> alignments.Answer:
    return alignments.answer(problem, alignments.TYPES[rnnt_type], **options)


def _window(label_frames, frames, left, right):
    """By a loop."""
    *batch, labels = label_frames.shape
    bias = np.full((*batch, frames, labels + 1), -np.inf)
    bias[..., -1] = 0
    for *n, u in np.ndindex(label_frames.shape):
        for t in range(frames):
            if label_frames[(*n, u)] - left <= t <= label_frames[(*n, u)] + right:
                bias[(*n, t, u)] = 0
    return bias


@pytest.mark.parametrize(("left", "right"), [(0, 0), (1, 2), (-1, 3), (2**31 - 1, 2**31 - 1)])
def test_a_window_is_open_around_the_labels_own_frames(left, right, rng):
    label_frames = rng.integers(-1, 6, (2, 3))
    label_frames[0, 0] = -(2**31)
    bias = jax_rnnt.alignment_window(label_frames, 5, left, right)
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, _window(label_frames, 5, left, right))
    traced = jax.jit(lambda *x: jax_rnnt.alignment_window(x[0], 5, *x[1:]))
    np.testing.assert_array_equal(traced(label_frames, left, right), bias)


@pytest.mark.parametrize("rnnt_type", list(alignments.TYPES))
def test_windows_restrict_the_alignments(rnnt_type, rng):
    """Forbidding the blanks of columns whose time has not come, or is over, changes nothing."""
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    label_frames = np.sort(rng.integers(0, 4, (16, 3)), -1)
    label_bias = np.asarray(jax_rnnt.alignment_window(label_frames, 4, 1, 1))
    options = dict(average_frames=True, blank=-1, fastemit_lambda=np.float32(0.5))
    actual = evaluate(
        DEFAULT_LOSS,
        problem,
        rnnt_type=rnnt_type,
        label_bias=label_bias,
        **options,
        blank_bias=np.zeros((16, 4, 4), np.float32),
    )
    expected = _answer(problem, rnnt_type, label_bias=label_bias, **options)
    assert np.isinf(expected.costs).any()
    assert np.isfinite(expected.costs).sum() > 6
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, scale=2)
    # A blank leaves column u from the frame at which label u may be written, and until label u + 1
    # must be.
    frame, far = np.arange(4)[:, None], np.full((16, 1), 9)
    begins = np.concatenate([0 * far, label_frames - 1], 1)[:, None]
    ends = np.concatenate([label_frames + 1, far], 1)[:, None]
    is_last = np.arange(4) >= problem.labels_lengths[:, None, None]
    alive = (frame >= begins) & ((frame <= ends) | is_last)
    blank_bias = np.where(alive, 0, -np.inf).astype(np.float32)
    restricted = evaluate(
        DEFAULT_LOSS,
        problem,
        rnnt_type=rnnt_type,
        label_bias=label_bias,
        **options,
        blank_bias=blank_bias,
    )
    assert_same_bits(restricted.costs, actual.costs)
    assert_gradients(restricted.gradients, expected.gradients, scale=2)


def test_delay_penalties_sum_to_zero_over_the_frames_of_a_sequence(rng):
    lengths = np.array([[5, 1], [3, 2]])
    bias = jax_rnnt.delay_penalty(lengths, 6, 0.25)
    assert bias.shape == (2, 2, 6, 1)
    frame = np.arange(6)
    expected = 0.25 * ((lengths[..., None] - 1) / 2 - frame)
    np.testing.assert_allclose(bias[..., 0], expected)
    inside = frame < lengths[..., None]
    np.testing.assert_allclose(np.where(inside, bias[..., 0], 0).sum(-1), 0, atol=1e-6)


def test_the_penaltys_derivative_is_the_expected_delay(rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    frames_lengths = problem.frames_lengths

    @jax.jit
    def costs(penalty):
        bias = jax_rnnt.delay_penalty(frames_lengths, 4, penalty)
        return DEFAULT_LOSS(*problem, rnnt_type="modified", label_bias=bias)

    jacobian = jax.jit(jax.jacrev(costs))(0.1)
    bias = np.asarray(jax_rnnt.delay_penalty(frames_lengths, 4, 0.1), np.float64)
    expected = _answer(problem, "modified", label_bias=bias)
    assert_costs(costs(0.1), expected.costs)
    assert_gradients(jacobian, -(expected.label * bias / 0.1).sum((1, 2)), scale=10)


@pytest.mark.parametrize("penalty", [0.1, jnp.bfloat16(0.1), np.float16(0.1)])
def test_a_penalty_of_16_bits_has_whole_frames(penalty):
    bias = jax_rnnt.delay_penalty([1500], 1500, penalty)
    assert bias.dtype == np.float32
    expected = float(penalty) * (749.5 - np.arange(1500))
    np.testing.assert_allclose(bias[0, :, 0], expected, rtol=1e-6, atol=1e-5)


def test_a_window_and_a_penalty_add(rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    bias = jax_rnnt.alignment_window(np.tile([1, 2, 3], (16, 1)), 4, 1, 2)
    bias += jax_rnnt.delay_penalty(problem.frames_lengths, 4, 0.5)
    expected = _answer(problem, "regular", label_bias=np.asarray(bias))
    assert_costs(DEFAULT_LOSS(*problem, label_bias=bias), expected.costs)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jax_rnnt.alignment_window([0.5], 3, 1, 1), TypeError, "^label_frames must be int"),
        (lambda: jax_rnnt.alignment_window(1, 3, 1, 1), ValueError, "^label_frames must have"),
        (lambda: jax_rnnt.alignment_window([1], 3, 0.5, 1), TypeError, "^left must be integers"),
        (lambda: jax_rnnt.alignment_window([1], 3, 1, [1, 2]), ValueError, "^right must have"),
        (lambda: jax_rnnt.alignment_window([1], 0, 1, 1), ValueError, "^frames must be at least 1"),
        (lambda: jax_rnnt.delay_penalty([1.5], 3, 0.1), TypeError, "^frames_lengths must be int"),
        (lambda: jax_rnnt.delay_penalty([1], 2.5, 0.1), TypeError, "^frames must be an integer"),
        (lambda: jax_rnnt.delay_penalty([1], 3, [0.1]), ValueError, "^penalty must be a number"),
    ],
)
def test_arguments_are_checked(call, error, message):
    with pytest.raises(error, match=message):
        call()
