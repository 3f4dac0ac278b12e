"""arcs_align finds the best of all paths of each loss's arcs; arcs_posteriors are the gradients."""

import arcs_oracle
import arcs_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arcs_problems import KINDS, make
from support import IMPLEMENTATIONS, assert_examples_are_true
from tolerances import assert_costs, assert_gradients

import jax_rnnt

SIXTEEN = np.arange(16)
# Of the losses' arcs; the reference takes any as it takes some.
NAMES = ["rnnt", "multi_blank", "durations_012", "any_ends"]


def _align(problem):
    options = dict(initial=problem.initial, final=problem.final)
    given = {key: x for key, x in options.items() if x is not None}

    @jax.jit
    def run(arcs, given, *lengths):
        def scores(arcs, given):
            path = jax_rnnt.arcs_align(arcs, *lengths, last=problem.last, **given)
            return path.log_probs.sum() + 10 * path.label_log_probs.sum(), path

        gradients, path = jax.grad(scores, (0, 1), has_aux=True)(arcs, given)
        return path, *gradients

    return jax.tree.map(np.asarray, run(problem.arcs, given, *problem[1:3]))


@pytest.mark.parametrize("name", NAMES)
def test_best_of_all_paths(name, rng):
    problem = make(rng, KINDS[name])
    path, arcs, ends = _align(problem)
    for n in SIXTEEN:
        paths = list(arcs_oracle.paths(arcs_oracle.sequence(problem, (n,))))
        if not paths:
            assert path.log_probs[n] == -np.inf
            assert (path.label_frames[n] == -1).all()
            assert not any(x[n].any() for x in arcs.values())
            continue
        best = max(paths, key=lambda own: own.score)
        np.testing.assert_allclose(path.log_probs[n], best.score, rtol=2e-6, atol=2e-6)
        expected = {key: np.zeros_like(x[n]) for key, x in arcs.items()}
        frames, weights = [], []
        for arc, t, u in best.arcs:
            expected[arc][t, u] += 1 + 10 * arc[1]
            frames += [t] * arc[1]
            weights += [problem.arcs[arc][n, t, u]] * arc[1]
        np.testing.assert_array_equal(path.label_frames[n, : len(frames)], frames)
        np.testing.assert_array_equal(path.label_frames[n, len(frames) :], -1)
        np.testing.assert_array_equal(path.label_log_probs[n, : len(frames)], weights)
        np.testing.assert_array_equal(path.label_log_probs[n, len(frames) :], 0)
        for key, own in arcs.items():
            np.testing.assert_allclose(own[n], expected[key], rtol=1e-6)
        for key, place in (("initial", best.begin), ("final", best.end)):
            if key in ends:
                np.testing.assert_array_equal(ends[key][n], np.arange(ends[key].shape[1]) == place)


def test_two_arcs_are_lattice_align(rng):
    """With many equal paths, and a sequence that makes no sense."""
    arcs = -rng.integers(1, 4, (2, 16, 4, 4)).astype(np.float32) / 2
    arcs[0, 5, 0, 0] = np.nan
    arcs[1, 10] = -np.inf
    lengths = (1 + SIXTEEN // 4).astype(np.int32), (SIXTEEN % 4).astype(np.int32)
    one = jax_rnnt.lattice_align(*arcs, *lengths)
    other = jax_rnnt.arcs_align({(1, 0): arcs[0], (0, 1): arcs[1]}, *lengths, last=[(1, 0)])
    for own, expected in zip(other, one, strict=True):
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["rnnt", "durations_012"])
def test_posteriors(implementation, name, rng):
    problem = make(rng, KINDS[name])
    expected = arcs_oracle.solve(problem)
    costs, posteriors = jax_rnnt.arcs_posteriors(
        problem.arcs, *problem[1:3], last=problem.last, implementation=implementation
    )
    assert_costs(costs, expected.cost)
    for key, own in posteriors.items():
        assert_gradients(own, -expected.arcs[key])
    written = sum(x for (_, du), x in posteriors.items() if du)
    possible = np.isfinite(costs)[:, None] & (np.arange(4) < problem.labels_lengths[:, None])
    np.testing.assert_allclose(written.sum(1), possible, atol=1e-6)


def test_posteriors_of_packed_halves(rng):
    problem = make(rng, KINDS["one_symbol"])
    halves = problem._replace(arcs={k: x.astype(jnp.bfloat16) for k, x in problem.arcs.items()})
    costs, posteriors = jax_rnnt.arcs_posteriors(halves.arcs, *problem[1:3])
    assert {x.dtype for x in (costs, *posteriors.values())} == {np.dtype(np.float32)}
    inside = arcs_problems.inside_of(problem)
    packed = {key: x[inside] for key, x in halves.arcs.items()}
    own, rows = jax_rnnt.arcs_posteriors(packed, *problem[1:3], compact=True)
    np.testing.assert_array_equal(own, costs)
    for key, x in rows.items():
        np.testing.assert_allclose(x, np.asarray(posteriors[key])[inside], atol=1e-6)


def test_vmap_and_one_sequence(rng):
    problem = make(rng, KINDS["one_symbol"])

    def align(arcs, frames, labels):
        return jax_rnnt.arcs_align(arcs, frames, labels, last=problem.last)

    align = jax.jit(align)
    expected = align(*problem[:3])
    mapped = jax.vmap(align)(*problem[:3])
    one = align({key: x[14] for key, x in problem.arcs.items()}, *(x[14] for x in problem[1:3]))
    for own, single, other in zip(mapped, one, expected, strict=True):
        np.testing.assert_array_equal(own, other)
        np.testing.assert_array_equal(single, other[14])


def test_lengths_that_make_no_sense(rng):
    problem = make(rng, KINDS["any_ends"])
    align = jax.jit(
        lambda *lengths: jax_rnnt.arcs_align(
            problem.arcs, *lengths, last=problem.last, initial=problem.initial, final=problem.final
        )
    )
    expected = align(*problem[1:3])
    for frames, labels in ((0, 1), (5, 1), (2, 4), (2, -1)):
        lengths = [np.array(x) for x in problem[1:3]]
        lengths[0][9], lengths[1][9] = frames, labels
        actual = align(*lengths)
        assert np.isnan(actual.log_probs[9])
        assert (actual.label_frames[9] == -1).all()
        for own, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(np.delete(own, 9, 0), np.delete(other, 9, 0))


@pytest.mark.parametrize("function", [jax_rnnt.arcs_align, jax_rnnt.arcs_posteriors])
def test_arguments_are_checked(function):
    arcs = {(1, 0): np.zeros((4, 3), np.float32), (1, 1): np.zeros((4, 3), np.float32)}
    function(arcs, 4, 2)
    with pytest.raises(ValueError, match="frames_lengths must be in"):
        function(arcs, 5, 2)
    with pytest.raises(ValueError, match="last must hold keys"):
        function(arcs, 4, 2, last=[(2, 0)])
    with pytest.raises(TypeError, match="arcs must be a dict"):
        function(list(arcs.values()), 4, 2)


@pytest.mark.parametrize("name", ["arcs_align", "arcs_posteriors"])
def test_the_docstring_is_true(name):
    assert_examples_are_true(name, getattr(jax_rnnt, name))
