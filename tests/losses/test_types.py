"""Losses of one symbol a frame and HAT's normalisation against the sum over all alignments."""

import alignments
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import (
    ANY_LOSSES,
    DEFAULT_LOSS,
    DTYPES,
    Loss,
    Problem,
    cells_of,
    evaluate,
    every_lattice,
    for_loss,
    needs_native,
    pack,
    precision,
    ragged,
)
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt

TYPES = list(alignments.TYPES)
NEW_TYPES = ["modified", "constrained"]
every_type = pytest.mark.parametrize("rnnt_type", TYPES)


def _answer(loss: Loss, problem: Problem, rnnt_type: str, **options) -> alignments.Answer:
    moves = alignments.TYPES[rnnt_type]
    return alignments.answer(problem, moves, from_logits=loss.from_logits, **options)


@pytest.mark.parametrize("rnnt_type", NEW_TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_lattice_is_the_sum_over_alignments(rnnt_type, dtype, rng):
    with precision(dtype):
        problem = for_loss(DEFAULT_LOSS, every_lattice(rng), dtype)
        actual = evaluate(DEFAULT_LOSS, problem, rnnt_type=rnnt_type)
    expected = _answer(DEFAULT_LOSS, problem, rnnt_type)
    assert np.isinf(expected.costs).sum() == 3  # more labels than frames
    assert actual.costs.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert actual.gradients.dtype == problem.rows.dtype
    assert_costs(actual.costs, expected.costs, dtype)
    assert_gradients(actual.gradients, expected.gradients, dtype)


def _losses_and_types():
    """All pairs, but that packed plain JAX, slow to compile, has one."""
    for loss in ANY_LOSSES:
        is_slow = loss.compact and loss.implementation == "reference"
        for rnnt_type in NEW_TYPES[:1] if is_slow else TYPES:
            yield pytest.param(loss, rnnt_type, id=f"{loss}-{rnnt_type}")


@pytest.mark.parametrize(("loss", "rnnt_type"), list(_losses_and_types()))
def test_biases_and_options_together(loss, rnnt_type, rng):
    problem = for_loss(loss, every_lattice(rng))
    biases = dict(zip(("label_bias", "blank_bias"), rng.standard_normal((2, 16, 4, 4))))
    options = dict(average_frames=True, fastemit_lambda=np.float32(0.5), blank=-1)
    own = {name: cells_of(loss, problem, x.astype(np.float32)) for name, x in biases.items()}
    actual = evaluate(loss, problem, rnnt_type=rnnt_type, **options, **own)
    expected = _answer(loss, problem, rnnt_type, **options, **biases)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, scale=2)


def test_modified_leaves_fewer_ways_than_are_forbidden_by_constrained(rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    costs = [evaluate(DEFAULT_LOSS, problem, rnnt_type=kind).costs for kind in TYPES[1:]]
    possible = problem.labels_lengths <= problem.frames_lengths
    assert (costs[0][possible] <= costs[1][possible]).all()
    assert np.isinf(costs)[:, ~possible].all()


def test_as_many_labels_a_frame_as_there_are_is_the_regular_loss(rng):
    """Composite arcs (1, n), n up to 3, for which there are no kernels."""
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    column_labels = np.pad(problem.labels, ((0, 0), (0, 1)), constant_values=-1)
    row_labels = np.broadcast_to(column_labels[:, None], (16, 4, 4))
    blank, label = jax_rnnt.log_softmax_pick(problem.rows, row_labels)

    def shifted(x, columns):
        return jnp.pad(x[..., columns:], ((0, 0), (0, 0), (0, columns)), constant_values=-np.inf)

    arcs = {(1, n): sum((shifted(label, i) for i in range(n)), shifted(blank, n)) for n in range(4)}
    costs = jax_rnnt.arcs_cost(arcs, *problem[2:])
    assert_costs(costs, _answer(DEFAULT_LOSS, problem, "regular").costs)


# ---- HAT


def _hat_losses_and_blanks():
    """Every blank by the kernels of padded rows, and one each other way."""
    for loss in ANY_LOSSES:
        for blank in (0, 2, -1) if loss == DEFAULT_LOSS else (2,):
            if loss.from_logits:
                yield pytest.param(loss, blank, id=f"{loss}-{blank}")


@pytest.mark.parametrize(("loss", "blank"), list(_hat_losses_and_blanks()))
def test_hat_is_a_blank_of_its_own_and_a_softmax_of_labels(loss, blank, rng):
    problem = every_lattice(rng)
    labels = np.where(problem.labels == blank % 5, (blank + 1) % 5, problem.labels)
    problem = for_loss(loss, problem._replace(labels=labels.astype(np.int32)))
    options = dict(blank=blank, normalize="hat")
    actual = evaluate(loss, problem, **options)
    expected = _answer(loss, problem, "regular", **options)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)


@pytest.mark.parametrize("rnnt_type", NEW_TYPES)
def test_hat_with_one_symbol_a_frame(rnnt_type, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    problem = problem._replace(labels=np.maximum(problem.labels, 1))
    bias = rng.standard_normal((4, 4)).astype(np.float32)
    options = dict(normalize="hat", fastemit_lambda=np.float32(0.3), label_bias=bias)
    actual = evaluate(DEFAULT_LOSS, problem, rnnt_type=rnnt_type, **options)
    expected = _answer(DEFAULT_LOSS, problem, rnnt_type, **options)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, scale=2)


