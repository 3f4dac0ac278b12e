"""The loss of tokens and durations against the sum over all alignments."""

import alignments
import jax
import numpy as np
import pytest
from support import (
    DTYPES,
    Loss,
    Problem,
    evaluate,
    every_lattice,
    for_loss,
    full,
    needs_native,
    pack,
    precision,
    ragged,
    with_durations,
)
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

PLAIN = (0, 1, 2)
# In any order; below, at and above the lattices' four frames; without 0, without 1.
DURATIONS = [PLAIN, (1, 2, 3), (0, 4), (2, 0, 1), (3, 5), (0, 1, 2, 3, 4), (1,)]
LOSSES = [
    Loss(from_logits=True, durations=PLAIN),
    Loss(from_logits=True, durations=PLAIN, implementation="reference"),
    Loss(from_logits=True, durations=PLAIN, compact=True),
    Loss(from_logits=True, durations=PLAIN, compact=True, implementation="reference"),
]
DEFAULT = LOSSES[0]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_lattice_is_the_sum_over_alignments(dtype, rng):
    with precision(dtype):
        problem = for_loss(DEFAULT, with_durations(rng, every_lattice(rng)), dtype)
        actual = evaluate(DEFAULT, problem)
    expected = alignments.tdt_answer(problem, PLAIN)
    assert actual.costs.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert actual.gradients.dtype == problem.rows.dtype
    assert_costs(actual.costs, expected.costs, dtype)
    assert_gradients(actual.gradients, expected.gradients, dtype)


def _durations_and_implementations():
    """All durations, of which plain JAX, slow to compile, has some that leave no alignment."""
    for durations in DURATIONS:
        for implementation in (None, "reference") if durations == (0, 4) else (None,):
            yield pytest.param(durations, implementation, id=f"{durations}-{implementation}")


@pytest.mark.parametrize(("durations", "implementation"), list(_durations_and_implementations()))
def test_durations(durations, implementation, rng):
    loss = Loss(from_logits=True, durations=durations, implementation=implementation)
    problem = with_durations(rng, every_lattice(rng), len(durations))
    actual, expected = evaluate(loss, problem), alignments.tdt_answer(problem, durations)
    impossible = {(0, 4): 12, (1, 2, 3): 6, (3, 5): 15, (1,): 6}.get(durations, 0)
    assert np.isinf(expected.costs).sum() == impossible
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)
    np.testing.assert_allclose(actual.gradients[..., 5:].sum(-1), 0, atol=1e-6)
    np.testing.assert_allclose(actual.gradients[..., :5].sum(-1), 0, atol=1e-6)


@every_loss
def test_options_together(loss, rng):
    problem = with_durations(rng, every_lattice(rng))
    options = dict(average_frames=True, blank=-2, fastemit_lambda=np.float32(0.5))
    options |= dict(sigma=np.float32(0.05))
    if loss.implementation is None:  # two lattices of plain JAX are slow to compile
        options |= dict(omega=np.float32(0.25))
    cotangents = rng.standard_normal(16)
    actual = evaluate(loss, problem, cotangents, **options)
    expected = alignments.tdt_answer(problem, PLAIN, cotangents=cotangents, **options)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, scale=4)


def test_the_figures_that_nemo_publishes():
    """Of tests/collections/asr/numba/rnnt_loss/test_rnnt_pytorch.py: zero logits, four tokens."""
    expected = [
        [
            [-0.64962804, 0.25, 0.25, 0.14962798, 0.2672583, -0.16792619, -0.09933221],
            [0.01651875, 0.01651875, 0.01651875, -0.04955626, 0.022025, -0.01227201, -0.009753],
        ],
        [
            [-0.04892651, 0.01714851, 0.01714851, 0.01462949, -0.01143234, -0.01143234, 0.02286467],
            [0.12531489, 0.12531489, 0.12531489, -0.37594467, 0.16708651, 0.13027048, -0.29735702],
        ],
        [
            [-0.02572276, 0.00857425, 0.00857425, 0.00857425, -0.02286468, 0.01143234, 0.01143234],
            [0.13388914, 0.13388914, 0.13388914, -0.40166742, 0.17851885, -0.35703772, 0.17851885],
        ],
    ]
    problem = Problem(np.zeros((3, 2, 7), np.float32), np.array([0]), np.array(3), np.array(1))
    actual = evaluate(DEFAULT, problem, blank=-1, sigma=np.float32(0.05))
    np.testing.assert_allclose(actual.costs, 4.155739, rtol=1e-6)
    np.testing.assert_allclose(actual.gradients, expected, atol=1e-6)


# ---- Edges


def test_padding_has_no_effect_and_no_gradient(rng):
    clean = with_durations(rng, every_lattice(rng))
    used = np.arange(3) < clean.labels_lengths[:, None]
    spoilt = clean._replace(
        rows=np.where(clean.inside[..., None], clean.rows, np.float32(np.nan)),
        labels=np.where(used, clean.labels, -1).astype(np.int32),
    )
    actual, expected = evaluate(DEFAULT, spoilt), evaluate(DEFAULT, clean)
    assert_same_bits(actual.costs, expected.costs)
    assert_same_bits(actual.gradients, expected.gradients)


