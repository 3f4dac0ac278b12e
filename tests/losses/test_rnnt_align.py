"""rnnt_align is the best of all alignments, from logits and from a joint, whole and by blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import paths_oracle
import pytest
from alignments import TYPES, Cells, walks
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support import (
    IMPLEMENTATIONS,
    Problem,
    assert_examples_are_true,
    collectives,
    every_lattice,
    needs_native,
    pack,
    ragged,
)

import jax_rnnt


@pytest.fixture(autouse=True)
def _whole_precision():
    """A GPU's products of float32 are of tf32 by default."""
    with jax.default_matmul_precision("highest"):
        yield


def _float32(problem: Problem) -> Problem:
    return problem._replace(rows=problem.rows.astype(np.float32))


def _best(problem: Problem, n: int, rnnt_type: str):
    """The best walk of one sequence: its score, each label's frame and log-probability."""
    frames, labels = int(problem.frames_lengths[n]), int(problem.labels_lengths[n])
    rows = oracle.log_softmax(problem.rows[n, :frames, : labels + 1].astype(np.float64))
    label = np.full((frames, labels + 1), -np.inf)
    label[:, :labels] = rows[:, np.arange(labels), problem.labels[n, :labels]]
    cells = Cells(rows[..., 0], label, rows[..., :0])
    found = []
    for taken in walks(frames, labels, TYPES[rnnt_type], ends_with_blank=False):
        features = [feature for move in taken for feature in move[2]]
        score = sum(array[place] for array, place in map(cells.entry, features))
        written = [t for kind, t, _ in features if kind == "label"]
        found.append(paths_oracle.Path(score, tuple(written)))
    if not found:
        return paths_oracle.Path(-np.inf, (-1,) * labels), np.zeros(labels)
    best = max(found)
    return best, label[list(best.frames), range(labels)]


