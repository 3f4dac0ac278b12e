"""Every edge case of arcs_cost has one meaning, on every way to it.

All on the shape and the arcs of test_arcs_values, for which everything is compiled.
"""

import arcs_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arcs_problems import (
    COMPACT,
    COMPACT_REFERENCE,
    FALLBACK,
    NATIVE,
    REFERENCE,
    assert_alone,
    assert_same,
    check,
    evaluate,
    legal,
    make,
    parameters,
)
from support import needs_native
from tolerances import assert_costs

import jax_rnnt

INT32 = np.iinfo(np.int32)
# At least one of every way; where there are kernels, all kinds.
PADDED = [
    *parameters(ways=(NATIVE,)),
    *parameters(("durations_201", "any_ends"), (REFERENCE,)),
    *parameters(("long_durations_ends",), (FALLBACK,)),
]
EVERY = [
    *PADDED,
    *parameters(ways=(COMPACT,)),
    *parameters(("durations_123",), (COMPACT_REFERENCE,)),
]
every_way = pytest.mark.parametrize(("way", "kind"), EVERY)
every_padded_way = pytest.mark.parametrize(("way", "kind"), PADDED)


def _spoilt(problem, n, value, *, only=lambda mask: mask):
    """The problem with one of the n-th sequence's legal weights replaced, one after the other."""
    for arc, mask in legal(problem).items():
        for t, u in np.argwhere(only(mask[n]))[::3]:
            arcs = {key: x.copy() for key, x in problem.arcs.items()}
            arcs[arc][n, t, u] = value
            yield problem._replace(arcs=arcs)


@every_way
@pytest.mark.parametrize("filler", [np.nan, np.inf, 100.0])
def test_illegal_arcs_and_padding_have_no_effect(way, kind, filler, rng):
    clean = make(rng, kind)
    spoilt = clean._replace(
        arcs={
            arc: np.where(x, clean.arcs[arc], np.float32(filler)) for arc, x in legal(clean).items()
        }
    )
    if kind.has_ends:
        used = np.arange(5) <= clean.frames_lengths[:, None]
        ends = [np.where(used, x, np.float32(filler)) for x in (clean.initial, clean.final)]
        spoilt = spoilt._replace(initial=ends[0], final=ends[1])
    actual = evaluate(way, spoilt)
    assert_same(actual, evaluate(way, clean))
    for arc, is_legal in legal(clean).items():
        assert not actual.arcs[arc][~is_legal].any()


@every_way
def test_minus_infinity_is_a_weight_of_zero(way, kind, rng):
    problem = make(rng, kind)
    for x in problem.arcs.values():
        x[rng.random(x.shape) < 0.3] = -np.inf
    if kind.has_ends:
        problem.initial[rng.random((16, 5)) < 0.5] = -np.inf
        problem.final[rng.random((16, 5)) < 0.5] = -np.inf
    result = check(way, problem)
    assert 0 < np.isinf(result.cost).sum() < 16


@every_way
@pytest.mark.parametrize("n", [0, 3, 15])
def test_without_a_path_the_cost_is_infinite(way, kind, n, rng):
    problem = make(rng, kind)
    untouched = evaluate(way, problem)
    for x in problem.arcs.values():
        x[n] = -np.inf
    if kind.has_ends:
        problem.initial[n, 1:] = -np.inf
        problem.final[n, 0] = -np.inf
    actual = evaluate(way, problem)
    assert_alone(actual, untouched, n, np.inf)


@every_way
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_any_legal_arc_makes_that_cost_nan(way, kind, value, rng):
    problem = make(rng, kind)
    untouched, n = evaluate(way, problem), 13
    spoilt = list(_spoilt(problem, n, value))
    assert spoilt
    for changed in spoilt:
        assert_alone(evaluate(way, changed), untouched, n, np.nan)


@every_way
def test_nan_that_no_path_reaches_makes_that_cost_nan(way, kind, rng):
    """All other arcs out of the first column are -inf: what lies behind is out of reach."""
    problem, n = make(rng, kind), 15
    for (_, du), x in problem.arcs.items():
        if du:
            x[n, :, 0] = -np.inf
    untouched = evaluate(way, problem)
    assert untouched.cost[n] == np.inf
    for changed in _spoilt(problem, n, np.nan, only=lambda mask: mask & (np.arange(4) > 0)):
        assert_alone(evaluate(way, changed), untouched, n, np.nan)


@pytest.mark.parametrize(("way", "kind"), [p for p in PADDED if p.values[1].has_ends])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("end", ["initial", "final"])
def test_nan_in_a_beginning_or_an_end_makes_that_cost_nan(way, kind, end, value, rng):
    problem, n = make(rng, kind), 9
    untouched = evaluate(way, problem)
    for t in range(problem.frames_lengths[n] + 1):
        weights = getattr(problem, end).copy()
        weights[n, t] = value
        changed = problem._replace(**{end: weights})
        assert_alone(evaluate(way, changed), untouched, n, np.nan)


