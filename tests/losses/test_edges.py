"""Every edge case has one meaning, on every backend and in every layout.

All on the sixteen lattices of `every_lattice`, so that one compiled function for each loss answers
nearly all of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import (
    Loss,
    evaluate,
    every_lattice,
    for_loss,
    full,
    needs_native,
    precision,
    ragged,
)
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

INT32 = np.iinfo(np.int32)


def assert_alone(actual: oracle.Result, untouched: oracle.Result, spoilt: int) -> None:
    """Every sequence but one has the same bits in both."""
    others = np.arange(len(untouched.costs)) != spoilt
    assert_same_bits(actual.costs[others], untouched.costs[others])
    assert_same_bits(actual.gradients[others], untouched.gradients[others])


@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf])
def test_padding_has_no_effect_and_no_gradient(loss, filler, rng):
    clean = for_loss(loss, every_lattice(rng))
    used = np.arange(3) < clean.labels_lengths[:, None]
    spoilt = clean._replace(
        rows=np.where(clean.inside[..., None], clean.rows, np.float32(filler)),
        labels=np.where(used, clean.labels, -1).astype(np.int32),
    )
    actual, expected = evaluate(loss, spoilt), evaluate(loss, clean)
    assert_same_bits(actual.costs, expected.costs)
    assert_same_bits(actual.gradients, expected.gradients)
    assert not actual.gradients[~clean.inside].any()


def test_labels_beyond_their_length_may_be_anything(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    expected = evaluate(loss, problem)
    for value in (INT32.min, -2, 5, INT32.max):
        used = np.arange(3) < problem.labels_lengths[:, None]
        labels = np.where(used, problem.labels, value).astype(np.int32)
        actual = evaluate(loss, problem._replace(labels=labels))
        assert_same_bits(actual.costs, expected.costs)
        assert_same_bits(actual.gradients, expected.gradients)


def test_minus_infinity_is_a_probability_of_zero(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    problem.rows.reshape(-1)[rng.choice(problem.rows.size, 200, replace=False)] = -np.inf
    actual = evaluate(loss, problem)
    expected = loss.expected(problem, align=oracle.enumerate_paths)
    assert 2 < np.isinf(expected.costs).sum() < 14
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize("n", [0, 3, 12, 15])
def test_impossible_alignment_costs_infinity_and_has_no_gradient(loss, n, rng):
    problem = for_loss(loss, every_lattice(rng))
    untouched = evaluate(loss, problem)
    rows = problem.rows.copy()
    rows[n, problem.frames_lengths[n] - 1, problem.labels_lengths[n], 0] = -np.inf
    actual = evaluate(loss, problem._replace(rows=rows))
    assert actual.costs[n] == np.inf
    assert not actual.gradients[n].any()
    assert_alone(actual, untouched, n)


def test_infinite_costs_do_not_spoil_a_sum(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    problem.rows[7, 0, 0] = -np.inf
    actual = evaluate(loss, problem, reduction="sum", blank=2)
    assert actual.costs == np.inf
    assert not actual.gradients[7].any()
    assert_gradients(actual.gradients, loss.expected(problem, blank=2).gradients)


@pytest.mark.parametrize("n", [0, 3, 12, 15])
def test_rows_of_nothing_but_minus_infinity(loss, n, rng):
    problem = for_loss(loss, every_lattice(rng))
    problem.rows[n, 0, problem.labels_lengths[n]] = -np.inf
    actual, expected = evaluate(loss, problem), loss.expected(problem)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("frames_lengths", [0, -1, 5, INT32.min, INT32.max]),
        ("labels_lengths", [-1, -2, 4, INT32.min, INT32.max]),
        ("labels", [-1, -2, 5, INT32.min, INT32.max]),
    ],
)
def test_senseless_values_under_jit_spoil_their_sequence_alone(padded_loss, argument, values, rng):
    problem = for_loss(padded_loss, every_lattice(rng))
    untouched = evaluate(padded_loss, problem)
    for n, value in zip((3, 6, 9, 13, 15), values, strict=True):
        spoilt = getattr(problem, argument).copy()
        spoilt[(n, problem.labels_lengths[n] - 1) if argument == "labels" else n] = value
        actual = evaluate(padded_loss, problem._replace(**{argument: spoilt}))
        assert np.isnan(actual.costs[n]), f"{argument} of {value}"
        assert not actual.gradients[n].any(), f"{argument} of {value}"
        assert_alone(actual, untouched, n)


def test_every_sequence_may_be_senseless(padded_loss, rng):
    problem = for_loss(padded_loss, every_lattice(rng))
    actual = evaluate(
        padded_loss, problem._replace(frames_lengths=np.full(16, INT32.max, np.int32))
    )
    assert np.isnan(actual.costs).all()
    assert not actual.gradients.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_within_the_lengths_makes_that_cost_nan(loss, value, rng):
    problem = for_loss(loss, every_lattice(rng))
    untouched = evaluate(loss, problem)
    for n, frame, column in np.argwhere(problem.inside)[::3]:
        rows = problem.rows.copy()
        rows[n, frame, column] = value
        actual = evaluate(loss, problem._replace(rows=rows))
        assert np.isnan(actual.costs[n]), (n, frame, column)
        assert_alone(actual, untouched, n)


def test_one_nan_logit_makes_that_cost_nan(logits_loss, rng):
    problem = every_lattice(rng)
    problem = for_loss(logits_loss, problem)
    untouched = evaluate(logits_loss, problem)
    for symbol in range(5):
        rows = problem.rows.copy()
        rows[15, 2, 1, symbol] = np.nan
        actual = evaluate(logits_loss, problem._replace(rows=rows))
        assert np.isnan(actual.costs[15])
        assert_alone(actual, untouched, 15)


def test_zero_cotangent_of_a_nan_cost_gives_zero_gradients(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    problem.rows[9, 0, 0] = np.nan
    cotangents = np.ones(16)
    cotangents[9] = 0
    actual = evaluate(loss, problem, cotangents)
    assert np.isnan(actual.costs[9])
    assert not actual.gradients[9].any()
    others = np.arange(16) != 9
    expected = loss.expected(problem).gradients
    assert_gradients(actual.gradients[others], expected[others])


def test_same_inputs_give_the_same_bits(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    first = evaluate(loss, problem)
    for _ in range(5):
        again = evaluate(loss, problem)
        assert_same_bits(again.costs, first.costs)
        assert_same_bits(again.gradients, first.gradients)


@pytest.mark.parametrize(
    ("implementation", "size"),
    [
        pytest.param("native", ((8,), 60, 40, 33), marks=needs_native),
        ("reference", ((2,), 150, 41, 28)),  # which test_precision.py compiles
    ],
)
def test_same_inputs_give_the_same_bits_at_size(implementation, size, rng):
    loss = Loss(from_logits=True, implementation=implementation)
    problem = ragged(rng, *size)
    first = evaluate(loss, problem)
    for _ in range(3):
        again = evaluate(loss, problem)
        assert_same_bits(again.costs, first.costs)
        assert_same_bits(again.gradients, first.gradients)


@pytest.mark.parametrize(
    ("implementation", "V"),
    [
        pytest.param("native", 1, marks=needs_native),
        pytest.param("native", 2, marks=needs_native),
        ("reference", 1),
    ],
)
def test_vocabulary_of_one_or_two(implementation, V, rng):
    loss = Loss(from_logits=True, implementation=implementation)
    problem = for_loss(loss, every_lattice(rng, V))
    actual, expected = evaluate(loss, problem), loss.expected(problem)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


def test_no_sequences(loss):
    batch = full(np.random.default_rng(0), (0,), 4, 4, 5)
    actual = evaluate(loss, batch)
    assert actual.costs.shape == (0,)
    assert actual.gradients.shape == (0, 4, 4, 5)


def test_no_sequences_sum_to_zero():
    batch = full(np.random.default_rng(0), (0,), 4, 4, 5)
    assert jax_rnnt.rnnt_loss_from_logits(*map(jnp.asarray, batch), reduction="sum") == 0


def test_logits_far_from_zero(logits_loss, rng):
    problem = for_loss(logits_loss, every_lattice(rng))
    offsets = rng.choice([-1e4, 0, 1e4], (16, 4, 4, 1)).astype(np.float32)
    shifted = problem._replace(rows=problem.rows + offsets)
    actual, expected = evaluate(logits_loss, shifted), logits_loss.expected(shifted)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_logits_far_apart(logits_loss, scale, rng):
    problem = for_loss(logits_loss, every_lattice(rng))
    problem = problem._replace(rows=problem.rows * np.float32(scale))
    actual = evaluate(logits_loss, problem)
    expected = logits_loss.expected(problem, align=oracle.enumerate_paths)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize("scale", [1e8, 1e30])
def test_logits_so_far_apart_that_exponents_are_not_whole(logits_loss, scale, rng):
    """float32 has no exact exponents there: costs hold, and posteriors are still probabilities."""
    problem = for_loss(logits_loss, every_lattice(rng))
    problem = problem._replace(rows=problem.rows * np.float32(scale))
    actual = evaluate(logits_loss, problem)
    expected = logits_loss.expected(problem, align=oracle.enumerate_paths)
    assert_costs(actual.costs, expected.costs)
    assert np.abs(actual.gradients).max() <= 2


@pytest.mark.parametrize("scale", [1e5, 1e7, 1e12])
def test_float64_arcs_far_below_zero_keep_their_fractions(implementation, scale, rng):
    with precision("float64"):
        blank, label = -scale * rng.uniform(1, 2, (2, 4, 3))
        actual = jax_rnnt.lattice_cost(blank, label, 4, 2, implementation=implementation)
        expected = oracle.alpha_beta(oracle.Arcs(blank, label)).cost
        assert_costs(actual, expected, "float64")


@functools.cache
def _lattice(implementation: str, compact: bool):
    """Cost of one lattice of 4 x 3 arcs and their gradients, jitted."""
    batch = (1,) if compact else ()
    lengths = np.full(batch, 4), np.full(batch, 2)

    def cost(*arcs):
        arcs = [x.reshape(-1) if compact else x for x in arcs]
        options = {"compact": compact, "implementation": implementation}
        return jax_rnnt.lattice_cost(*arcs, *lengths, **options).sum()

    return jax.jit(jax.value_and_grad(cost, argnums=(0, 1)))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_arcs_that_lead_out_of_the_lattice_may_hold_anything(implementation, value, compact, rng):
    """The last frame's blank arcs but the last, and the last column's label arcs."""
    blank, label = np.log(rng.uniform(0.1, 0.9, (2, 4, 3)).astype(np.float32))
    blank_out, label_out = np.zeros((2, 4, 3), bool)
    blank_out[-1, :-1] = label_out[:, -1] = True
    arcs = np.where(blank_out, value, blank), np.where(label_out, value, label)
    run = _lattice(implementation, compact)
    actual, actual_gradients = run(*map(np.float32, arcs))
    expected, expected_gradients = run(blank, label)
    assert_same_bits(actual, expected)
    for gradients, out in zip(actual_gradients, (blank_out, label_out)):
        assert not np.asarray(gradients)[out].any()
    assert_same_bits(actual_gradients[0], expected_gradients[0])
    assert_same_bits(actual_gradients[1], expected_gradients[1])


def test_rows_without_a_log_softmax_have_no_gradient(implementation):
    rows = np.array([[-np.inf] * 3, [0, np.nan, 1], [0, np.inf, 1], [1, 2, 3]], np.float32)
    labels = np.array([1, 0, -1, 2])

    def arcs(rows):
        return jax_rnnt.log_softmax_pick(rows, labels, implementation=implementation)

    (blank, label), vjp = jax.vjp(jax.jit(arcs), jnp.asarray(rows))
    (gradients,) = vjp((jnp.full(4, 0.3), jnp.full(4, 0.5)))
    assert blank[0] == label[0] == label[2] == -np.inf
    assert np.isnan([blank[1], label[1], blank[2]]).all()
    assert not gradients[:3].any()
    assert gradients[3].all()


def test_log_probs_of_the_lowest_float_are_impossible(implementation):
    arcs = np.full((4, 3), np.finfo(np.float32).min)
    cost, gradients = _lattice(implementation, False)(arcs, arcs)
    assert cost == np.inf
    assert not np.any(gradients)
