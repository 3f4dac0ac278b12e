"""lattice_align finds the best of all paths, the one with the earliest labels of equal ones."""

import jax
import jax.numpy as jnp
import numpy as np
import paths_oracle
import pytest
from align_problems import WAYS, Problem, Way, assert_best, make, own_arcs, pack
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support import (
    IMPLEMENTATIONS,
    assert_examples_are_true,
    collectives,
    needs_native,
    precision,
)
from tolerances import assert_same_bits

import jax_rnnt
from jax_rnnt.lattice import align_kernels
from jax_rnnt.reference.path_scores import start


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("halves", [False, True], ids=["distinct", "ties"])
def test_best_of_all_paths(way, halves, rng):
    problem = make(rng, halves=halves)
    assert_best(way(problem), problem)


@needs_native
@pytest.mark.parametrize("U", [1, 2, 9, 17, 33])
@pytest.mark.parametrize("T", [1, 8, 31, 33, 65])
def test_sizes(T, U, rng):
    problem = make(rng, T, U, halves=True)
    chosen = np.unique([0, U - 1, T * U // 2, T * U - U, T * U - 1])
    problem = Problem(*(x[chosen] for x in problem))
    assert_best(Way("native")(problem), problem, paths_oracle.walk)


def _large(rng, T=70, U=41, N=3) -> Problem:
    arcs = np.log(rng.uniform(0.01, 1, (2, N, T, U))).astype(np.float32)
    lengths = [T, T - 6, 34], [U - 1, U // 2, 0]
    return Problem(*arcs, *np.array(lengths, np.int32)[:, :N])


@needs_native
@pytest.mark.parametrize("compact", [False, True], ids=["padded", "compact"])
def test_implementations_agree_in_every_bit(compact, rng):
    problem = _large(rng)
    for own, other in zip(Way("native", compact)(problem), Way("reference")(problem), strict=True):
        assert_same_bits(own, other)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equal_sums_are_equal_in_any_order(implementation):
    """A label costs other than a blank: in rounded sums their order would decide."""
    T, U = 90, 30
    arcs = jnp.full((T, U), -0.1234567, jnp.float32), jnp.full((T, U), -9.876543, jnp.float32)
    path = jax_rnnt.lattice_align(*arcs, T, U - 1, implementation=implementation)
    np.testing.assert_array_equal(path.label_frames, np.zeros(U - 1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_blocks_of_frames_are_the_whole(implementation, rng):
    """Walked one after the other, to the same bits."""
    frames, problem = 32, _large(rng, T=96)
    *arcs, frames_lengths, labels_lengths = map(jnp.asarray, problem)
    walk = jax.jit(lambda *operands: align_kernels.walk(*operands, implementation))
    scores = start(frames_lengths > 0, arcs[0].shape[-1], arcs[0].dtype)
    whole_scores, whole_words = walk(*arcs, frames_lengths, labels_lengths, scores)
    words = []
    for first in range(0, 96, frames):
        cut = (x[:, first : first + frames] for x in arcs)
        scores, own = walk(*cut, frames_lengths - first, labels_lengths, scores)
        words.append(own)
    used = np.arange(arcs[0].shape[-1]) <= problem.labels_lengths[:, None]
    np.testing.assert_array_equal(scores[used], whole_scores[used])
    np.testing.assert_array_equal(np.concatenate(words, -1), whole_words)


@pytest.mark.parametrize("way", WAYS[:2] + WAYS[3:5])
def test_no_path_is_better_than_the_sum_of_all(way, rng):
    problem = make(rng)
    costs = jax_rnnt.lattice_cost(*problem)
    assert (way(problem).log_probs <= -np.asarray(costs) * (1 - 1e-6) + 1e-6).all()


@pytest.mark.parametrize("way", WAYS[:2] + WAYS[3:5])
def test_one_senseless_sequence_harms_no_other(way, rng):
    problem = make(rng)
    expected = way(problem)
    n = 14  # of five sequences, one spoilt: four frames, two labels
    for what in ("nan", "inf", "impossible", "far"):
        arcs = [np.array(x) for x in problem[:2]]
        arcs[what == "inf"][n, 1, 1] = {"nan": np.nan, "inf": np.inf}.get(what, -np.inf)
        if what == "impossible":
            arcs[0][n, 1] = -np.inf
        if what == "far":
            arcs[0][n, 1] = -1e30
        actual = way(problem._replace(blank=arcs[0], label=arcs[1]))
        _assert_one_is_different(actual, expected, n)
        if what == "far":
            np.testing.assert_allclose(actual.log_probs[n], -1e30, rtol=1e-6)
            continue
        assert np.isnan(actual.log_probs[n]) == (what != "impossible")
        assert not np.isfinite(actual.log_probs[n])
        np.testing.assert_array_equal(actual.label_frames[n], -1)
        np.testing.assert_array_equal(actual.label_log_probs[n], 0)


def _assert_one_is_different(actual, expected, n):
    others = np.arange(len(expected.log_probs)) != n
    for own, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(own[others], other[others])


def test_an_impossible_arc_changes_the_path_alone(rng):
    problem = make(rng)
    expected = Way("reference")(problem)
    n, frames = 14, expected.label_frames[14]
    label = np.array(problem.label)
    label[n, frames[0], 0] = -np.inf
    problem = problem._replace(label=label)
    actual = Way("reference")(problem)
    assert_best(actual, problem)
    assert actual.label_frames[n, 0] != frames[0]


@pytest.mark.parametrize("way", WAYS[:2] + WAYS[3:5])
def test_lengths_that_make_no_sense(way, rng):
    problem = make(rng)
    expected = way(problem)
    high = np.iinfo(np.int32).max
    lengths = [(0, 1), (-3, 1), (6, 1), (high, 1), (2, -1), (2, 4), (2, high), (-high - 1, 0)]
    for frames, labels in lengths:
        if way.compact and frames > 0 and labels >= 0:
            continue  # its cells would take the place of others
        changed = [np.array(x) for x in problem[2:]]
        changed[0][-1], changed[1][-1] = frames, labels
        actual = way(problem._replace(frames_lengths=changed[0], labels_lengths=changed[1]))
        _assert_one_is_different(actual, expected, len(expected.log_probs) - 1)
        assert np.isnan(actual.log_probs[-1])
        np.testing.assert_array_equal(actual.label_frames[-1], -1)
        np.testing.assert_array_equal(actual.label_log_probs[-1], 0)


def _gradients(way, problem, weights, label_weight):
    """Padded gradients of weights . log_probs + label_weight * all label_log_probs."""
    inputs = pack(problem) if way.compact else problem
    run = way.function(problem.blank.shape[-1] - 1)

    @jax.jit
    def gradients(blank, label):
        def scores(*arcs):
            path = run(*arcs, *inputs[2:])
            return jnp.vdot(weights, path.log_probs) + label_weight * path.label_log_probs.sum()

        return jax.grad(scores, (0, 1))(blank, label)

    found = [np.asarray(x) for x in gradients(*inputs[:2])]
    if not way.compact:
        return found
    assert not any(x[problem.inside.sum() :].any() for x in found)
    padded = [np.zeros(problem.blank.shape, np.float32) for _ in found]
    for own, rows in zip(padded, found):
        own[problem.inside] = rows[: problem.inside.sum()]
    return padded


@pytest.mark.parametrize("way", WAYS[:2] + WAYS[3:5])
def test_gradients_are_the_path(way, rng):
    problem = make(rng)
    weights = np.round(rng.standard_normal(len(problem.frames_lengths)), 1).astype(np.float32)
    weights[3] = 0
    blank, label = _gradients(way, problem, weights, label_weight=10.0)
    path = way(problem)
    for n, (frames, labels) in enumerate(zip(*problem[2:])):
        own = np.zeros_like(blank[n]), np.zeros_like(label[n])
        written = path.label_frames[n, :labels]
        columns = (written[:, None] <= np.arange(frames)).sum(0)
        own[0][range(frames), columns] = weights[n]
        own[1][written, range(labels)] = weights[n] + 10
        np.testing.assert_allclose(blank[n], own[0], rtol=1e-6)
        np.testing.assert_allclose(label[n], own[1], rtol=1e-6)


@needs_native
def test_finite_differences(rng):
    """By steps too small for another path."""
    way, problem = Way("native"), make(rng)
    step = 1e-3 * rng.standard_normal((2, *problem.blank.shape)).astype(np.float32)
    moved = problem._replace(blank=problem.blank + step[0], label=problem.label + step[1])
    gradients = _gradients(way, problem, np.ones(20, np.float32), label_weight=0.0)
    before, after = way(problem), way(moved)
    np.testing.assert_array_equal(before.label_frames, after.label_frames)
    along = sum((g * s).sum((-2, -1)) for g, s in zip(gradients, step))
    np.testing.assert_allclose(after.log_probs - before.log_probs, along, atol=5e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64(implementation, rng):
    problem = make(rng)
    with precision("float64"):
        arcs = [x.astype(np.float64) + 1e-9 for x in problem[:2]]
        wide = jax_rnnt.lattice_align(*arcs, *problem[2:], implementation=implementation)
        narrow = Way("reference")(problem)
        assert wide.log_probs.dtype == wide.label_log_probs.dtype == np.float64
        np.testing.assert_array_equal(wide.label_frames, narrow.label_frames)
        for n in range(20):
            best = paths_oracle.best_of_all(*own_arcs(problem._replace(blank=arcs[0]), n))
            np.testing.assert_allclose(wide.log_probs[n], best.score, rtol=0, atol=2e-8)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_batches_of_any_rank(implementation, rng):
    """vmap, no batch at all, and half dtypes."""
    problem = make(rng)

    def align(*arguments):
        return jax_rnnt.lattice_align(*arguments, implementation=implementation)

    align = jax.jit(align)
    expected = align(*problem)
    one = align(*(x[13] for x in problem))
    mapped = jax.vmap(align)(*(x.reshape(4, 5, *x.shape[1:]) for x in problem))
    for own, single, other in zip(mapped, one, expected, strict=True):
        np.testing.assert_array_equal(own.reshape(other.shape), other)
        np.testing.assert_array_equal(single, other[13])
    halves = [x.astype(jnp.bfloat16) for x in problem[:2]]
    half = align(*halves, *problem[2:])
    assert half.log_probs.dtype == np.float32
    rounded = align(*(x.astype(np.float32) for x in halves), *problem[2:])
    np.testing.assert_array_equal(half.label_frames, rounded.label_frames)


@needs_native
def test_packed_batches_under_vmap(rng):
    problem = pack(make(rng, halves=True))
    other = problem._replace(blank=problem.blank * 2)

    def align(blank, label):
        return jax_rnnt.lattice_align(blank, label, *problem[2:], compact=True)

    mapped = jax.vmap(align)(np.stack([problem.blank, other.blank]), np.stack([problem.label] * 2))
    for i, own in enumerate((problem, other)):
        for x, y in zip(mapped, align(*own[:2]), strict=True):
            np.testing.assert_array_equal(x[i], y)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
@pytest.mark.parametrize(
    ("implementation", "way"), [(None, "Auto"), (None, "manual"), ("reference", "Auto")]
)
def test_sharded_batch_moves_nothing(implementation, way, rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    problem = make(rng, 4, max(count // 2, 1))
    problem = Problem(*(x[: 2 * count] for x in problem))

    def run(blank, label, *lengths):
        def align(*arcs):
            path = jax_rnnt.lattice_align(*arcs, *lengths, implementation=implementation)
            return (path.log_probs, path.label_log_probs), path.label_frames

        scores, vjp, frames = jax.vjp(align, blank, label, has_aux=True)
        return scores, frames, vjp(jax.tree.map(jnp.ones_like, scores))

    expected = jax.jit(run)(*problem)
    with jax.set_mesh(mesh):
        if way == "manual":
            run = jax.shard_map(run, in_specs=P("a"), out_specs=P("a"), check_vma=True)
        arguments = jax.device_put(tuple(problem), NamedSharding(mesh, P("a")))
        compiled = jax.jit(run).lower(*arguments).compile()
        assert not collectives(compiled)
        actual = compiled(*arguments)
    for own, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_export_with_symbolic_batch_and_frames(implementation, rng):
    problem = make(rng)
    N, T = jax.export.symbolic_shape("N, T")
    arcs = (jax.ShapeDtypeStruct((N, T, 4), np.float32),) * 2
    lengths = (jax.ShapeDtypeStruct((N,), np.int32),) * 2
    align = jax.jit(lambda *x: jax_rnnt.lattice_align(*x, implementation=implementation))
    checks = jax_rnnt.custom_call_checks()
    exported = jax.export.export(align, disabled_checks=checks)(*arcs, *lengths)
    reloaded = jax.export.deserialize(bytearray(exported.serialize()))
    for own, other in zip(reloaded.call(*problem), align(*problem), strict=True):
        np.testing.assert_array_equal(own, other)


@needs_native
def test_arguments_are_checked():
    arcs, lengths = np.zeros((2, 4, 3), np.float32), np.array([4, 4], np.int32)
    labels = np.array([2, 2], np.int32)
    wrong = [
        (dict(blank_log_probs=arcs.astype(int)), TypeError, "blank_log_probs"),
        (dict(label_log_probs=arcs[:, 1:]), ValueError, "label_log_probs"),
        (dict(frames_lengths=lengths + 1), ValueError, r"frames_lengths\[0\] = 5"),
        (dict(labels_lengths=labels + 1), ValueError, r"labels_lengths\[0\] = 3"),
        (dict(max_labels=2), ValueError, "max_labels is for the compact form"),
        (dict(implementation="cuda"), ValueError, "implementation"),
        (dict(compact=True), ValueError, "must be \\(S,\\)"),
    ]
    right = dict(
        blank_log_probs=arcs, label_log_probs=arcs, frames_lengths=lengths, labels_lengths=labels
    )
    jax_rnnt.lattice_align(**right)
    for change, error, message in wrong:
        with pytest.raises(error, match=message):
            jax_rnnt.lattice_align(**(right | change))
    with pytest.raises(ValueError, match="max_labels must be given"):
        jax.jit(lambda n: jax_rnnt.lattice_align(arcs[0, 0], arcs[0, 0], n, n, compact=True))(
            jnp.ones(1, jnp.int32)
        )
    with pytest.raises(NotImplementedError, match="differentiated once"):
        jax.hessian(lambda x: jax_rnnt.lattice_align(x, x, 4, 2).log_probs)(arcs[0])
    with pytest.raises(NotImplementedError, match="reverse-mode derivatives only"):
        jax.jvp(lambda x: jax_rnnt.lattice_align(x, x, 4, 2).log_probs, (arcs[0],), (arcs[0],))


def test_the_docstring_is_true():
    assert_examples_are_true("lattice_align", jax_rnnt.lattice_align)
