"""prune_ranges by its rules one after the other, and by what every alignment needs of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pruned_ranges
import pytest
from support import assert_examples_are_true

import jax_rnnt

TYPES = ["regular", "modified", "constrained"]
every_type = pytest.mark.parametrize("rnnt_type", TYPES)


@functools.cache
def _compiled(width, rnnt_type):
    return jax.jit(functools.partial(jax_rnnt.prune_ranges, width=width, rnnt_type=rnnt_type))


def _posteriors(rng, frames, labels, T, U):
    """Numbers in place of posteriors, without ties; NaN beyond the lengths."""
    inside = (np.arange(T)[:, None] < frames[:, None, None]) & (
        np.arange(U) <= labels[:, None, None]
    )
    return np.where(inside, rng.uniform(size=(2, len(frames), T, U)), np.nan).astype(np.float32)


@pytest.mark.parametrize("width", [2, 3, 5, 8])
@every_type
def test_every_rule(rnnt_type, width, rng):
    N, T, U = 64, 9, 7
    frames = rng.integers(1, T + 1, N).astype(np.int32)
    labels = rng.integers(0, U, N).astype(np.int32)
    both = _posteriors(rng, frames, labels, T, U)
    columns = np.asarray(_compiled(width, rnnt_type)(*both, frames, labels))
    assert columns.dtype == np.int32
    clean = np.nan_to_num(both).astype(np.float64)
    S = min(width, U)
    step = S - 1 if rnnt_type == "regular" else 1
    for n in range(N):
        wanted = pruned_ranges.ranges(*clean[:, n], frames[n], labels[n], width, rnnt_type)
        np.testing.assert_array_equal(columns[n], wanted)
        rises = np.diff(columns[n])
        assert ((rises >= 0) & (rises <= step)).all()
        assert columns[n, 0] == 0
        assert (columns[n] <= U - S).all()
        if (labels[n] - S + 1) <= step * (frames[n] - 1):
            # The last frame's band holds the last column, unless no band can come to it.
            assert columns[n, frames[n] - 1] == max(0, labels[n] - S + 1)


def test_the_middle_of_the_posterior_is_in_the_band(rng):
    """Where an alignment is certain, its columns are in the band."""
    T, U, S = 12, 8, 3
    written = np.array([1, 2, 2, 4, 5, 5, 7, 9, 9, 9, 9, 9])
    blank, label = np.zeros((2, T, U), np.float32)
    column = np.minimum(np.searchsorted(written[:7], np.arange(T), "right"), U - 1)
    blank[np.arange(T), column] = 1
    for u, t in enumerate(written[:7]):
        label[t, u] = 1
    first = np.asarray(jax_rnnt.prune_ranges(blank, label, T, U - 1, width=S))
    inside = (column >= first) & (column < first + S)
    assert inside.mean() > 0.9


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_of_equal_gains_the_first(rnnt_type):
    zeros = np.zeros((6, 5), np.float32)
    columns = jax_rnnt.prune_ranges(zeros, zeros, 6, 4, width=2, rnnt_type=rnnt_type)
    # Only the last frame asks for a column, and those before make room for it.
    np.testing.assert_array_equal(columns, [0, 0, 0, 1, 2, 3])


def test_widths_of_all_columns_and_more(rng):
    both = _posteriors(rng, np.array([4]), np.array([2]), 4, 3)
    for width in (3, 4, 99):
        columns = jax_rnnt.prune_ranges(*both, [4], [2], width=width)
        np.testing.assert_array_equal(columns, np.zeros((1, 4)))


def test_no_labels_one_frame_one_column():
    one = np.ones((1, 1), np.float32)
    for rnnt_type in TYPES:
        columns = jax_rnnt.prune_ranges(one, 0 * one, 1, 0, width=5, rnnt_type=rnnt_type)
        np.testing.assert_array_equal(columns, [0])


def test_traced_lengths_that_make_no_sense_give_columns_within_the_lattice(rng):
    frames = np.array([0, -5, 99, 4, 3, 2**31 - 1], np.int32)
    labels = np.array([2, 3, 1, -4, 99, -(2**31)], np.int32)
    both = rng.uniform(size=(2, 6, 4, 5)).astype(np.float32)
    columns = np.asarray(_compiled(2, "regular")(*both, frames, labels))
    assert ((columns >= 0) & (columns <= 3)).all()


def test_batch_dimensions_vmap_and_no_gradient(rng):
    frames, labels = np.array([4, 2], np.int32), np.array([3, 1], np.int32)
    both = _posteriors(rng, frames, labels, 4, 5)
    run = functools.partial(jax_rnnt.prune_ranges, width=2)
    columns = run(*both, frames, labels)
    np.testing.assert_array_equal(jax.vmap(run)(*both, frames, labels), columns)
    np.testing.assert_array_equal(run(*both[:, None], frames[None], labels[None]), columns[None])

    def used(blank):
        return run(blank, both[1], frames, labels).astype(jnp.float32).sum()

    assert not np.any(jax.grad(used)(both[0]))


def test_the_least_width(rng):
    frames, labels = np.array([5, 3, 1, 7]), np.array([5, 7, 3, 0])
    assert jax_rnnt.least_prune_width(frames, labels) == 4
    assert jax_rnnt.least_prune_width(frames[:1], labels[:1]) == 2
    assert jax_rnnt.least_prune_width(3, 0) == 1
    assert jax_rnnt.least_prune_width([], []) == 1
    # A band of it comes to the last column, and a narrower one does not.
    frames, labels, T, U = np.array([1, 2, 3, 5]), np.full(4, 5), 5, 6
    zeros = np.zeros((4, T, U), np.float32)
    for width in (2, 3, 4, 6):
        columns = jax_rnnt.prune_ranges(zeros, zeros, frames, labels, width=width)
        ends = np.asarray(columns)[np.arange(4), frames - 1] + width == U
        least = [jax_rnnt.least_prune_width(t, 5) for t in frames]
        np.testing.assert_array_equal(ends, width >= np.array(least))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(width=1), ValueError, "^width must be at least 2 for rnnt_type 'regular', got 1"),
        (
            dict(width=1, rnnt_type="constrained"),
            ValueError,
            "^width must be at least 2 for rnnt_type 'constrained', got 1",
        ),
        (dict(width=0, rnnt_type="modified"), ValueError, "^width must be at least 1"),
        (dict(width="5"), TypeError, "^width must be an integer"),
        (dict(width=2, rnnt_type="rna"), ValueError, "^rnnt_type must be one of"),
        (dict(width=2, blank_posteriors=np.zeros(3, np.float32)), ValueError, "^blank_post"),
        (dict(width=2, label_posteriors=np.zeros((3, 3), np.float32)), ValueError, "^label_post"),
        (dict(width=2, blank_posteriors=np.zeros((3, 4), int)), TypeError, "^blank_posteriors"),
        (dict(width=2, frames_lengths=4), ValueError, r"^frames_lengths must be in \[1, 3\]"),
        (dict(width=2, labels_lengths=4), ValueError, r"^labels_lengths must be in \[0, 3\]"),
        (dict(width=2, labels_lengths=[1]), ValueError, "^labels_lengths must have shape"),
    ],
)
def test_arguments_are_checked(options, error, message):
    zeros = np.zeros((3, 4), np.float32)
    arguments = dict(
        blank_posteriors=zeros, label_posteriors=zeros, frames_lengths=3, labels_lengths=3
    )
    with pytest.raises(error, match=message):
        jax_rnnt.prune_ranges(**(arguments | options))


@pytest.mark.parametrize(
    ("frames", "labels", "error", "message"),
    [
        ([3.0], [1], TypeError, "^frames_lengths must be integers"),
        ([0], [1], ValueError, "^frames_lengths must be in"),
        ([1], [-1], ValueError, "^labels_lengths must be in"),
        ([1], [1, 2], ValueError, "^labels_lengths must have shape"),
    ],
)
def test_the_least_width_checks_its_arguments(frames, labels, error, message):
    with pytest.raises(error, match=message):
        jax_rnnt.least_prune_width(frames, labels)


def test_the_least_width_is_known_in_advance():
    with pytest.raises(TypeError, match="must be known in advance"):
        jax.jit(jax_rnnt.least_prune_width)(jnp.ones(2, int), jnp.ones(2, int))


@pytest.mark.parametrize("name", ["prune_ranges", "least_prune_width"])
def test_examples(name):
    assert_examples_are_true(name, getattr(jax_rnnt, name))
