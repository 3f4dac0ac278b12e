"""Beam search finds every sequence where it keeps all, and what plain Python finds where not."""

import functools
import itertools

import beam_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beam_oracle import Oracle
from search_models import FAST, Options, model, problem, same_bits, search

import jax_rnnt
from jax_rnnt.search import hypotheses


@functools.cache
def beam_searcher(beam=4, max_labels=40, blank=0, durations=None, **options):
    """The jitted search, and what it begins with."""

    def run(model, encoder, frames_lengths, state, length_penalty):
        return jax_rnnt.beam_search(
            encoder, frames_lengths, state, model.step, model.joint, blank=blank,
            durations=durations, length_penalty=length_penalty, **options,
        )  # fmt: skip

    def start(model, N):
        state = model.start(N)
        return jax_rnnt.search_start(
            model.step, state, blank=blank, beam=beam, max_labels=max_labels, durations=durations
        )

    jitted = jax.jit(run, compiler_options=FAST)
    return lambda *arguments: jitted(*arguments, *([np.float32(0)] * (len(arguments) == 4))), start


def whole(one, given, *arguments, **options):
    run, start = beam_searcher(*arguments, **options)
    return run(one, *given, start(one, len(given.encoder)))


def found(result, n):
    """{labels: log-probability} of utterance n, best first; all of them distinct."""
    pairs = [
        (tuple(labels[:length].tolist()), float(log_prob))
        for labels, length, log_prob in zip(
            np.asarray(result.labels[n]), result.labels_lengths[n], result.log_probs[n]
        )
        if log_prob > -np.inf
    ]
    assert len(dict(pairs)) == len(pairs), "a hypothesis is there twice"
    log_probs = [x for _, x in pairs]
    assert log_probs == sorted(log_probs, reverse=True)
    return dict(pairs)


def assert_beam(actual, expected, tolerance=2e-4):
    assert list(actual) == list(expected)
    np.testing.assert_allclose(list(actual.values()), list(expected.values()), atol=tolerance)


# rnnt_type, max_symbols, durations, T, most labels
EXHAUSTIVE = {
    "modified": ("modified", 1, None, 4, 4),
    "regular": ("regular", 3, None, 3, 3),
    "durations": ("regular", 3, (0, 1, 2), 3, 3),
}


@pytest.mark.parametrize("case", EXHAUSTIVE)
def test_a_beam_that_keeps_all_is_brute_force(case):
    rnnt_type, max_symbols, durations, T, most = EXHAUSTIVE[case]
    one = model(1, symbols=3, durations=len(durations or ()), blank=2)
    given = problem(3, N=4, T=T)._replace(frames_lengths=np.array([T, 0, 1, T - 1]))
    K = sum(2**n for n in range(most + 1))
    options = dict(rnnt_type=rnnt_type, max_symbols=max_symbols)
    result = whole(one, given, K, most, 2, durations, **options)
    for n, frames in enumerate(given.frames_lengths):
        oracle = Oracle(one, given.encoder[n], 2, durations)
        expected = beam_oracle.all_sequences(oracle, frames, rnnt_type, max_symbols, most)
        actual = found(result, n)
        assert actual.keys() == expected.keys()
        assert_beam({x: actual[x] for x in expected}, expected)
    assert result.complete.tolist()[1:3] == [True, True]


@pytest.mark.parametrize("rnnt_type", ["modified", "constrained"])
def test_log_probs_are_at_most_minus_the_loss(rnnt_type):
    """Which is what the sum over all alignments is."""
    one, given = model(1, symbols=4), problem(2, N=1, T=4)
    result = whole(one, given, 3, 4, rnnt_type=rnnt_type)
    oracle = Oracle(one, given.encoder[0], 0)
    exact = beam_oracle.all_sequences(oracle, 4, rnnt_type, 1, 4)
    scores = found(result, 0)
    assert max(scores.values()) > -4
    for labels, score in scores.items():
        assert score <= exact[labels] + 1e-4
    labels = max(scores, key=len)
    assert len(labels) > 0
    columns = [one.step(one.start(1), jnp.zeros(1, jnp.int32))]
    for label in labels:
        columns.append(one.step(columns[-1][0], jnp.array([label])))
    features = jnp.stack([x for _, x in columns], 1)
    logits = one.joint(jnp.asarray(given.encoder)[:, :, None], features[:, None])
    cost = jax_rnnt.rnnt_loss_from_logits(
        logits, [labels], given.frames_lengths, [len(labels)], rnnt_type=rnnt_type
    )
    assert exact[labels] == pytest.approx(-float(cost[0]), abs=1e-4)


