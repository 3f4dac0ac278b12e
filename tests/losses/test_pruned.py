"""The pruned recipe against its definition, materialised and summed over all alignments."""

import jax
import jax.numpy as jnp
import numpy as np
import pruned_problems
import pytest
from pruned_problems import (
    assert_close,
    assert_simple_costs,
    evaluate,
    expected,
    make_problem,
    spoilt,
)
from support import IMPLEMENTATIONS, assert_examples_are_true, precision
from tolerances import assert_costs, assert_same_bits

import jax_rnnt


@pytest.mark.parametrize(
    ("rnnt_type", "normalize"),
    [("regular", "softmax"), ("modified", "hat"), ("constrained", "softmax"), ("regular", "hat")],
)
def test_costs_and_all_six_gradients(rnnt_type, normalize, rng):
    problem = make_problem(rng)
    penalty = np.asarray(jax_rnnt.delay_penalty(problem.frames_lengths, 5, 0.1))
    own = dict(rnnt_type=rnnt_type, normalize=normalize, width=2)
    traced = dict(label_bias=penalty, fastemit_lambda=0.5)
    wanted, columns = expected(problem, **traced, **own)
    assert columns.any()
    assert np.isfinite(wanted.pruned).sum() >= 4
    assert_close(evaluate(problem, traced=traced, **own), wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64_to_its_last_digits(implementation, rng):
    with precision("float64"):
        problem = make_problem(rng, dtype="float64")
        options = dict(width=3, blank=-1, lm_scale=0.1)
        labels = np.minimum(problem.labels, 4)
        problem = problem._replace(labels=labels)
        actual = evaluate(problem, implementation=implementation, **options)
        wanted, _ = expected(problem, **options)
        assert_close(actual, wanted, "float64")


def test_a_band_of_all_columns_is_the_whole_loss(rng):
    problem = make_problem(rng)
    wanted, columns = expected(problem, width=9)
    assert not columns.any()
    assert_close(evaluate(problem, width=9), wanted)


def test_a_narrower_band_costs_more(rng):
    problem = make_problem(rng)
    narrow, whole = (evaluate(problem, width=width).pruned for width in (2, 9))
    assert (narrow >= whole - 1e-5).all()
    assert narrow.sum() > whole.sum() + 0.1


def test_utterances_without_any_labels(rng):
    """A batch of them raises in k2."""
    problem = make_problem(rng, (3, 1), (0, 0), U=1)
    options = dict(width=5, rnnt_type="constrained")
    assert_close(evaluate(problem, **options), expected(problem, **options)[0])


def test_an_utterance_that_needs_a_wider_band_leaves_the_others_alone(rng):
    frames, labels = (5, 1, 2, 5, 3, 2), (4, 4, 4, 0, 2, 1)
    problem = make_problem(rng, frames, labels)
    assert jax_rnnt.least_prune_width(frames, labels) == 5
    actual = evaluate(problem, width=2)
    assert np.isinf(actual.pruned).tolist() == [False, True, True, False, False, False]
    assert np.isfinite(actual.simple).all()
    assert not np.any(actual.gradients.encoder[1:3])
    assert_close(actual, expected(problem, width=2)[0])
    assert np.isfinite(evaluate(problem, width=9).pruned).all()


def test_simple_joints_of_peaks_apart(rng):
    """More than float32's 87 nats lie between the symbols of encoder and predictor."""
    problem = make_problem(rng)
    own = problem.operands
    own.simple_encoder[::2, :, 0] += 160
    own.simple_predictor[::2, :, 3] += 120
    wanted, _ = expected(problem, width=2)
    actual = evaluate(problem, width=2)
    assert wanted.simple.max() > 200
    assert_close(actual, wanted)


def test_padding_has_no_effect_and_no_gradient(rng):
    spoiled = make_problem(rng)
    clean = spoilt(spoiled, 7.0)
    first, second = (evaluate(x, width=2) for x in (spoiled, clean))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        assert_same_bits(a, b)
    zeros = spoilt(spoiled._replace(operands=first.gradients), 0.0).operands
    for a, b in zip(zeros, first.gradients):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", pruned_problems.Operands._fields)
def test_what_is_no_number_stays_in_its_utterance(name, value, rng):
    problem = make_problem(rng)
    wanted = evaluate(problem, width=2)
    if name in ("kernel", "bias"):
        getattr(problem.operands, name)[..., 0] = value
    else:
        getattr(problem.operands, name)[0, 1, 0] = value
    actual = evaluate(problem, width=2)
    is_simple = name.startswith("simple")
    if name in ("kernel", "bias"):
        assert np.isnan(actual.pruned).all()
        assert np.isfinite(actual.simple).all()
        assert not any(np.any(x) for x in actual.gradients[:4])
        return
    # tanh of an infinity is a number; a band without a simple joint's advice is any band.
    assert np.isnan(actual.simple[0]) == is_simple
    assert np.isnan(actual.pruned[0]) == (not is_simple and np.isnan(value))
    assert_same_bits(actual.simple[1:], wanted.simple[1:])
    assert_same_bits(actual.pruned[1:], wanted.pruned[1:])
    for own, other in zip(actual.gradients, wanted.gradients):
        assert np.isfinite(own).all()
        if own.ndim == 3:
            assert_same_bits(own[1:], other[1:])
    if is_simple:
        assert not np.any(actual.gradients.simple_encoder[0])
        assert not np.any(actual.gradients.simple_predictor[0])


def test_options_of_all_losses(rng):
    problem = make_problem(rng)
    costs = evaluate(problem, width=2)
    counted = np.array([True, False, True, True, False, True])
    frames = problem.frames_lengths.copy()
    frames[1] = 0
    where = problem._replace(frames_lengths=frames)
    options = dict(width=2, reduction="mean", average_frames=True)
    losses = jax_rnnt.pruned_rnnt_loss(*where.operands, *where.batch, where=counted, **options)
    for own, every in zip(losses, costs[:2]):
        assert_costs(own, (every / problem.frames_lengths)[counted].mean())


def test_other_activations(rng):
    problem = make_problem(rng)
    clean = spoilt(problem, 0.0)
    own, hidden = clean.operands, np.sin
    losses = jax_rnnt.pruned_rnnt_loss(
        *problem.operands, *problem.batch, width=9, activation=jnp.sin
    )
    logits = hidden(own.encoder[:, :, None] + own.predictor[:, None]) @ own.kernel + own.bias
    np.testing.assert_allclose(
        losses.pruned, jax_rnnt.rnnt_loss_from_logits(logits, *problem.batch), rtol=1e-5
    )


def test_dropout_and_clamp_are_those_of_the_whole_joint(rng):
    problem = make_problem(rng)
    key = jax.random.key(3)
    own = dict(dropout_rate=0.3, clamp=0.1)
    clean = spoilt(problem, 0.0).operands[:4]
    actual = evaluate(problem, (0.0, 1.0), dict(dropout_key=key), width=9, **own)

    @jax.jit
    def whole(joint):
        def total(joint):
            band = dict(columns=np.zeros((6, 5), int), width=5)
            costs = jax_rnnt.rnnt_loss_from_joint(
                *joint, *problem.batch, dropout_key=key, **own, **band
            )
            return costs.sum(), costs

        return jax.grad(total, has_aux=True)(joint)

    gradients, costs = whole(clean)
    np.testing.assert_allclose(actual.pruned, costs, rtol=1e-6)
    for own, other in zip(actual.gradients, gradients):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=2e-6)


