"""sigma and omega of the loss of tokens and durations, and what may be passed to it."""

import alignments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    Loss,
    evaluate,
    every_lattice,
    full,
    pack,
    ragged,
    with_durations,
)
from tolerances import assert_costs, assert_gradients

import jax_rnnt

PLAIN = (0, 1, 2)
DEFAULT = Loss(from_logits=True, durations=PLAIN)


def test_the_derivative_by_sigma_is_the_expected_number_of_arcs(rng):
    problem = with_durations(rng, every_lattice(rng))

    def costs(sigma):
        return jax_rnnt.tdt_loss_from_logits(*problem, durations=PLAIN, sigma=sigma)

    expected = alignments.tdt_answer(problem, PLAIN, sigma=0.3)
    assert_costs(jax.jit(costs)(0.3), expected.costs)
    assert_gradients(jax.jit(jax.jacrev(costs))(0.3), expected.moves, scale=10)


def test_omega_is_an_expectation(rng):
    problem = with_durations(rng, every_lattice(rng))

    @jax.jit
    def costs(omega):
        return jax_rnnt.tdt_loss_from_logits(*problem, durations=PLAIN, sigma=0.05, omega=omega)

    timed, plain = (
        alignments.tdt_answer(problem, PLAIN, omega=x, sigma=0.05).costs for x in (0, 1)
    )
    assert_costs(costs(0.0), timed)
    assert_costs(costs(1.0), plain)
    assert_costs(costs(0.25), 0.75 * timed + 0.25 * plain)
    assert_gradients(jax.jit(jax.jacrev(costs))(0.25), plain - timed, scale=10)


def test_omega_out_of_range_is_nan_under_jit(rng):
    problem = with_durations(rng, every_lattice(rng))

    @jax.jit
    def total(rows, omega):
        costs = jax_rnnt.tdt_loss_from_logits(rows, *problem[1:], durations=PLAIN, omega=omega)
        return costs.sum()

    for omega in (-1.0, 2.0, np.nan):
        value, gradients = jax.value_and_grad(total)(problem.rows, omega)
        assert np.isnan(value)
        assert not gradients.any()


def test_without_omega_there_is_one_lattice(rng):
    problem = with_durations(rng, every_lattice(rng))

    def program(**options):
        def costs(rows):
            return jax_rnnt.tdt_loss_from_logits(rows, *problem[1:], durations=PLAIN, **options)

        return str(jax.make_jaxpr(costs)(problem.rows))

    assert program(omega=0) == program(omega=0.0) == program(omega=0.0, sigma=0) == program()
    assert len(program(omega=jnp.float32(0))) > len(program())


@pytest.mark.parametrize("omega", [0.0, 0.25, 1.0])
def test_omega_of_one_takes_what_has_no_durations_for_what_it_is(omega, rng):
    """With durations of 3 and 5 frames most sequences have no alignment but an RNN-T's."""
    durations = (3, 5)
    loss = Loss(from_logits=True, durations=durations)
    problem = with_durations(rng, every_lattice(rng), len(durations))
    actual = evaluate(loss, problem, omega=np.float32(omega))
    timed, plain = (alignments.tdt_answer(problem, durations, omega=x) for x in (0, 1))
    possible = np.isfinite(timed.costs)
    assert 0 < possible.sum() < 16
    costs = (1 - omega) * timed.costs[possible] + omega * plain.costs[possible]
    assert_costs(actual.costs[possible], costs)
    gradients = (1 - omega) * timed.gradients + omega * plain.gradients
    assert_gradients(actual.gradients[possible], gradients[possible])
    if omega == 1:
        assert_costs(actual.costs, plain.costs)
        assert_gradients(actual.gradients, plain.gradients)
    else:
        assert np.isinf(actual.costs[~possible]).all()
        assert not actual.gradients[~possible].any()


def test_equal_durations_share_a_compiled_function(rng):
    problem = with_durations(rng, ragged(rng, (2,), 3, 3, 5))
    jax_rnnt.tdt_loss_from_logits(*problem, durations=PLAIN)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    for durations in (list(PLAIN), np.array(PLAIN), range(3)):
        jax_rnnt.tdt_loss_from_logits(*problem, durations=durations)
    assert not compiled


# ---- Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(durations=()), ValueError, "^durations must be different integers"),
        (dict(durations=(0,)), ValueError, "^durations must be different integers"),
        (dict(durations=(0, 1, 1)), ValueError, "^durations must be different integers"),
        (dict(durations=(0, 1, -1)), ValueError, "^durations must be different integers"),
        (dict(durations=(0, 1, 0.5)), TypeError, "^durations must be an integer"),
        (dict(durations=3), TypeError, "^durations must be a sequence of integers"),
        (dict(durations="012"), TypeError, "^durations must be a sequence of integers"),
        (dict(omega=1.5), ValueError, r"^omega must be in \[0, 1\], got 1.5"),
        (dict(omega=np.float32(-0.5)), ValueError, r"^omega must be in \[0, 1\]"),
        (dict(omega="0"), TypeError, "^omega must be"),
        (dict(sigma=np.ones(2)), ValueError, "^sigma must be a number"),
        (dict(blank=5), ValueError, r"^blank must be in \[-5, 5\) for V = 5 symbols"),
    ],
)
def test_arguments_are_checked(options, error, message, rng):
    problem = with_durations(rng, ragged(rng, (2,), 3, 3, 5))
    with pytest.raises(error, match=message):
        jax_rnnt.tdt_loss_from_logits(*problem, **{"durations": PLAIN, **options})


def test_durations_above_eight_run_in_plain_jax(rng):
    """They are longer than these sequences, too."""
    problem = with_durations(rng, every_lattice(rng), 2)
    actual = evaluate(Loss(from_logits=True, durations=(1, 9)), problem)
    expected = alignments.tdt_answer(problem, (1, 9))
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)
    with pytest.raises(NotImplementedError, match="implementation='native'"):
        evaluate(Loss(from_logits=True, durations=(1, 9), implementation="native"), problem)


def test_a_number_is_checked_under_jit_too(rng):
    problem = with_durations(rng, ragged(rng, (2,), 3, 3, 5))
    with pytest.raises(ValueError, match=r"^omega must be in \[0, 1\], got 2"):
        jax.eval_shape(
            lambda rows: jax_rnnt.tdt_loss_from_logits(
                rows, *problem[1:], durations=PLAIN, omega=2
            ),
            problem.rows,
        )


def test_durations_are_in_an_order(rng):
    problem = with_durations(rng, every_lattice(rng))
    with pytest.raises(TypeError, match=r"^durations must be a sequence"):
        jax_rnnt.tdt_loss_from_logits(*problem, durations={0, 1, 2})


def test_rows_need_a_token_beside_the_durations(rng):
    problem = ragged(rng, (2,), 3, 3, 3)
    with pytest.raises(ValueError, match=r"^logits must have shape \(\.\.\., T, U, V \+ 3\) with"):
        jax_rnnt.tdt_loss_from_logits(*problem, durations=PLAIN)
    with pytest.raises(ValueError, match=r"^compact logits must have shape \(S, V \+ 3\) with"):
        jax_rnnt.tdt_loss_from_logits(*pack(problem), durations=PLAIN, compact=True)


def test_a_label_must_be_a_token(rng):
    problem = with_durations(rng, full(rng, (2,), 3, 3, 5))
    problem.labels[1, 0] = 5
    with pytest.raises(ValueError, match=r"^labels must be in \[0, 5\) .* labels\[1, 0\] = 5"):
        jax_rnnt.tdt_loss_from_logits(*problem, durations=PLAIN)
