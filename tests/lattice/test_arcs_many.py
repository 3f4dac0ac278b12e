"""Lattices in batches so large that a GPU walks beta together with the cotangents.

From 96 columns a multiprocessor on: the batches here are so for a GPU of up to 166 multiprocessors.
"""

import jax
import numpy as np
import pytest
from arcs_problems import KINDS, NATIVE, assert_near, assert_same, check, evaluate, make
from support import needs_native

pytestmark = needs_native
COPIES = 250
every_kind = pytest.mark.parametrize("kind", [KINDS["rnnt"], KINDS["one_symbol"]])


def _copies(x):
    """The 16 sequences over and over."""
    return jax.tree.map(lambda own: np.concatenate([own] * COPIES), x)


def _assert_as_few(problem, cotangents=None, scale=1.0):
    """All copies have the results that the sequences have alone, which the caller has checked."""
    few = evaluate(NATIVE, problem, cotangents)
    last, copied = problem.last, _copies(problem._replace(last=None))
    many = evaluate(
        NATIVE,
        copied._replace(last=last),
        None if cotangents is None else _copies(np.asarray(cotangents)),
    )
    assert_near(many, _copies(few), scale=scale)
    first = slice(0, 16)
    for copy in (1, COPIES - 1):
        rolled = jax.tree.map(lambda x, own=copy: np.roll(x, -16 * own, 0), many)
        assert_same(rolled, many, first)


@every_kind
def test_many_sequences_have_the_results_of_few(kind, rng):
    problem = make(rng, kind)
    cotangents = rng.standard_normal(16)
    cotangents[3] = 0
    check(NATIVE, problem, cotangents)
    _assert_as_few(problem, cotangents, np.abs(cotangents).max())


@every_kind
def test_many_sequences_with_dead_arcs(kind, rng):
    problem = make(rng, kind)
    for x in problem.arcs.values():
        x[rng.random(x.shape) < 0.3] = -np.inf
    check(NATIVE, problem)
    _assert_as_few(problem)


@every_kind
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_many_sequences_with_senseless_arcs(kind, value, rng):
    problem = make(rng, kind)
    for x in problem.arcs.values():
        x[rng.random(x.shape) < 0.05] = value
    assert np.isnan(evaluate(NATIVE, problem).cost).any()
    _assert_as_few(problem)


@every_kind
@pytest.mark.parametrize("weight", [-1e6, 5e5])
def test_many_sequences_of_far_weights(kind, weight, rng):
    """Beyond the numbers that the fast walks hold."""
    problem = make(rng, kind)
    for x in problem.arcs.values():
        x[:] += np.float32(weight)
    check(NATIVE, problem)
    _assert_as_few(problem)


@every_kind
def test_many_sequences_of_wrong_lengths(kind, rng):
    problem = make(rng, kind)
    problem.frames_lengths[2] = 9
    problem.labels_lengths[5] = -1
    assert np.isnan(evaluate(NATIVE, problem).cost[[2, 5]]).all()
    _assert_as_few(problem)
