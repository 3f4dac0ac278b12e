"""The compact layout: rows of one sequence behind another's, frame by frame, lengths traced.

The other files run every compact loss against the oracle; here is what only this layout has.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import LOSSES, Loss, Problem, compiled, evaluate, every_lattice, for_loss, pack, unpack
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

INT32 = np.iinfo(np.int32)


@pytest.fixture(params=[p for p in LOSSES if p.values[0].compact])
def compact_loss(request) -> Loss:
    return request.param


def _evaluate_packed(loss: Loss, packed: Problem) -> tuple[np.ndarray, np.ndarray]:
    costs, gradients = compiled(loss, ())(packed, np.ones(16, np.float32), {})
    return np.asarray(costs), np.asarray(gradients)


def _first_rows(packed: Problem) -> np.ndarray:
    counts = packed.frames_lengths * (packed.labels_lengths + 1)
    return np.cumsum(counts) - counts


@pytest.mark.parametrize("order", [np.arange(16), np.arange(16)[::-1]])
def test_each_sequence_is_what_it_is_alone_and_padded(compact_loss, order, rng):
    problem = for_loss(compact_loss, every_lattice(rng))
    problem = Problem(*(x[order] for x in problem))
    padded = Loss(compact_loss.from_logits, implementation=compact_loss.implementation)
    actual, expected = evaluate(compact_loss, problem), evaluate(padded, problem)
    assert_costs(actual.costs, expected.costs.astype(np.float64))
    assert_gradients(actual.gradients, expected.gradients.astype(np.float64))


def test_one_compilation_serves_all_lengths(compact_loss, rng):
    run = compiled(compact_loss, ())
    problem = for_loss(compact_loss, every_lattice(rng))
    run(pack(problem), np.ones(16, np.float32), {})
    compilations = run._cache_size()
    other = problem._replace(frames_lengths=problem.frames_lengths[::-1].copy())
    assert_costs(evaluate(compact_loss, other).costs, compact_loss.expected(other).costs)
    assert run._cache_size() == compilations


@pytest.mark.parametrize(
    ("argument", "value"), [("frames_lengths", 0), ("frames_lengths", -5), ("labels_lengths", -1)]
)
def test_sequence_without_rows_costs_nan_and_shifts_nobody(compact_loss, argument, value, rng):
    problem = for_loss(compact_loss, every_lattice(rng))
    untouched = evaluate(compact_loss, problem)
    spoilt = getattr(problem, argument).copy()
    spoilt[6] = value
    actual = evaluate(compact_loss, problem._replace(**{argument: spoilt}))
    others = np.arange(16) != 6
    assert np.isnan(actual.costs[6])
    assert not actual.gradients[6].any()
    assert_same_bits(actual.costs[others], untouched.costs[others])
    assert_same_bits(actual.gradients[others], untouched.gradients[others])


@pytest.mark.parametrize("argument", ["frames_lengths", "labels_lengths"])
@pytest.mark.parametrize("value", [300, 2**16, INT32.max])
def test_sequences_that_do_not_fit_cost_nan_and_those_before_do_not(
    compact_loss, argument, value, rng
):
    packed = pack(for_loss(compact_loss, every_lattice(rng)))
    untouched_costs, untouched_gradients = _evaluate_packed(compact_loss, packed)
    spoilt = getattr(packed, argument).copy()
    spoilt[6] = value
    costs, gradients = _evaluate_packed(compact_loss, packed._replace(**{argument: spoilt}))
    first = _first_rows(packed)[6]
    assert np.isnan(costs[6:]).all()
    assert not gradients[first:].any()
    assert_same_bits(costs[:6], untouched_costs[:6])
    assert_same_bits(gradients[:first], untouched_gradients[:first])


def test_sequence_whose_labels_run_out_costs_nan(compact_loss, rng):
    packed = pack(for_loss(compact_loss, every_lattice(rng)))
    untouched_costs, untouched_gradients = _evaluate_packed(compact_loss, packed)
    lengths = packed.labels_lengths.copy()
    lengths[15] = 40  # 4 x 41 rows still fit, 40 labels do not
    assert (packed.frames_lengths * (lengths + 1)).sum() <= len(packed.rows)
    costs, gradients = _evaluate_packed(compact_loss, packed._replace(labels_lengths=lengths))
    first = _first_rows(packed)[15]
    assert np.isnan(costs[15])
    assert not gradients[first:].any()
    assert_same_bits(costs[:15], untouched_costs[:15])
    assert_same_bits(gradients[:first], untouched_gradients[:first])


@pytest.mark.parametrize("label", [-1, -2, 5, INT32.min, INT32.max])
def test_label_out_of_range_spoils_its_sequence_alone(compact_loss, label, rng):
    problem = for_loss(compact_loss, every_lattice(rng))
    untouched = evaluate(compact_loss, problem)
    labels = problem.labels.copy()
    labels[7, 1] = label
    actual = evaluate(compact_loss, problem._replace(labels=labels))
    others = np.arange(16) != 7
    assert np.isnan(actual.costs[7])
    assert not actual.gradients[7].any()
    assert_same_bits(actual.costs[others], untouched.costs[others])
    assert_same_bits(actual.gradients[others], untouched.gradients[others])


def test_exactly_as_many_rows_and_labels_as_needed(compact_loss, rng):
    """The 259 rows and 50 labels that sixteen lattices of 4 x 4 are packed into."""
    frames_lengths, labels_lengths = np.full((2, 16), [[4], [3]], np.int32)
    frames_lengths[7], labels_lengths[[7, 9]] = 3, 4
    problem = for_loss(
        compact_loss,
        Problem(
            rng.standard_normal((16, 4, 5, 5)),
            rng.integers(0, 5, (16, 4)).astype(np.int32),
            frames_lengths,
            labels_lengths,
        ),
    )
    needed, labels_needed = problem.inside.sum(), labels_lengths.sum()
    packed = pack(problem)
    tight = packed._replace(rows=packed.rows[:needed], labels=packed.labels[:labels_needed])
    same_shapes = pack(for_loss(compact_loss, every_lattice(rng)))
    assert [x.shape for x in tight] == [x.shape for x in same_shapes]
    jax.eval_shape(lambda rows: compact_loss(rows, *tight[1:]), tight.rows)  # checks the lengths
    costs, gradients = _evaluate_packed(compact_loss, tight)
    expected = compact_loss.expected(problem)
    assert_costs(costs, expected.costs)
    assert_gradients(unpack(gradients, problem), expected.gradients)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (dict(frames_lengths=[3, 3]), r"need sum\(T_n \(U_n \+ 1\)\) = 15 rows, got 12"),
        (dict(frames_lengths=[3, 0]), r"frames_lengths\[1\] = 0"),
        (dict(labels_lengths=[-1, 1]), r"labels_lengths\[0\] = -1"),
        (dict(labels=[1, 2]), r"labels must have sum\(labels_lengths\) = 3 entries, got 2"),
        (dict(labels=[1, 5, 2]), r"labels must be in \[0, 5\) .*labels\[1\] = 5"),
        (dict(labels=[[1, 2, 3]]), r"compact labels must have shape \(L,\), got \(1, 3\)"),
        (dict(frames_lengths=[[2, 3]]), r"frames_lengths must be \(N,\)"),
        (dict(labels_lengths=[2]), "^labels_lengths must have shape"),
        (dict(rows=np.zeros((2, 6, 5), np.float32)), r"must have shape \(S, V\)"),
        (dict(rows=np.zeros((12, 0), np.float32)), r"must have shape \(S, V\)"),
    ],
)
def test_bad_arguments_raise_when_concrete(compact_loss, changed, complaint):
    given = dict(
        rows=np.zeros((12, 5), np.float32),
        labels=[1, 2, 3],
        frames_lengths=[2, 3],
        labels_lengths=[2, 1],
    )
    with pytest.raises(ValueError, match=complaint):
        compact_loss(**{**given, **changed})


def test_vmap_adds_a_dimension(compact_loss, rng):
    problem = for_loss(compact_loss, every_lattice(rng))
    reverse = problem._replace(frames_lengths=problem.frames_lengths[::-1].copy())
    both = [np.stack(pair) for pair in zip(pack(problem), pack(reverse), strict=True)]

    @jax.jit
    @jax.vmap
    def run(rows, *rest):
        costs, vjp = jax.vjp(lambda x: compact_loss(x, *rest), rows)
        return costs, *vjp(jnp.ones_like(costs))

    costs, gradients = run(*both)
    for n, arguments in enumerate((pack(problem), pack(reverse))):
        expected_costs, expected_gradients = _evaluate_packed(compact_loss, arguments)
        assert_costs(costs[n], expected_costs.astype(np.float64))
        assert_gradients(gradients[n], expected_gradients.astype(np.float64))


def _lattices(rng) -> tuple[np.ndarray, np.ndarray, Problem]:
    """Arcs, padded (2, 16, 4, 4) and packed (2, S), padding NaN, and their geometry."""
    problem = every_lattice(rng)
    padded = rng.standard_normal((2, 16, 4, 4), np.float32) - 1
    packed = np.full((2, problem.inside.size), np.nan, np.float32)
    packed[:, : problem.inside.sum()] = padded[:, problem.inside]
    return padded, packed, problem


@functools.cache
def _arcs_costs_and_gradients(implementation: str, **options):
    """Of arcs and lengths, jitted."""

    @jax.jit
    def run(arcs, *lengths):
        def costs(arcs):
            return jax_rnnt.lattice_cost(*arcs, *lengths, implementation=implementation, **options)

        values, vjp = jax.vjp(costs, arcs)
        return values, *vjp(jnp.ones_like(values))

    return run


@pytest.mark.parametrize("max_labels", [None, 2])
def test_lattice_cost_of_packed_arcs(implementation, max_labels, rng):
    """Sequences of more labels than their bound cost NaN."""
    padded, packed, problem = _lattices(rng)
    run = _arcs_costs_and_gradients(implementation, compact=True, max_labels=max_labels)
    costs, gradients = run(packed, *problem[2:])
    expected_costs, expected = map(
        np.array, _arcs_costs_and_gradients(implementation)(padded, *problem[2:])
    )
    if max_labels is not None:
        beyond = problem.labels_lengths > max_labels
        expected_costs[beyond], expected[:, beyond] = np.nan, 0
    assert_costs(costs, expected_costs.astype(np.float64))
    count = problem.inside.sum()
    assert_gradients(gradients[:, :count], expected[:, problem.inside])
    assert not gradients[:, count:].any()


def test_lattice_cost_of_packed_arcs_under_vmap(implementation, rng):
    _, packed, problem = _lattices(rng)
    cost = functools.partial(jax_rnnt.lattice_cost, compact=True, implementation=implementation)
    arcs = np.stack([packed, packed - 1], 1)
    costs = jax.jit(jax.vmap(cost, in_axes=(0, 0, None, None)))(*arcs, *problem[2:])
    run = _arcs_costs_and_gradients(implementation, compact=True, max_labels=None)
    for n in range(2):
        assert_costs(costs[n], np.asarray(run(arcs[:, n], *problem[2:])[0], np.float64))