def test_hats_log_probabilities_are_a_distribution_like_any_other(rng):
    """So `rnnt_loss` needs no option for them."""
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    problem = problem._replace(labels=np.maximum(problem.labels, 1))
    log_probs = jnp.concatenate(
        [
            jax.nn.log_sigmoid(problem.rows[..., :1]),
            jax.nn.log_sigmoid(-problem.rows[..., :1]) + jax.nn.log_softmax(problem.rows[..., 1:]),
        ],
        -1,
    )
    costs = jax_rnnt.rnnt_loss(log_probs, *problem[1:])
    assert_costs(costs, evaluate(DEFAULT_LOSS, problem, normalize="hat").costs.astype(np.float64))


# ---- Edges


@pytest.mark.parametrize("rnnt_type", NEW_TYPES)
def test_more_labels_than_frames_cost_infinity_and_leave_the_others_alone(rnnt_type, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    actual = evaluate(DEFAULT_LOSS, problem, reduction="sum", rnnt_type=rnnt_type)
    impossible = problem.labels_lengths > problem.frames_lengths
    assert actual.costs == np.inf
    assert not actual.gradients[impossible].any()
    assert_gradients(actual.gradients, _answer(DEFAULT_LOSS, problem, rnnt_type).gradients)


def test_padding_has_no_effect_and_no_gradient(rng):
    clean = for_loss(DEFAULT_LOSS, every_lattice(rng))
    spoilt = np.where(clean.inside[..., None], clean.rows, np.float32(np.nan))
    for kind in NEW_TYPES:
        actual = evaluate(DEFAULT_LOSS, clean._replace(rows=spoilt), rnnt_type=kind)
        expected = evaluate(DEFAULT_LOSS, clean, rnnt_type=kind)
        assert_same_bits(actual.costs, expected.costs)
        assert_same_bits(actual.gradients, expected.gradients)


@pytest.mark.parametrize("compact", [False, True])
def test_where_leaves_out(compact, rng):
    problem = ragged(rng, (4,), 4, 3, 5)
    problem.frames_lengths[1:3] = 0, 3
    problem.labels_lengths[1:3] = 0, 2
    counted = np.array([True, False, True, True])
    rows, *rest = pack(problem) if compact else problem
    cost = jax_rnnt.rnnt_loss_from_logits(
        rows, *rest, where=counted, compact=compact, rnnt_type="modified", reduction="mean"
    )
    kept = Problem(*(x[counted] for x in problem))
    assert_costs(cost, _answer(DEFAULT_LOSS, kept, "modified").costs.mean())


@needs_native
@every_type
def test_native_insists(rnnt_type, rng):
    problem = for_loss(DEFAULT_LOSS, every_lattice(rng))
    loss = Loss(from_logits=True, implementation="native")
    actual = evaluate(loss, problem, rnnt_type=rnnt_type, normalize="hat", blank=4)
    expected = evaluate(DEFAULT_LOSS, problem, rnnt_type=rnnt_type, normalize="hat", blank=4)
    assert_same_bits(actual.costs, expected.costs)
    assert_same_bits(actual.gradients, expected.gradients)


# ---- Arguments


@pytest.mark.parametrize("loss", ANY_LOSSES[:2], ids=str)
@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        (dict(rnnt_type="rna"), ValueError, "^rnnt_type must be one of 'regular', 'modified'"),
        (dict(rnnt_type=None), ValueError, "^rnnt_type must be one of"),
        (dict(label_bias=np.zeros((2, 3, 1), int)), TypeError, "^label_bias must be of dtype"),
        (dict(blank_bias="none"), TypeError, "^blank_bias must be an array"),
        (
            dict(label_bias=np.zeros((3, 3, 3), np.float32)),
            ValueError,
            r"^label_bias must broadcast to \(\.\.\., T, U\) = \(2, 3, 3\), got shape \(3, 3, 3\)",
        ),
        (dict(blank_bias=np.zeros((1, 2, 3, 3), np.float32)), ValueError, "^blank_bias must"),
    ],
)
def test_options_are_checked(loss, option, error, message, rng):
    with pytest.raises(error, match=message):
        loss(*for_loss(loss, ragged(rng, (2,), 3, 3, 5)), **option)


def test_normalize_must_be_known(rng):
    with pytest.raises(ValueError, match=r"^normalize must be one of 'softmax', 'hat'"):
        jax_rnnt.rnnt_loss_from_logits(*ragged(rng, (2,), 3, 3, 5), normalize="sigmoid")


def test_a_compact_bias_has_an_entry_for_each_row(rng):
    packed = pack(ragged(rng, (2,), 3, 3, 5))
    with pytest.raises(ValueError, match=r"^label_bias must broadcast to \(S,\) = \(21,\), got"):
        jax_rnnt.rnnt_loss_from_logits(
            *packed, compact=True, label_bias=np.zeros((2, 3, 3), np.float32)
        )
