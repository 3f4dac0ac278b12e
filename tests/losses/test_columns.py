"""Logits of a band of columns against the whole loss with nothing allowed outside of the band."""

import functools

import alignments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pruned_problems import band_bias
from support import Problem, needs_native, ragged
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

N, T, U, V = 5, 4, 5, 6


def _problem(rng) -> Problem:
    return ragged(rng, (N,), T, U, V)._replace(
        labels=rng.integers(1, V, (N, U - 1)).astype(np.int32),
        frames_lengths=np.array([4, 3, 1, 4, 2], np.int32),
        labels_lengths=np.array([4, 2, 1, 0, 3], np.int32),
    )


def _rising(rng, S: int) -> np.ndarray:
    """(N, T), columns that let alignments through, mostly."""
    steps = np.sort(rng.integers(0, U - S + 1, (N, T)), -1)
    return steps.astype(np.int32)


def _of_band(rows: np.ndarray, columns: np.ndarray, S: int) -> np.ndarray:
    """(N, T, S, ...), NaN where a column is beyond the last."""
    column = columns[..., None] + np.arange(S)
    n, t = np.arange(N)[:, None, None], np.arange(T)[:, None]
    inside = (column >= 0) & (column < U)
    found = rows[n, t, np.clip(column, 0, U - 1)]
    return np.where(inside[..., None], found, np.nan).astype(rows.dtype)


@functools.cache
def _compiled(options: tuple):
    @jax.jit
    def run(logits, rest, columns, traced):
        def costs(logits):
            return jax_rnnt.rnnt_loss_from_logits(
                logits, *rest, columns=columns, **dict(options), **traced
            )

        value, vjp = jax.vjp(costs, logits)
        return value, *vjp(jnp.ones_like(value))

    return run


def _evaluate(problem: Problem, columns, S: int, traced=None, **options):
    """Costs, and gradients (N, T, S, V) of the band's rows, of which those of padding are NaN."""
    rows = np.where(problem.inside[..., None], problem.rows, np.float32(np.nan))
    run = _compiled(tuple(sorted(options.items())))
    found = run(_of_band(rows, columns, S), problem[1:], columns, traced or {})
    return tuple(map(np.asarray, found))


def _expected(problem, columns, S, rnnt_type="regular", bias=0.0, **options):
    outside = band_bias(columns, S, U)
    moves = alignments.TYPES[rnnt_type]
    answer = alignments.answer(
        problem, moves, label_bias=bias + outside, blank_bias=outside, **options
    )
    return answer.costs, np.nan_to_num(_of_band(answer.gradients, columns, S))


@pytest.mark.parametrize("normalize", ["softmax", "hat"])
@pytest.mark.parametrize("rnnt_type", list(alignments.TYPES))
def test_bands_with_every_option(rnnt_type, normalize, rng):
    problem, S = _problem(rng), 3
    columns, bias = _rising(rng, S), rng.standard_normal((N, T, U)).astype(np.float32)
    own = dict(rnnt_type=rnnt_type, normalize=normalize, average_frames=True)
    traced = dict(label_bias=bias, fastemit_lambda=np.float32(0.5))
    costs, gradients = _evaluate(problem, columns, S, traced, **own)
    options = dict(average_frames=True, fastemit_lambda=0.5, normalize=normalize)
    wanted = _expected(problem, columns, S, rnnt_type, bias, **options)
    assert np.isfinite(wanted[0]).sum() >= 3
    assert_costs(costs, wanted[0])
    assert_gradients(gradients, wanted[1], scale=2)


@pytest.mark.parametrize(
    "implementation", [pytest.param("native", marks=needs_native), "reference"]
)
def test_bands_at_the_corners(implementation, rng):
    problem, S = _problem(rng), 3
    first, last = np.zeros((N, T), np.int32), np.full((N, T), U - S, np.int32)
    down = np.broadcast_to(np.array([2, 0, 1, 0], np.int32), (N, T))
    for columns in (first, last, down):
        costs, gradients = _evaluate(problem, columns, S, implementation=implementation)
        wanted = _expected(problem, columns, S)
        assert_costs(costs, wanted[0])
        assert_gradients(gradients, wanted[1])


def test_a_band_of_one_column_is_one_path(rng):
    """One symbol a frame, for which a path is a band."""
    problem = _problem(rng)
    columns = np.minimum(np.arange(T), problem.labels_lengths[:, None]).astype(np.int32)
    costs, _ = _evaluate(problem, columns, 1, rnnt_type="modified")
    wanted, _ = _expected(problem, columns, 1, "modified")
    assert np.isfinite(wanted).tolist() == [True, True, True, True, False]
    assert_costs(costs, wanted)


