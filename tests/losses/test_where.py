"""`where`: sequences that are left out, as those that fill up a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import Loss, Problem, for_loss, pack, ragged, unpack
from tolerances import assert_costs, assert_gradients

import jax_rnnt

COUNTED = np.array([True, False, True, False])


@pytest.fixture
def problem(rng) -> Problem:
    """Two utterances, each before a filler: one of no frames, one of labels and NaN."""
    problem = ragged(rng, (4,), 4, 3, 5)
    problem.frames_lengths[1] = problem.labels_lengths[1] = 0
    problem.labels[3] = -7
    problem.rows[3] = np.nan
    return problem


def _run(loss: Loss, problem: Problem, where, **options):
    problem = for_loss(loss, problem)
    rows, *rest = pack(problem) if loss.compact else problem
    value, gradients = jax.value_and_grad(lambda x: loss(x, *rest, where=where, **options).sum())(
        jnp.asarray(rows)
    )
    return value, unpack(np.asarray(gradients), problem) if loss.compact else gradients


def _expected(loss: Loss, problem: Problem):
    """Costs and gradients of the sequences that count, without the others, which have zeros."""
    costs, gradients = np.zeros(4), np.zeros(problem.rows.shape)
    some = Problem(*(x[COUNTED] for x in for_loss(loss, problem)))
    costs[COUNTED], gradients[COUNTED] = loss.expected(some)
    return costs, gradients


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_is_left_out_counts_for_nothing(loss, problem, reduction):
    """Eagerly, where the same lengths and labels without `where` are errors."""
    value, gradients = _run(loss, problem, COUNTED, reduction=reduction)
    costs, expected = _expected(loss, problem)
    count = 2 if reduction == "mean" else 1
    assert_costs(value, costs.sum() / count)
    assert_gradients(gradients, expected / count)
    with pytest.raises(ValueError, match=r"frames_lengths\[1\] = 0"):
        _run(loss, problem, None)


def test_costs_of_what_is_left_out_are_zero(loss, problem):
    rows, *rest = pack(for_loss(loss, problem)) if loss.compact else for_loss(loss, problem)
    costs = jax.jit(lambda where: loss(jnp.asarray(rows), *rest, where=where))(COUNTED)
    assert_costs(costs, _expected(loss, problem)[0])


def test_a_mean_over_nothing_is_what_jax_numpy_makes_of_it(loss, problem):
    value, gradients = _run(loss, problem, np.zeros(4, bool), reduction="mean")
    assert np.isnan(value)
    assert not np.any(gradients)


def test_what_counts_is_checked(loss, problem):
    with pytest.raises(ValueError, match=r"frames_lengths must be in"):
        _run(loss, problem, ~COUNTED)
    problem.frames_lengths[1] = 1
    with pytest.raises(ValueError, match=r"labels must be in"):
        _run(loss, problem, np.ones(4, bool))


@pytest.mark.parametrize(
    ("where", "error", "match"),
    [
        (np.ones(4), TypeError, r"where must be booleans, got dtype float"),
        (np.ones(3, bool), ValueError, r"where must have shape \(4,\) .*, got \(3,\)"),
        (True, ValueError, r"where must have shape \(4,\)"),
    ],
)
def test_errors_name_where(loss, rng, where, error, match):
    with pytest.raises(error, match=match):
        _run(loss, ragged(rng, (4,), 4, 3, 5), where)


def test_huge_compact_lengths_are_told_and_make_no_array():
    """Frames are traced, so the rows that they need are not known."""
    lengths = np.full(4, 2**31 - 1)
    with pytest.raises(ValueError, match=r"sum\(labels_lengths\) = 8589934588 entries, got 2"):
        jax.eval_shape(
            lambda rows, frames: jax_rnnt.rnnt_loss_from_logits(
                rows, [1, 2], frames, lengths, compact=True
            ),
            jnp.zeros((9, 3)),
            jnp.ones(4, jnp.int32),
        )


def test_vmap_over_where(rng):
    rows, *rest = ragged(rng, (4,), 4, 3, 5)
    one = jax.vmap(lambda *x: jax_rnnt.rnnt_loss_from_logits(*x[:4], where=x[4]))
    costs = jax.jit(one)(rows, *rest, COUNTED)
    assert_costs(costs[COUNTED], jax_rnnt.rnnt_loss_from_logits(rows, *rest)[COUNTED])
    assert not np.any(costs[~COUNTED])


@pytest.mark.parametrize("implementation", [None, "reference"])
def test_a_joint_leaves_out_as_well(rng, implementation):
    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    joint = normal(4, 5, 6), normal(4, 3, 6), normal(6, 5), normal(5)
    problem = ragged(rng, (4,), 5, 3, 5)
    poisoned = joint[0].at[1].set(jnp.nan)

    def run(encoder, counted, frames_lengths):
        def loss(*joint):
            return jax_rnnt.rnnt_loss_from_joint(
                *joint,
                problem.labels,
                frames_lengths,
                problem.labels_lengths,
                where=counted,
                reduction="mean",
                implementation=implementation,
            )

        return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(encoder, *joint[1:])

    lengths = problem.frames_lengths
    value, gradients = run(poisoned, COUNTED, np.where(COUNTED, lengths, 0))
    expected = [run(joint[0], np.arange(4) == n, lengths) for n in np.flatnonzero(COUNTED)]
    assert_costs(value, np.mean([value for value, _ in expected]))
    for gradient, *parts in zip(gradients, *(g for _, g in expected)):
        np.testing.assert_allclose(gradient, np.mean(parts, 0), rtol=1e-4, atol=1e-5)
