"""Every option of the losses from a joint, alone and in pairs, against materialised logits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import IMPLEMENTATIONS, Joint, Problem, assert_close, make_problem
from materialised import evaluate, expected
from philox import dropout_mask, philox
from support import PLATFORM, full, precision, ragged
from tolerances import assert_same_bits, relative_error

import jax_rnnt
from jax_rnnt.rows import dropout

DURATIONS = (0, 1, 2, 3)


@functools.cache
def key() -> jax.Array:
    return jax.random.key(7)


def _with_durations(rng, problem: Problem) -> Problem:
    joint, D = problem.joint, len(DURATIONS)
    kernel = np.concatenate([joint.kernel, rng.standard_normal((joint.kernel.shape[0], D))], 1)
    bias = np.concatenate([joint.bias, rng.standard_normal(D)])
    dtype = joint.kernel.dtype
    joint = joint._replace(kernel=kernel.astype(dtype), bias=bias.astype(dtype))
    return problem._replace(joint=joint)


def _rnnt(problem, **options):
    lattice = problem[1:]
    return functools.partial(_of_logits, jax_rnnt.rnnt_loss_from_logits, lattice, options)


def _tdt(problem, **options):
    options = {"durations": DURATIONS, **options}
    return functools.partial(_of_logits, jax_rnnt.tdt_loss_from_logits, problem[1:], options)


def _of_logits(loss, lattice, options, logits):
    return loss(logits, *lattice, **options)


TDT = functools.partial(jax_rnnt.tdt_loss_from_joint, durations=DURATIONS)
RNNT = jax_rnnt.rnnt_loss_from_joint
# Below, at and just above tiles; a sequence alone; H below, at and above a draw of the generator.
SHAPES = [(3, 9, 6, 6, 7), (1, 17, 9, 8, 5), (2, 16, 8, 11, 9)]


@pytest.mark.parametrize(
    ("implementation", "min_posterior"), [(None, None), (None, 0.0), ("reference", None)]
)
def test_two_heads(rng, implementation, min_posterior):
    problem = _with_durations(rng, make_problem(rng, 3, 17, 9, 6, 7))
    cotangents = rng.standard_normal(3)
    options = {"sigma": 0.05, "omega": 0.25, "blank": -1}
    actual = evaluate(
        TDT,
        problem,
        cotangents,
        implementation=implementation,
        min_posterior=min_posterior,
        **options,
    )
    assert_close(actual, expected(problem, _tdt(problem, **options), cotangents=cotangents))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_cell_that_no_alignment_can_leave_may_be_nan(rng, implementation):
    problem = _with_durations(rng, make_problem(rng, 1, 3, 2, 2, 4, make=full))
    problem.joint.encoder[0, 2, 0], problem.joint.predictor[0, 0, 0] = np.inf, -np.inf
    late = functools.partial(jax_rnnt.tdt_loss_from_joint, durations=(1, 2, 4, 5))
    actual = evaluate(late, problem, implementation=implementation)
    assert all(np.isfinite(x).all() for x in (actual.costs, *actual.gradients))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hat(rng, implementation):
    problem = make_problem(rng, 3, 17, 9, 6, 7)
    actual = evaluate(RNNT, problem, normalize="hat", implementation=implementation)
    assert_close(actual, expected(problem, _rnnt(problem, normalize="hat")))


def test_hat_with_a_posterior_to_leave_out_below(rng):
    problem = make_problem(rng, 3, 17, 9, 6, 7)
    actual = evaluate(RNNT, problem, normalize="hat", min_posterior=0.0, tile=(4, 4, 9))
    assert_close(actual, expected(problem, _rnnt(problem, normalize="hat")))


@pytest.mark.parametrize("make", [ragged, full])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout(rng, shape, make):
    problem = make_problem(rng, *shape, make=make)
    N, T, U, H, _ = shape
    mask = dropout_mask(key(), 0.3, N, T, U, H)
    actual = evaluate(RNNT, problem, traced={"dropout_key": key()}, dropout_rate=0.3)
    assert_close(actual, expected(problem, _rnnt(problem), mask=mask))


def test_dropout_of_a_rate_near_one_and_in_the_reference(rng):
    problem = make_problem(rng, 2, 9, 6, 16, 7)
    mask = dropout_mask(key(), 0.9, 2, 9, 6, 16)
    actual = evaluate(
        RNNT,
        problem,
        traced={"dropout_key": key()},
        dropout_rate=0.9,
        implementation="reference",
    )
    assert_close(actual, expected(problem, _rnnt(problem), mask=mask))


def test_dropout_has_the_same_mask_in_every_tiling(rng):
    problem = make_problem(rng, 2, 20, 10, 8, 7)
    options = {"traced": {"dropout_key": key()}, "dropout_rate": 0.5, "min_posterior": 0.0}
    first = evaluate(RNNT, problem, tile=(3, 2, 5), **options)
    for tile in ((1, 1, 7), None):
        other = evaluate(RNNT, problem, tile=tile, **options)
        np.testing.assert_allclose(first.costs, other.costs, rtol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dropout_of_no_sequences(rng, implementation):
    problem = make_problem(rng, 0, 3, 2, 8, 5, make=full)
    options = {"dropout_rate": 0.5, "implementation": implementation}
    actual = evaluate(RNNT, problem, traced={"dropout_key": key()}, **options)
    assert actual.costs.shape == (0,)
    assert not actual.gradients.kernel.any()


def test_another_key_is_another_mask_and_no_rate_is_no_mask(rng):
    problem = make_problem(rng, 2, 9, 6, 8, 7)
    costs = [
        evaluate(RNNT, problem, traced={"dropout_key": jax.random.key(i)}, dropout_rate=rate).costs
        for i, rate in ((1, 0.5), (2, 0.5), (1, 0.0))
    ]
    assert (costs[0] != costs[1]).all()
    assert_same_bits(costs[2], evaluate(RNNT, problem).costs)


def test_old_keys_are_keys(rng):
    problem = make_problem(rng, 2, 9, 6, 8, 7)
    new, old = (
        evaluate(RNNT, problem, traced={"dropout_key": key}, dropout_rate=0.5)
        for key in (jax.random.key(3), jax.random.PRNGKey(3))
    )
    assert_same_bits(new.costs, old.costs)


def test_the_generator_gives_the_published_words():
    """Those of Random123's known answers, of seven rounds."""
    counter = 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344
    key, wanted = (0xA4093822, 0x299F31D0), [0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A]
    words = dropout.philox(*(tuple(jnp.uint32(x) for x in xs) for xs in (counter, key)))
    assert [int(word) for word in words] == wanted
    assert philox(counter, key).tolist() == wanted