def test_hypotheses_are_refused_by_name(rng):
    problem = make_problem(rng)
    several = problem.operands._replace(predictor=problem.operands.predictor[:, None])
    with pytest.raises(NotImplementedError, match=r"^pruned_rnnt_loss takes no hypotheses"):
        jax_rnnt.pruned_rnnt_loss(*several, *problem.batch)


def test_without_a_bias(rng):
    problem = make_problem(rng)
    own = problem.operands
    zero = problem._replace(operands=own._replace(bias=np.zeros_like(own.bias)))
    losses = jax_rnnt.pruned_rnnt_loss(*own[:3], None, *own[4:], *problem.batch, width=2)
    assert_costs(losses.pruned, evaluate(zero, width=2).pruned.astype(np.float64))


def test_half_joints_have_half_logits_and_float32_costs(rng):
    problem = make_problem(rng, dtype="bfloat16")
    own = problem.operands
    wide = own._replace(
        simple_encoder=own.simple_encoder.astype(np.float32),
        simple_predictor=own.simple_predictor.astype(np.float32),
    )
    wanted, _ = expected(problem, width=2)
    actual = evaluate(problem._replace(operands=wide), width=2)
    assert actual.pruned.dtype == actual.simple.dtype == np.float32
    assert actual.gradients.kernel.dtype == own.kernel.dtype
    assert_simple_costs(actual.simple, wanted.simple)
    np.testing.assert_allclose(actual.pruned, wanted.pruned, rtol=2e-2)
    for a, b in zip(actual.gradients, wanted.gradients):
        assert np.linalg.norm(a.astype(np.float64) - b) < 2e-2 * np.linalg.norm(b)