@pytest.mark.parametrize("rnnt_type", ["modified", "regular"])
def test_a_beam_is_the_one_in_plain_python(rnnt_type):
    for seed in range(2):
        one, given = model(seed), problem(seed, T=14)
        result = whole(one, given, rnnt_type=rnnt_type)
        assert result.complete.all()
        for n, frames in enumerate(given.frames_lengths):
            oracle = Oracle(one, given.encoder[n], 0)
            if rnnt_type == "modified":
                expected = beam_oracle.one_symbol(oracle, frames, 4)
            else:
                expected = beam_oracle.many_symbols(oracle, frames, 4, 2)
            assert_beam(found(result, n), expected)
            for k, length in enumerate(result.labels_lengths[n]):
                label_frames = np.asarray(result.label_frames[n, k, :length])
                steps = np.diff(label_frames)
                assert (steps >= (rnnt_type != "regular")).all()
                assert ((label_frames >= 0) & (label_frames < frames)).all()


def test_a_beam_of_one_is_greedy():
    one, given = model(), problem()
    beam = whole(one, given, 1, 30, rnnt_type="modified")
    greedy = search(one, given, Options("modified"))
    assert beam.labels_lengths[:, 0].tolist() == greedy.labels_lengths.tolist()
    assert same_bits(beam.labels[:, 0], greedy.labels[:, :30])
    assert same_bits(beam.label_frames[:, 0], greedy.label_frames[:, :30])
    np.testing.assert_allclose(beam.log_probs[:, 0], greedy.state.log_probs, atol=1e-4)
    assert beam.stable_lengths.tolist() == greedy.labels_lengths.tolist()