def test_dropout_keeps_as_much_as_it_says():
    cells = (jnp.arange(64)[:, None, None], jnp.arange(8)[:, None], jnp.arange(8))
    cells = [jnp.expand_dims(x, tuple(range(3 - x.ndim))) for x in cells]
    seed = dropout.seed_of(key())
    numbers = np.asarray(dropout.uniform_bits(seed, *cells, 64))
    for rate in (0.1, 0.2, 0.5):
        kept = (numbers >= dropout.threshold_of(rate)).mean()
        assert abs(kept - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / numbers.size)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_what_is_dropped_has_no_gradient_whatever_it_is(rng, implementation, activation):
    problem = make_problem(rng, 1, 3, 2, 8, 5, make=full)
    unit = int(np.argmin(dropout_mask(key(), 0.9, 1, 3, 2, 8)[0, 1].sum(0)))
    problem.joint.encoder[0, 1, unit] = np.nan
    assert not dropout_mask(key(), 0.9, 1, 3, 2, 8)[0, 1, :, unit].any()
    actual = evaluate(
        RNNT,
        problem,
        traced={"dropout_key": key()},
        dropout_rate=0.9,
        activation=activation,
        implementation=implementation,
    )
    assert all(np.isfinite(x).all() for x in (actual.costs, *actual.gradients))
    assert not actual.gradients.encoder[0, 1, unit]