def _assert_best(path, problem, rnnt_type="regular"):
    for n, labels in enumerate(problem.labels_lengths):
        best, written = _best(problem, n, rnnt_type)
        np.testing.assert_allclose(path.log_probs[n], best.score, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(path.label_frames[n, :labels], best.frames)
        np.testing.assert_array_equal(path.label_frames[n, labels:], -1)
        np.testing.assert_allclose(path.label_log_probs[n, :labels], written, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("implementation", "rnnt_type"), [*((None, x) for x in TYPES), ("reference", "regular")]
)
def test_best_of_all_alignments(implementation, rnnt_type, rng):
    problem = _float32(every_lattice(rng))
    options = dict(rnnt_type=rnnt_type, implementation=implementation)
    path = jax_rnnt.rnnt_align(*problem, **options)
    _assert_best(path, problem, rnnt_type)
    costs = jax_rnnt.rnnt_loss_from_logits(*problem, **options)
    assert (path.log_probs <= -costs + 1e-5).all()


def test_compact_is_padded(rng):
    problem = _float32(every_lattice(rng))
    expected = jax_rnnt.rnnt_align(*problem)
    path = jax_rnnt.rnnt_align(*pack(problem), compact=True)
    for own, other in zip(path, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)
    with pytest.raises(NotImplementedError, match="not aligned in compact form"):
        jax_rnnt.rnnt_align(*pack(problem), compact=True, rnnt_type="modified")


def test_biases_and_hat(rng):
    """A window forbids all other frames; HAT is its own log-probabilities."""
    problem = _float32(every_lattice(rng))
    frames = np.maximum(problem.frames_lengths - 1, 0)[:, None] + np.zeros(3, np.int32)
    window = np.where(np.arange(4)[:, None] == frames[:, None], 0, -np.inf).astype(np.float32)
    window = np.concatenate([window, np.zeros((16, 4, 1), np.float32)], -1)
    path = jax_rnnt.rnnt_align(*problem, label_bias=window)
    used = np.arange(3) < problem.labels_lengths[:, None]
    np.testing.assert_array_equal(path.label_frames, np.where(used, frames, -1))
    hat = jax_rnnt.rnnt_align(*problem, normalize="hat")
    costs = jax_rnnt.rnnt_loss_from_logits(*problem, normalize="hat")
    assert (hat.log_probs <= -costs + 1e-5).all()


def test_gradients_are_those_of_the_path(rng):
    """Of each row that the path leaves, for each of its arcs: one less the softmax."""
    problem = _float32(every_lattice(rng))

    def score(rows):
        return jax_rnnt.rnnt_align(rows, *problem[1:]).log_probs.sum()

    path = jax_rnnt.rnnt_align(*problem)
    expected = np.zeros(problem.rows.shape)
    probabilities = np.exp(oracle.log_softmax(problem.rows.astype(np.float64)))
    for n, (frames, labels) in enumerate(zip(*problem[2:])):
        written = np.asarray(path.label_frames[n, :labels])
        for u, t in enumerate(written):
            expected[n, t, u, problem.labels[n, u]] += 1
            expected[n, t, u] -= probabilities[n, t, u]
        for t in range(frames):
            u = (written <= t).sum()
            expected[n, t, u, 0] += 1
            expected[n, t, u] -= probabilities[n, t, u]
    np.testing.assert_allclose(jax.grad(score)(problem.rows), expected, atol=1e-6)


def test_where_and_what_makes_no_sense(rng):
    problem = _float32(every_lattice(rng))
    expected = jax_rnnt.rnnt_align(*problem)
    where = np.arange(16) != 5
    left_out = [np.array(x) for x in problem]
    left_out[2][5], left_out[1][5] = 0, 99
    path = jax_rnnt.rnnt_align(*left_out, where=where)
    assert path.log_probs[5] == 0
    traced = jax.jit(jax_rnnt.rnnt_align)(*left_out)
    assert np.isnan(traced.log_probs[5])
    for own, other, third in zip(path, expected, traced, strict=True):
        np.testing.assert_array_equal(own[where], other[where])
        np.testing.assert_allclose(third[where], other[where], rtol=1e-6)
    assert (path.label_frames[5] == -1).all()
    with pytest.raises(ValueError, match=r"frames_lengths\[5\] = 0"):
        jax_rnnt.rnnt_align(*left_out)


def _joint(rng, N=2, T=70, U=9, H=8, V=7):
    problem = ragged(rng, (N,), T, U, V)
    sides = rng.standard_normal((N, T, H)), rng.standard_normal((N, U, H))
    weights = rng.standard_normal((H, V)), rng.standard_normal(V)
    return [x.astype(np.float32) for x in (*sides, *weights)], problem[1:]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_joint_is_its_logits_and_blocks_are_the_whole(implementation, rng):
    joint, rest = _joint(rng)
    encoder, predictor, kernel, bias = joint
    logits = np.tanh(encoder[:, :, None] + predictor[:, None]) @ kernel + bias

    def align(block_frames):
        return jax_rnnt.rnnt_align_from_joint(
            *joint, *rest, block_frames=block_frames, implementation=implementation
        )

    whole = align(None)
    expected = jax_rnnt.rnnt_align(logits, *rest)
    np.testing.assert_array_equal(whole.label_frames, expected.label_frames)
    np.testing.assert_allclose(whole.log_probs, expected.log_probs, rtol=1e-6)
    np.testing.assert_allclose(whole.label_log_probs, expected.label_log_probs, rtol=2e-6)
    for block_frames in (20, 64) if implementation == "native" else (64,):
        blocks = align(block_frames)
        np.testing.assert_array_equal(blocks.log_probs, whole.log_probs)
        np.testing.assert_array_equal(blocks.label_frames, whole.label_frames)
        np.testing.assert_allclose(blocks.label_log_probs, whole.label_log_probs, rtol=2e-6)


def test_derivatives_of_the_joint(rng):
    joint, rest = _joint(rng, T=6, U=4)

    def score(*joint, **options):
        return jax_rnnt.rnnt_align_from_joint(*joint, *rest, **options).log_probs.sum()

    def of_logits(encoder, predictor, kernel, bias):
        logits = jnp.tanh(encoder[:, :, None] + predictor[:, None]) @ kernel
        return jax_rnnt.rnnt_align(logits + bias[None, None, None], *rest).log_probs.sum()

    own, other = (jax.grad(f, (0, 1, 2, 3))(*joint) for f in (score, of_logits))
    for x, y in zip(own, other, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    with pytest.raises(NotImplementedError, match="no derivative with block_frames"):
        jax.grad(lambda x: score(x, *joint[1:], block_frames=32))(joint[0])
    for options in (dict(block_frames=0), dict(block_frames=32, rnnt_type="modified")):
        with pytest.raises(ValueError, match="block_frames"):
            score(*joint, **options)


@needs_native
@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
@pytest.mark.parametrize("way", ["Auto", "manual"])
def test_sharded_blocks_move_nothing(way, rng):
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    (encoder, predictor, kernel, bias), rest = _joint(rng, N=count, T=40, U=3)

    def align(encoder, predictor, *rest):
        operands = encoder, predictor, kernel, bias, *rest
        return jax_rnnt.rnnt_align_from_joint(*operands, block_frames=32)

    expected = align(encoder, predictor, *rest)
    with jax.set_mesh(mesh):
        if way == "manual":
            align = jax.shard_map(align, in_specs=P("a"), out_specs=P("a"), check_vma=True)
        arguments = jax.device_put((encoder, predictor, *rest), NamedSharding(mesh, P("a")))
        compiled = jax.jit(align).lower(*arguments).compile()
        moves = collectives(compiled)
        assert moves <= {"all-reduce"} if way == "Auto" else not moves
        actual = compiled(*arguments)
    for own, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)


@pytest.mark.parametrize("name", ["rnnt_align", "rnnt_align_from_joint"])
def test_the_docstring_is_true(name):
    assert_examples_are_true(name, getattr(jax_rnnt, name))