def test_all_columns_are_the_whole_loss_bit_for_bit(rng):
    problem = _problem(rng)
    costs, gradients = _evaluate(problem, np.zeros((N, T), np.int32), U)
    rows = problem.rows
    own, vjp = jax.vjp(lambda x: jax_rnnt.rnnt_loss_from_logits(x, *problem[1:]), rows)
    assert_same_bits(costs, own)
    assert_same_bits(gradients, vjp(jnp.ones(N))[0])


def test_traced_columns_beyond_the_lattice_hold_nothing(rng):
    problem, S = _problem(rng), 3
    columns = rng.integers(-2, U, (N, T)).astype(np.int32)
    columns[0], columns[3, 1:] = [-1, 0, 1, 3], [-(2**31), 2**31 - 1, -7]
    costs, gradients = _evaluate(problem, columns, S)
    wanted = _expected(problem, columns.astype(np.int64), S)
    assert np.isfinite(wanted[0]).any()
    assert_costs(costs, wanted[0])
    assert_gradients(gradients, wanted[1])


def test_any_batch_dimensions_and_vmap_are_one_batch(rng):
    problem, S = _problem(rng), 3
    columns = _rising(rng, S)
    costs, _ = _evaluate(problem, columns, S)
    logits = _of_band(problem.rows, columns, S)

    def loss(logits, labels, frames, lengths, columns):
        return jax_rnnt.rnnt_loss_from_logits(logits, labels, frames, lengths, columns=columns)

    arguments = (logits, *problem[1:], columns)
    assert_same_bits(jax.vmap(loss)(*arguments), costs)
    assert_same_bits(loss(*(x[None] for x in arguments))[0], costs)
    assert_same_bits(loss(*(x[0] for x in arguments)), costs[0])


def test_second_derivatives_of_the_reference(rng):
    problem, S = _problem(rng), 2
    problem = Problem(*(x[:1, :3] if x.ndim == 4 else x[:1] for x in problem))
    problem.frames_lengths[:], problem.labels_lengths[:] = 3, 3
    columns = np.array([[0, 1, 2]], np.int32)
    full = np.asarray(problem.rows, np.float64)
    logits = jnp.asarray(full[:, np.arange(3)[:, None], columns[0][:, None] + np.arange(S)])
    step = rng.standard_normal(logits.shape).astype(np.float32)

    @jax.jit
    def gradient(logits):
        return jax.grad(
            lambda x: jax_rnnt.rnnt_loss_from_logits(
                x, *problem[1:], columns=columns, implementation="reference", reduction="sum"
            )
        )(logits)

    logits = logits.astype(np.float32)
    _, along = jax.jvp(gradient, (logits,), (jnp.asarray(step),))
    difference = (gradient(logits + 0.01 * step) - gradient(logits - 0.01 * step)) / 0.02
    np.testing.assert_allclose(along, difference, atol=2e-4)
    assert np.abs(along).max() > 0.01


def test_where_leaves_out_lengths_and_columns(rng):
    problem, S = _problem(rng), 3
    columns = _rising(rng, S)
    costs, _ = _evaluate(problem, columns, S)
    counted = np.array([True, False, True, True, True])
    problem.frames_lengths[1], columns[1] = 0, 99
    columns[2, 1:] = 99  # beyond its one frame
    loss = jax_rnnt.rnnt_loss_from_logits(
        _of_band(problem.rows, columns, S), *problem[1:], columns=columns, where=counted
    )
    assert_costs(loss, np.where(counted, costs, 0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(compact=True), ValueError, "^columns are not for the compact form"),
        (dict(columns=np.zeros((N, T))), TypeError, "^columns must be integers"),
        (dict(columns=np.zeros((N, U), int)), ValueError, r"^columns must have shape \(5, 4\)"),
        (
            dict(columns=np.full((N, T), 3)),
            ValueError,
            r"^columns must be in \[0, 2\] \(U - S = 2\), got columns\[0, 0\] = 3",
        ),
        (dict(logits=np.zeros((N, T, 6, V), np.float32)), ValueError, "^logits must have at most"),
        (dict(logits=np.zeros((T, V), np.float32)), ValueError, r"^logits must have shape"),
        (dict(labels=np.zeros((), int)), ValueError, r"^labels must have shape \(\.\.\., U - 1\)"),
        (dict(labels=np.zeros((2, 4), int)), ValueError, r"^labels must have shape \(5, 4\)"),
        (
            dict(label_bias=np.zeros((N, T, 3), np.float32)),
            ValueError,
            r"^label_bias must broadcast to \(\.\.\., T, U\) = \(5, 4, 5\)",
        ),
    ],
)
def test_arguments_are_checked(change, error, message, rng):
    problem = _problem(rng)
    logits = np.zeros((N, T, 3, V), np.float32)
    arguments = dict(problem._asdict(), logits=logits, columns=np.zeros((N, T), int)) | change
    del arguments["rows"]
    with pytest.raises(error, match=message):
        jax_rnnt.rnnt_loss_from_logits(**arguments)