@every_padded_way
@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("frames_lengths", [0, -1, 5, INT32.min, INT32.max]),
        ("labels_lengths", [-1, -2, 4, INT32.min, INT32.max]),
    ],
)
def test_senseless_lengths_under_jit_spoil_their_sequence_alone(way, kind, argument, values, rng):
    problem = make(rng, kind)
    untouched = evaluate(way, problem)
    for n, value in zip((3, 6, 9, 13, 15), values, strict=True):
        lengths = getattr(problem, argument).copy()
        lengths[n] = value
        assert_alone(evaluate(way, problem._replace(**{argument: lengths})), untouched, n, np.nan)


@every_way
@pytest.mark.parametrize("shift", [-50, 3, 60])
def test_weights_need_not_be_probabilities(way, kind, shift, rng):
    problem = make(rng, kind)
    shifted = {arc: x + np.float32(shift) for arc, x in problem.arcs.items()}
    result = check(way, problem._replace(arcs=shifted))
    assert (result.cost * np.sign(shift) < 0).any()


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        *parameters(("one_symbol", "durations_012", "rnnt_ends"), (NATIVE,)),
        *parameters(("durations_012",), (REFERENCE,)),
    ],
)
def test_large_weights_where_no_path_goes(way, kind, rng):
    """All paths go through one node: what is no way to it, or from it, multiplies to any size."""
    T, U, t, u = 40, 20, 20, 5
    problem = make(rng, kind, (2,), T, U)
    problem = problem._replace(
        frames_lengths=np.full(2, T, np.int32), labels_lengths=np.full(2, U - 1, np.int32)
    )
    frame, column = np.arange(T)[:, None], np.arange(U)
    no_way = np.where(column > u, frame < t, frame > t)
    for (_, du), x in problem.arcs.items():
        x[:, no_way] = 100
        if du:
            x[:, (column == u) & (frame != t)] = -np.inf
    if kind.has_ends:
        problem.initial[:, t + 1 :] = 100
        problem.final[:, :t] = 100
    result = check(way, problem, align=arcs_oracle.alpha_beta)
    assert (np.abs(result.cost) < 1000).all()


@pytest.mark.parametrize(("way", "kind"), [p for p in PADDED if p.values[0] != REFERENCE])
def test_an_infinite_cotangent_of_an_infinite_cost_is_nothing(way, kind, rng):
    problem, n = make(rng, kind), 5
    for x in (*problem.arcs.values(), *(problem[4:] if kind.has_ends else ())):
        x[n] = -np.inf
    cotangents = np.ones(16, np.float32)
    cotangents[n] = np.inf
    expected = evaluate(way, problem)
    assert expected.cost[n] == np.inf
    assert_same(evaluate(way, problem, cotangents), expected)


@pytest.mark.parametrize("compact", [False, True])
def test_arcs_longer_than_the_arrays_are_never_taken(compact):
    shape = (4,) if compact else (1, 2, 2)
    arcs = {(1, 0): jnp.full(shape, -0.5), (1, 1): jnp.full(shape, -0.75)}
    far = {(10**12, 0): jnp.full(shape, jnp.nan), (1, 10**12): jnp.full(shape, 1.0)}
    costs = jax_rnnt.arcs_cost(arcs | far, [2], [1], compact=compact)
    assert_costs(costs, [1.25 - np.log(2)])


@needs_native
def test_compact_lengths_that_make_no_sense(rng):
    """Those of which there is no room behind the rows of the sequences before."""
    weights = rng.standard_normal((2, 7)).astype(np.float32)

    @jax.jit
    def run(arcs, frames_lengths, labels_lengths):
        def cost(arcs):
            return jax_rnnt.arcs_cost(
                {(1, 0): arcs[0], (1, 1): arcs[1]},
                frames_lengths,
                labels_lengths,
                compact=True,
                max_labels=2,
            )

        costs, vjp = jax.vjp(cost, arcs)
        return costs, vjp(jnp.ones_like(costs))[0]

    alone, gradients = run(weights, np.array([2, 0]), np.array([1, -1]))
    assert np.isfinite(alone[0])
    assert np.isnan(alone[1])
    assert gradients[:, :4].any()
    for frames, labels in ((3, 0), (0, 1), (4, 1), (1, 3), (INT32.max, 1), (2, INT32.max)):
        costs, own = run(weights, np.array([2, frames]), np.array([1, labels]))
        if (frames, labels) == (3, 0):
            assert np.isfinite(costs[1])
            assert own[0, 4:].any()
        else:
            assert np.isnan(costs[1]), (frames, labels)
            np.testing.assert_array_equal(own, gradients)
        np.testing.assert_array_equal(costs[0], alone[0])
