"""Costs and gradients of every loss are those of the float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import (
    DEFAULT_LOSS,
    DTYPES,
    IMPLEMENTATIONS,
    LOSSES,
    Loss,
    evaluate,
    every_lattice,
    for_loss,
    full,
    precision,
    ragged,
)
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt


def _losses_and_dtypes():
    """All pairs of loss and dtype, except that compact losses leave out float16."""
    for parameter in LOSSES:
        (loss,) = parameter.values
        for dtype in DTYPES:
            if not (loss.compact and dtype == "float16"):
                yield pytest.param(loss, dtype, marks=parameter.marks, id=f"{loss}-{dtype}")


@pytest.mark.parametrize("missing", [0, 3, 12])
def test_oracle_recursion_is_the_sum_over_alignments(rng, missing):
    problem = every_lattice(rng)
    problem.rows.reshape(-1)[rng.choice(problem.rows.size, missing)] = -np.inf
    cotangents = rng.standard_normal(16)
    solve = functools.partial(
        oracle.loss, *problem, from_logits=True, cotangents=cotangents, fastemit_lambda=0.5
    )
    slow, fast = solve(align=oracle.enumerate_paths), solve(align=oracle.alpha_beta)
    np.testing.assert_allclose(fast.costs, slow.costs, rtol=1e-13)
    np.testing.assert_allclose(fast.gradients, slow.gradients, rtol=1e-12, atol=1e-14)


def test_oracle_counts_every_alignment():
    arcs = oracle.Arcs(np.zeros((4, 4)), np.zeros((4, 4)))
    assert np.exp(-oracle.enumerate_paths(arcs).cost) == pytest.approx(20)  # 6 choose 3


@pytest.mark.parametrize(("loss", "dtype"), list(_losses_and_dtypes()))
def test_every_lattice_is_the_sum_over_alignments(loss, dtype, rng):
    with precision(dtype):
        problem = for_loss(loss, every_lattice(rng), dtype)
        actual = evaluate(loss, problem)
    expected = loss.expected(problem, align=oracle.enumerate_paths)
    assert actual.costs.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert actual.gradients.dtype == problem.rows.dtype
    assert_costs(actual.costs, expected.costs, dtype)
    assert_gradients(actual.gradients, expected.gradients, dtype)


def _implementations_and_full_sizes():
    """All pairs, but that plain JAX, slow to compile, has two."""
    for implementation in IMPLEMENTATIONS:
        all_sizes = [(1, 1), (2, 3), (3, 2), (1, 4), (4, 1)]
        for size in all_sizes[:2] if implementation.id == "reference" else all_sizes:
            yield pytest.param(*implementation.values, *size, marks=implementation.marks)


@pytest.mark.parametrize(("implementation", "T", "U"), list(_implementations_and_full_sizes()))
def test_lattice_without_padding(implementation, T, U, rng):
    loss = Loss(from_logits=True, implementation=implementation)
    problem = full(rng, (2,), T, U, 5)
    actual = evaluate(loss, problem)
    expected = loss.expected(problem, align=oracle.enumerate_paths)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize("fastemit_lambda", [0.0, 0.01, 2.0])
def test_fastemit_scales_label_gradients_alone(loss, fastemit_lambda, rng):
    problem = for_loss(loss, every_lattice(rng))
    actual = evaluate(loss, problem, fastemit_lambda=fastemit_lambda)
    expected = loss.expected(problem, fastemit_lambda=fastemit_lambda)
    assert_costs(actual.costs, loss.expected(problem).costs)
    assert_gradients(actual.gradients, expected.gradients, scale=1 + fastemit_lambda)


def test_average_frames_and_blank_that_counts_from_the_end(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    actual = evaluate(loss, problem, average_frames=True, blank=-1)
    expected = loss.expected(problem, average_frames=True, blank=-1)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


def _losses_and_reductions():
    """All pairs, but that a mean, the same code for all of them, need not be of plain JAX."""
    for parameter in LOSSES:
        (loss,) = parameter.values
        for reduction in ("sum",) if loss.implementation == "reference" else ("sum", "mean"):
            name = f"{loss}-{reduction}"
            yield pytest.param(loss, reduction, marks=parameter.marks, id=name)


@pytest.mark.parametrize(("loss", "reduction"), list(_losses_and_reductions()))
def test_reductions_are_over_the_batch(loss, reduction, rng):
    problem = for_loss(loss, every_lattice(rng))
    actual = evaluate(loss, problem, reduction=reduction, blank=2)
    share = 1 / 16 if reduction == "mean" else 1
    expected = loss.expected(problem, blank=2, cotangents=np.full(16, share))
    assert_costs(actual.costs, expected.costs.sum() * share)
    assert_gradients(actual.gradients, expected.gradients)


def test_label_may_be_the_blank(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    problem = problem._replace(labels=np.zeros_like(problem.labels))
    actual, expected = evaluate(loss, problem), loss.expected(problem)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


def test_cotangents_of_any_sign_and_zero(loss, rng):
    problem = for_loss(loss, every_lattice(rng))
    cotangents = rng.standard_normal(16).astype(np.float32) * 100
    cotangents[::5] = 0
    actual, expected = (
        evaluate(loss, problem, cotangents),
        loss.expected(problem, cotangents=cotangents),
    )
    assert_gradients(actual.gradients, expected.gradients, scale=100)
    assert not actual.gradients[::5].any()


@pytest.mark.parametrize("batch", [(), (2, 1, 2)])
def test_any_number_of_batch_dimensions(padded_loss, batch, rng):
    problem = for_loss(padded_loss, ragged(rng, batch, 3, 3, 4))
    actual, expected = evaluate(padded_loss, problem), padded_loss.expected(problem)
    assert actual.costs.shape == batch
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


def test_gradients_are_finite_differences_in_float64(loss, rng):
    problem = for_loss(loss, every_lattice(rng), "float64")
    cotangents, step = rng.standard_normal(16), 1e-6
    with precision("float64"):
        gradients = evaluate(loss, problem, cotangents).gradients
        for _ in range(4):
            direction = rng.standard_normal(problem.rows.shape)
            above, below = (
                evaluate(loss, problem._replace(rows=problem.rows + sign * step * direction)).costs
                for sign in (1, -1)
            )
            slope = cotangents @ (above - below) / (2 * step)
            assert slope == pytest.approx(np.vdot(gradients, direction), rel=1e-7)


def test_gather_changes_nothing(rng):
    loss = Loss(from_logits=False)
    problem = for_loss(loss, every_lattice(rng))
    plain, gathered = evaluate(loss, problem), evaluate(loss, problem, gather=True)
    assert_same_bits(gathered.costs, plain.costs)
    assert_same_bits(gathered.gradients, plain.gradients)


def test_eager_calls_agree_with_jit(rng):
    problem = every_lattice(rng)._replace(rows=rng.standard_normal((16, 4, 4, 5), np.float32))
    eager = jax.grad(lambda rows: DEFAULT_LOSS(rows, *problem[1:], reduction="sum"))
    jitted = evaluate(DEFAULT_LOSS, problem)
    rows = jnp.asarray(problem.rows)
    assert_gradients(eager(rows), np.asarray(jitted.gradients, np.float64))
    assert_costs(DEFAULT_LOSS(rows, *problem[1:]), np.asarray(jitted.costs, np.float64))


def test_log_softmax_pick_is_two_entries_of_the_log_softmax(implementation, rng):
    logits = rng.standard_normal((6, 7), np.float32)
    labels = np.array([0, 6, 3, -1, 7, -2], np.int32)
    pick = functools.partial(jax_rnnt.log_softmax_pick, blank=2, implementation=implementation)
    (blank, label), vjp = jax.vjp(lambda x: pick(x, labels), jnp.asarray(logits))
    log_probs = oracle.log_softmax(logits.astype(np.float64))
    expected_blank = np.where(np.arange(6) < 4, log_probs[:, 2], -np.inf)
    expected_label = np.where(np.arange(6) < 3, log_probs[np.arange(6), labels % 7], -np.inf)
    assert_costs(blank, expected_blank)
    assert_costs(label, expected_label)
    blank_cotangents, label_cotangents = rng.standard_normal((2, 6)).astype(np.float32)
    (gradient,) = vjp((jnp.asarray(blank_cotangents), jnp.asarray(label_cotangents)))
    expected = np.zeros((6, 7))
    expected[:4, 2] += blank_cotangents[:4]
    expected[np.arange(3), labels[:3]] += label_cotangents[:3]
    expected -= np.exp(log_probs) * expected.sum(-1, keepdims=True)
    assert_gradients(gradient, expected)


def test_lattice_gradients_are_minus_the_posteriors(implementation, rng):
    problem = every_lattice(rng)
    arcs = rng.standard_normal((2, 16, 4, 4), np.float32) - 1

    @jax.jit
    def run(blank_arcs, label_arcs):
        cost = functools.partial(jax_rnnt.lattice_cost, implementation=implementation)
        costs, vjp = jax.vjp(lambda *x: cost(*x, *problem[2:]), blank_arcs, label_arcs)
        return costs, *vjp(jnp.ones_like(costs))

    costs, blank_gradients, label_gradients = run(*arcs)
    for n, (frames, labels) in enumerate(zip(*problem[2:], strict=True)):
        own = oracle.Arcs(*(x[n, :frames, : labels + 1].astype(np.float64) for x in arcs))
        expected = oracle.enumerate_paths(own)
        assert_costs(costs[n], expected.cost)
        assert_gradients(-blank_gradients[n, :frames, : labels + 1], expected.posteriors.blank)
        assert_gradients(-label_gradients[n, :frames, : labels + 1], expected.posteriors.label)


@pytest.mark.parametrize("compact", [False, True])
def test_the_reference_lattice_is_compiled_once(compact):
    shape, batch = ((12,), (1,)) if compact else ((4, 3), ())
    lengths = np.full(batch, 4), np.full(batch, 2)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )

    def gradient(arcs):
        return jax.grad(
            lambda arcs: jax_rnnt.lattice_cost(
                arcs, arcs, *lengths, compact=compact, implementation="reference"
            ).sum()
        )(arcs)

    gradient(jnp.full(shape, -1.0))
    assert compiled
    compiled.clear()
    gradient(jnp.full(shape, -2.0))
    assert not compiled