@pytest.mark.parametrize(
    ("implementation", "clamp"), [(None, 0.01), (None, 0.3), ("reference", 0.01)]
)
def test_clamp(rng, implementation, clamp):
    problem = make_problem(rng, 3, 9, 6, 6, 7)
    cotangents = np.array([1.0, -2.0, 0.5])
    options = {"clamp": clamp, "implementation": implementation, "min_posterior": 0.0}
    actual = evaluate(RNNT, problem, cotangents, **options)
    wanted = expected(problem, _rnnt(problem), clamp=clamp, cotangents=cotangents)
    assert_close(actual, wanted)
    unclamped = expected(problem, _rnnt(problem), cotangents=cotangents)
    assert relative_error(unclamped.gradients.bias, wanted.gradients.bias) > 1e-2


def test_clamp_counts_a_cost_whole_where_it_is_divided_by_its_frames(rng):
    problem = make_problem(rng, 3, 9, 6, 6, 7)
    options = {"clamp": 0.05, "min_posterior": 0.0, "fastemit_lambda": 0.3}
    actual = evaluate(RNNT, problem, average_frames=True, **options)
    frames = problem.frames_lengths
    wanted = expected(
        problem, _rnnt(problem, fastemit_lambda=0.3), clamp=0.05, cotangents=1 / frames
    )
    assert_close(actual, wanted._replace(costs=wanted.costs / frames))


def _hypotheses(rng, N, K, T, U, H, V, make=ragged):
    """A problem of N K sequences, K of one encoder, and the same with an axis of hypotheses."""
    problem = make_problem(rng, N * K, T, U, H, V, make=make)
    encoder = problem.joint.encoder[::K]
    frames = problem.frames_lengths[::K]
    flat = problem._replace(
        joint=problem.joint._replace(encoder=encoder), frames_lengths=np.repeat(frames, K)
    )

    def folded(x):
        return x.reshape(N, K, *x.shape[1:])

    return flat, Problem(
        flat.joint._replace(predictor=folded(flat.joint.predictor)),
        folded(flat.labels),
        frames,
        folded(flat.labels_lengths),
    )


def _assert_close_to_flat(actual, wanted, K, dtype="float32"):
    gradients = actual.gradients
    predictor = gradients.predictor.reshape(-1, *gradients.predictor.shape[2:])
    flat = actual._replace(
        costs=actual.costs.reshape(-1), gradients=gradients._replace(predictor=predictor)
    )
    assert actual.costs.shape[-1] == K
    assert_close(flat, wanted, dtype)


@pytest.mark.parametrize(("implementation", "K"), [(None, 1), (None, 3), ("reference", 3)])
def test_hypotheses_of_one_encoder(rng, K, implementation):
    flat, problem = _hypotheses(rng, 2, K, 17, 9, 6, 7)
    cotangents = rng.standard_normal((2, K))
    wanted = expected(flat, _rnnt(flat), cotangents=cotangents.reshape(-1))
    actual = evaluate(RNNT, problem, cotangents, implementation=implementation)
    _assert_close_to_flat(actual, wanted, K)


def test_hypotheses_without_a_batch(rng):
    flat, problem = _hypotheses(rng, 1, 3, 9, 6, 6, 7)
    alone = Problem(
        problem.joint._replace(
            encoder=problem.joint.encoder[0], predictor=problem.joint.predictor[0]
        ),
        *(x[0] for x in problem[1:]),
    )
    costs = evaluate(RNNT, alone).costs
    np.testing.assert_allclose(costs, expected(flat, _rnnt(flat)).costs, rtol=1e-6)


def test_minimum_word_error_of_hypotheses(rng):
    """The gradient of the manual's three lines is -p (e - mean e - loss) of each cost."""
    _, problem = _hypotheses(rng, 2, 3, 9, 6, 6, 7)
    errors = jnp.asarray(rng.integers(0, 5, (2, 3)), jnp.float32)

    def mwer(costs):
        probs = jax.nn.softmax(-costs)
        return (probs * (errors - errors.mean(-1, keepdims=True))).sum()

    costs = jnp.asarray(evaluate(RNNT, problem).costs)
    probs = jax.nn.softmax(-costs)
    centred = errors - errors.mean(-1, keepdims=True)
    each = (probs * centred).sum(-1, keepdims=True)
    np.testing.assert_allclose(jax.grad(mwer)(costs), -probs * (centred - each), atol=1e-6)