def test_training_follows_the_materialised_recipe(rng):
    """Steps of gradient descent, each from where the definition in float64 came to."""
    problem = make_problem(rng)
    theirs = problem._replace(
        operands=problem.operands._replace(
            **{name: x.astype(np.float64) for name, x in problem.operands._asdict().items()}
        )
    )
    losses = []
    for _ in range(6):
        actual = evaluate(problem, width=2)
        wanted, _ = expected(theirs, width=2)
        np.testing.assert_allclose(actual.pruned, wanted.pruned, rtol=1e-5)
        np.testing.assert_allclose(actual.simple, wanted.simple, rtol=1e-5)
        losses.append(float(wanted.pruned.sum()))
        problem, theirs = (
            x._replace(
                operands=pruned_problems.Operands(
                    *(w - w.dtype.type(0.1) * g for w, g in zip(x.operands, result.gradients))
                )
            )
            for x, result in ((problem, actual), (theirs, wanted))
        )
    assert losses[-1] < 0.8 * losses[0]


# ---- Arguments


def _call(problem, **options):
    return jax_rnnt.pruned_rnnt_loss(*problem.operands, *problem.batch, **options)


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
        (dict(width=2.0), TypeError, "^width must be an integer"),
        (dict(rnnt_type="rna"), ValueError, "^rnnt_type must be one of"),
        (dict(normalize="none"), ValueError, "^normalize must be one of"),
        (dict(lm_scale=1.0), ValueError, r"^lm_scale must be in \[0, 1\)"),
        (dict(lm_scale=jnp.zeros(())), TypeError, "^lm_scale must be a number known in advance"),
        (dict(reduction="max"), ValueError, "^reduction must be one of"),
        (dict(implementation="fast"), ValueError, "^implementation must be one of"),
        (dict(blank=6), ValueError, r"^blank must be in \[-6, 6\)"),
        (dict(label_bias=np.zeros((3, 1, 1), np.float32)), ValueError, "^label_bias must broad"),
        (dict(where=np.ones(3, bool)), ValueError, "^where must have shape"),
    ],
)
def test_options_are_checked(options, error, message, rng):
    with pytest.raises(error, match=message):
        _call(make_problem(rng), **options)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("simple_encoder", lambda x: x[0, 0], r"^simple_encoder must have shape \(\.\.\., T, V\)"),
        ("simple_encoder", lambda x: x[:, 1:], r"^simple_encoder and simple_predictor must have"),
        ("simple_predictor", lambda x: x[..., 1:], r"^simple_predictor must have shape"),
        ("simple_predictor", lambda x: x[:, 1:], r"^simple_encoder and simple_predictor must have"),
        ("kernel", lambda x: x[1:], r"^kernel must have shape"),
    ],
)
def test_shapes_are_checked(name, change, message, rng):
    problem = make_problem(rng)
    own = problem.operands
    changed = own._replace(**{name: change(getattr(own, name))})
    with pytest.raises(ValueError, match=message):
        _call(problem._replace(operands=changed))


def test_lengths_and_labels_are_checked(rng):
    problem = make_problem(rng)
    with pytest.raises(ValueError, match=r"^frames_lengths must be in \[1, 5\]"):
        _call(problem._replace(frames_lengths=problem.frames_lengths + 1))
    with pytest.raises(ValueError, match=r"^labels must be in \[0, 6\)"):
        _call(problem._replace(labels=problem.labels + 6))


@pytest.mark.parametrize("name", ["pruned_rnnt_loss", "simple_arcs"])
def test_examples(name):
    assert_examples_are_true(name, getattr(jax_rnnt, name))
