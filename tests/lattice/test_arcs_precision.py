"""Lattices of any arcs keep their precision, and their invariants, at any size."""

import arcs_oracle
import jax
import numpy as np
import oracle
import pytest
from arcs_oracle import Problem
from arcs_problems import COMPACT, FALLBACK, KINDS, NATIVE, Kind, evaluate, parameters
from support import needs_native
from tolerances import GRADIENT_ERROR, relative_error

LONGEST = (1500, 300)
SOME = ("rnnt", "one_symbol", "multi_blank", "durations_01234")
V = 12


def _problem(rng: np.random.Generator, kind: Kind, T: int, U: int, spread=1.0) -> Problem:
    """Two sequences, arcs being a few of V symbols of one softmax."""
    log_probs = oracle.log_softmax(rng.standard_normal((2, T, U + 1, V)) * spread)
    arcs = {arc: log_probs[..., i].astype(np.float32) for i, arc in enumerate(kind.arcs)}
    lengths = np.array([T, T // 2], np.int32), np.array([U // 3, U], np.int32)
    return Problem(arcs, *lengths, kind.last)


@needs_native
@pytest.mark.parametrize("kind", [KINDS[name] for name in SOME], ids=SOME)
def test_long_sequences_are_as_precise_as_short_ones(kind, rng):
    problem = _problem(rng, kind, *LONGEST)
    actual = evaluate(NATIVE, problem)
    expected = arcs_oracle.solve(problem, align=arcs_oracle.alpha_beta)
    one_ulp = np.spacing(expected.cost.astype(np.float32)).astype(np.float64)
    assert np.all(np.abs(actual.cost.astype(np.float64) - expected.cost) <= one_ulp)
    gradients = (np.stack([result.arcs[arc] for arc in kind.arcs]) for result in (actual, expected))
    assert relative_error(*gradients) < GRADIENT_ERROR


@needs_native
@pytest.mark.parametrize("kind", [KINDS[name] for name in SOME[:2]], ids=SOME[:2])
def test_many_long_sequences_are_as_precise(kind, rng):
    """So many columns that a GPU walks beta together with the cotangents."""
    two = _problem(rng, kind, *LONGEST)
    arcs, *lengths = (jax.tree.map(lambda x: np.concatenate([x] * 25), own) for own in two[:3])
    actual = evaluate(NATIVE, Problem(arcs, *lengths, kind.last))
    expected = arcs_oracle.solve(two, align=arcs_oracle.alpha_beta)
    for part in (slice(0, 2), slice(48, 50)):
        gradients = (
            np.stack([result.arcs[arc][own] for arc in kind.arcs])
            for result, own in ((actual, part), (expected, slice(None)))
        )
        assert relative_error(*gradients) < GRADIENT_ERROR


def _crossing(posteriors: np.ndarray, steps: int) -> np.ndarray:
    """(steps + size,) of (size,): for each b, the sum of those at i < b <= i + steps."""
    sums = np.zeros(len(posteriors) + steps + 1)
    for ahead in range(1, steps + 1):
        sums[ahead : ahead + len(posteriors)] += posteriors
    return sums


@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize(
    ("way", "kind"), parameters(SOME, (NATIVE, COMPACT)) + parameters(("rnnt",), (FALLBACK,))
)
def test_posteriors_that_pass_a_frame_or_a_label_sum_to_one(way, kind, spread, rng):
    problem = _problem(rng, kind, 400, 150, spread)
    result = evaluate(way, problem)
    for n, (frames, labels) in enumerate(zip(*problem[1:3], strict=True)):
        own = {arc: -x[n].astype(np.float64) for arc, x in result.arcs.items()}
        of_frames = sum(_padded(_crossing(x.sum(1), arc[0]), 500) for arc, x in own.items())
        of_labels = sum(_padded(_crossing(x.sum(0), arc[1]), 500) for arc, x in own.items())
        for sums, count in ((of_frames, frames), (of_labels, labels)):
            np.testing.assert_allclose(sums[1 : count + 1], 1, atol=2e-5)
            assert not sums[count + 1 :].any()


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    return np.pad(x, (0, size - len(x)))