PAIRS = [
    pair
    for pair in itertools.combinations(["tdt", "hat", "dropout", "clamp", "hypotheses"], 2)
    if set(pair) != {"tdt", "hat"}
]
# In bfloat16 the fused kernels; the tiles of plain JAX compute it as any other dtype.
PAIRS_DTYPES = ["float32", "bfloat16"] if PLATFORM == "cuda" else ["float32"]
EVERY = ("tdt", "dropout", "clamp", "hypotheses")


@pytest.mark.parametrize(
    ("options", "dtype"),
    [*itertools.product(PAIRS, PAIRS_DTYPES), (EVERY, "float64"), (EVERY, PAIRS_DTYPES[-1])],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_options_together(rng, options, dtype):
    K, heads = 3 if "hypotheses" in options else 1, "tdt" in options
    flat, problem = _hypotheses(rng, 2, K, 17, 9, 16, 7)
    if "hat" in options:  # in which a label that is the blank is impossible
        flat, problem = (x._replace(labels=np.maximum(x.labels, 1)) for x in (flat, problem))
    joint = _with_durations(rng, flat).joint if heads else flat.joint
    weights = {"kernel": joint.kernel / 4, "bias": joint.bias}
    own = {"sigma": 0.05} if heads else {}
    own |= {"normalize": "hat"} if "hat" in options else {}
    mask = dropout_mask(key(), 0.25, 2 * K, 17, 9, 16) if "dropout" in options else None
    clamp = 0.05 if "clamp" in options else None
    with precision(dtype):
        flat, problem = (
            x._replace(joint=Joint(*(jnp.asarray(y, dtype) for y in x.joint._replace(**weights))))
            for x in (flat, problem)
        )
        actual = evaluate(
            TDT if heads else RNNT,
            problem,
            traced={"dropout_key": key()},
            dropout_rate=0.25 if mask is not None else 0.0,
            clamp=clamp,
            min_posterior=0.0,
            **own,
        )
    wanted = expected(flat, (_tdt if heads else _rnnt)(flat, **own), mask=mask, clamp=clamp)
    _assert_close_to_flat(actual, wanted, K, dtype)


def test_training_with_dropout_follows_materialised_logits(rng):
    problem = make_problem(rng, 4, 12, 6, 8, 9)

    def materialised(joint, key):
        sums = joint.encoder[:, :, None] + joint.predictor[:, None]
        frames, columns = jnp.arange(12)[None, :, None], jnp.arange(6)[None, None]
        own = dropout.Dropout(dropout.seed_of(key), jnp.arange(4), dropout.threshold_of(0.2))
        hidden = own.apply(jnp.tanh, sums, jnp.arange(4)[:, None, None], frames, columns)
        logits = hidden @ joint.kernel + joint.bias[None, None, None]
        return jax_rnnt.rnnt_loss_from_logits(logits, *problem[1:], reduction="mean")

    def tiled(joint, key):
        options = {"dropout_rate": 0.2, "dropout_key": key, "tile": (4, 4, 9)}
        return RNNT(*joint, *problem[1:], reduction="mean", **options)

    def train(loss):
        @jax.jit
        def step(joint, key):
            value, gradients = jax.value_and_grad(loss)(joint, key)
            return jax.tree.map(lambda x, g: x - 0.05 * g, joint, gradients), value

        joint, values = type(problem.joint)(*map(jnp.asarray, problem.joint)), []
        for i in range(40):
            joint, value = step(joint, jax.random.fold_in(key(), i))
            values.append(float(value))
        return values

    values, wanted = train(tiled), train(materialised)
    assert np.mean(wanted[-5:]) < np.mean(wanted[:5]) / 1.5
    np.testing.assert_allclose(values, wanted, rtol=1e-4)