@pytest.mark.parametrize("entry", [0, 3, 5, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_senseless_logit_of_either_head_spoils_its_sequence_alone(entry, value, rng):
    problem = with_durations(rng, every_lattice(rng))
    untouched = evaluate(DEFAULT, problem)
    for n in (0, 6, 15):
        rows = problem.rows.copy()
        rows[n, 0, 0, entry] = value
        actual = evaluate(DEFAULT, problem._replace(rows=rows))
        others = np.arange(16) != n
        assert np.isnan(actual.costs[n])
        assert not actual.gradients[n].any()
        assert_same_bits(actual.costs[others], untouched.costs[others])
        assert_same_bits(actual.gradients[others], untouched.gradients[others])


def test_senseless_lengths_and_labels_spoil_their_sequence_alone(rng):
    problem = with_durations(rng, every_lattice(rng))
    untouched = evaluate(DEFAULT, problem)
    labels = problem.labels.copy()
    labels[6, 0] = 5  # a duration's place is no token
    for spoilt in (
        problem._replace(labels=labels),
        problem._replace(frames_lengths=np.where(np.arange(16) == 6, 5, problem.frames_lengths)),
        problem._replace(labels_lengths=np.where(np.arange(16) == 6, -1, problem.labels_lengths)),
    ):
        actual = evaluate(DEFAULT, spoilt)
        others = np.arange(16) != 6
        assert np.isnan(actual.costs[6])
        assert not actual.gradients[6].any()
        assert_same_bits(actual.gradients[others], untouched.gradients[others])


def test_minus_infinity_is_a_probability_of_zero(rng):
    problem = with_durations(rng, every_lattice(rng))
    problem.rows.reshape(-1)[rng.choice(problem.rows.size, 500, replace=False)] = -np.inf
    actual, expected = evaluate(DEFAULT, problem), alignments.tdt_answer(problem, PLAIN)
    assert 2 < np.isinf(expected.costs).sum() < 14
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize("compact", [False, True])
def test_where_leaves_out(compact, rng):
    problem = with_durations(rng, ragged(rng, (4,), 4, 3, 5))
    problem.frames_lengths[1] = problem.labels_lengths[1] = 0
    counted = np.arange(4) != 1
    rows, *rest = pack(problem) if compact else problem
    cost = jax_rnnt.tdt_loss_from_logits(
        rows, *rest, durations=PLAIN, where=counted, compact=compact, reduction="mean", omega=0.5
    )
    kept = Problem(*(x[counted] for x in problem))
    assert_costs(cost, alignments.tdt_answer(kept, PLAIN, omega=0.5).costs.mean())


@pytest.mark.parametrize("batch", [(), (2, 1, 2)])
def test_any_number_of_batch_dimensions(batch, rng):
    problem = with_durations(rng, ragged(rng, batch, 3, 3, 5))
    actual, expected = evaluate(DEFAULT, problem), alignments.tdt_answer(problem, PLAIN)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


def test_gradients_are_finite_differences_in_float64(rng):
    problem = for_loss(DEFAULT, with_durations(rng, every_lattice(rng)), "float64")
    cotangents, step = rng.standard_normal(16), 1e-6
    options = dict(omega=np.float64(0.3), sigma=np.float64(0.1))
    with precision("float64"):
        gradients = evaluate(DEFAULT, problem, cotangents, **options).gradients
        for _ in range(3):
            direction = rng.standard_normal(problem.rows.shape)
            above, below = (
                evaluate(
                    DEFAULT,
                    problem._replace(rows=problem.rows + sign * step * direction),
                    cotangents,
                    **options,
                ).costs
                for sign in (1, -1)
            )
            slope = cotangents @ (above - below) / (2 * step)
            assert slope == pytest.approx(np.vdot(gradients, direction), rel=1e-7)


def test_every_frame_is_passed_and_every_label_written_once(rng):
    """At a size that is not enumerated: the sums over both heads' own gradients.

    A label's token has the gradient of its posterior where no other symbol has any probability.
    """
    durations = (0, 1, 2, 3, 4)
    problem = with_durations(rng, full(rng, (2,), 150, 40, 6), len(durations))

    @jax.jit
    def gradients(sigma):
        def total(rows, sigma):
            return jax_rnnt.tdt_loss_from_logits(
                rows, *problem[1:], durations=durations, sigma=sigma, reduction="sum"
            )

        return jax.grad(total, (0, 1))(problem.rows, sigma)

    rows, arcs = map(np.asarray, gradients(0.0))
    heads = np.exp(problem.rows[..., 6:].astype(np.float64))
    heads /= heads.sum(-1, keepdims=True)
    # Of a row: gradient = share of the row * softmax - posteriors of the durations.
    tokens = np.exp(problem.rows[..., :6].astype(np.float64))
    tokens /= tokens.sum(-1, keepdims=True)
    own = np.pad(problem.labels, ((0, 0), (0, 1)))[:, None, :, None] == np.arange(6)
    others = ~own & (np.arange(6) > 0)
    share = np.where(others, rows[..., :6], 0).sum(-1) / np.where(others, tokens, 0).sum(-1)
    posteriors = share[..., None] * heads - rows[..., 6:]
    frames = (posteriors * np.array(durations)).sum((1, 2, 3))
    np.testing.assert_allclose(frames, 150, rtol=1e-5)
    np.testing.assert_allclose(posteriors.sum(), arcs, rtol=1e-5)
    labels = np.where(own & (np.arange(6) > 0), share[..., None] * tokens - rows[..., :6], 0)
    is_apart = problem.labels > 0
    np.testing.assert_allclose(labels.sum((1, 3))[:, :-1][is_apart], 1, atol=2e-4)


@needs_native
def test_native_insists(rng):
    problem = with_durations(rng, every_lattice(rng))
    loss = Loss(from_logits=True, durations=PLAIN, implementation="native")
    actual, expected = evaluate(loss, problem), evaluate(DEFAULT, problem)
    assert_same_bits(actual.costs, expected.costs)
    assert_same_bits(actual.gradients, expected.gradients)