STREAMS = {
    "modified": dict(rnnt_type="modified"),
    "regular": dict(rnnt_type="regular"),
    "durations": dict(durations=(0, 1, 2)),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streaming_has_the_bits_of_the_whole(case):
    options = STREAMS[case]
    one = model(4, durations=len(options.get("durations", ())))
    given = problem(4, T=14)
    run, start = beam_searcher(**options)
    expected = run(one, *given, start(one, 5))
    assert expected.labels_lengths.max() > 4
    for cuts in (range(15), [0, 5, 5, 6, 11, 14]):
        state, stable = start(one, 5), None
        for begin, end in itertools.pairwise(cuts):
            piece = np.zeros((5, 5, given.encoder.shape[2]), np.float32)
            piece[:, : end - begin] = given.encoder[:, begin:end]
            lengths = np.clip(given.frames_lengths - begin, 0, end - begin)
            result = run(one, piece, lengths.astype(np.int32), state)
            state = result.state
            if stable is not None:
                for n, length in enumerate(stable.stable_lengths):
                    assert same_bits(result.labels[n, 0, :length], stable.labels[n, 0, :length])
            stable = result
        assert same_bits(result, expected)


def test_one_utterance_of_nan_ends_alone():
    one, given = model(), problem(T=14)
    run, start = beam_searcher(rnnt_type="modified")
    expected = run(one, *given, start(one, 5))
    encoder = given.encoder.copy()
    encoder[3, 5:] = np.nan
    result = run(one, encoder, given.frames_lengths, start(one, 5))
    assert same_bits(*jax.tree.map(lambda x: x[:3], (result, expected)))
    assert result.complete.tolist() == [True, True, True, False, True]
    assert np.isnan(result.log_probs[3]).all()
    assert result.state.frames.tolist()[:4] == [14, 0, 1, 5]
    before = run(one, given.encoder, np.array([1, 0, 1, 5, 0]), start(one, 5))
    assert same_bits(result.labels[3], before.labels[3])
    again = run(one, given.encoder, given.frames_lengths, result.state)
    assert same_bits(again.labels[3], before.labels[3])
    assert not again.complete[3]
    senseless = run(one, given.encoder, np.array([15, -1, 1, 3, 3]), start(one, 5))
    assert senseless.complete.tolist() == [False, False, True, True, True]


def test_a_full_room_is_said():
    one, given = model(), problem(T=14)
    roomy = whole(one, given, rnnt_type="modified")
    assert roomy.complete.all()
    most = roomy.labels_lengths.max(1)
    assert most.max() > 4
    tight = whole(one, given, 4, 4, rnnt_type="modified")
    assert tight.labels_lengths.max() <= 4
    assert not tight.complete[most > 4].any()
    assert tight.complete.any()


def test_silence_and_nothing():
    """A model that writes nothing, and one that may write nothing else."""
    one, given = model(), problem(T=14)
    silent = one._replace(bias=one.bias.at[0].set(60.0))
    result = whole(silent, given, rnnt_type="modified")
    assert not result.labels_lengths[:, 0].any()
    assert result.complete.all()
    assert (result.log_probs[:, 0] > -1e-3).all()
    assert (result.log_probs[1, 1:] == -np.inf).all()
    assert not result.labels_lengths[1].any()


def test_length_penalty_ranks_the_last_list_alone():
    one, given = model(), problem(T=14)
    run, start = beam_searcher(rnnt_type="modified")
    plain = run(one, *given, start(one, 5))
    result = run(one, *given, start(one, 5), np.float32(1))
    assert same_bits(result.state, plain.state)
    changed = False
    for n in range(5):
        expected = {x: score / (len(x) + 1) for x, score in found(plain, n).items()}
        order = sorted(expected, key=expected.get, reverse=True)
        live = np.isfinite(result.log_probs[n])
        actual = [
            tuple(x[:length].tolist())
            for x, length in zip(result.labels[n][live], result.labels_lengths[n][live])
        ]
        assert actual == order
        changed |= order != list(expected)
    assert changed


def test_sequences_have_keys_of_their_own_and_a_collision_harms_none_of_another_length(monkeypatch):
    pairs = np.array(np.meshgrid(*[np.arange(40)] * 3)).reshape(3, -1)
    keys = jnp.zeros((pairs.shape[1], 2), jnp.uint32)
    for labels in pairs:
        keys = hypotheses.extended_keys(keys, jnp.asarray(labels))
    halves = np.asarray(keys)
    assert len(np.unique(halves, axis=0)) == 40**3
    assert len(np.unique(halves[:, 0])) > 0.99 * 40**3 < len(np.unique(halves[:, 1])) * 1.01

    monkeypatch.setattr(hypotheses, "extended_keys", lambda keys, labels: keys)
    one, given = model(0, symbols=3), problem(N=2, T=6)
    run, start = beam_searcher.__wrapped__(8, 9)
    result = run(one, *given, start(one, 2))
    lengths = result.labels_lengths[0][np.isfinite(result.log_probs[0])]
    assert len(set(lengths.tolist())) == len(lengths) > 3  # one sequence of each length is left
    assert np.logaddexp.reduce(np.asarray(result.log_probs[0])) < 1e-5


def test_scores_of_weight_0_change_nothing_and_others_are_added():
    one, given = model(), problem(T=14)
    language = jnp.asarray(np.random.default_rng(9).standard_normal((7, 7)), jnp.float32)
    start_state = (one.start(5), jnp.zeros(5, jnp.int32))

    def step(state, labels):
        hidden, features = one.step(state[0], labels)
        return (hidden, labels), (features, language[labels])

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(weight):
        def joint(encoder, features):
            own, other = features
            return jax.nn.log_softmax(one.joint(encoder, own)) + weight * other

        state = jax_rnnt.search_start(step, start_state, beam=4, max_labels=30)
        return jax_rnnt.beam_search(
            given.encoder, given.frames_lengths, state, step, joint, rnnt_type="modified",
            normalized=True,
        )  # fmt: skip

    plain = whole(one, given, rnnt_type="modified")
    fused = run(jnp.float32(0))
    for n in range(5):
        assert_beam(found(fused, n), found(plain, n))
    assert found(run(jnp.float32(3)), 0).keys() != found(plain, 0).keys()
