"""Greedy search is what one writes down in plain Python, whatever its window."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from search_models import (
    FAST,
    Options,
    assert_found,
    model,
    problem,
    same_bits,
    search,
    searcher,
    slowly,
    start,
)

import jax_rnnt
from jax_rnnt.losses import topologies
from jax_rnnt.search import greedy
from jax_rnnt.search.arguments import RNNT_TYPES

CASES = {
    "regular": Options(),
    "at most one": Options(max_symbols=1),
    "at most two, blank last": Options(max_symbols=2, blank=-1),
    "modified": Options("modified", blank=3),
    "constrained": Options("constrained"),
    "durations": Options(durations=(0, 1, 2, 3, 4)),
    "durations, at most one": Options(max_symbols=1, durations=(2, 0)),
    "durations above 0": Options(durations=(1, 3), blank=-1),
}


def of(options: Options, seed: int = 0):
    return model(seed, durations=len(options.durations or ()), blank=options.blank % 7)


@pytest.mark.parametrize("case", CASES)
def test_greedy_is_the_slow_one(case):
    options = CASES[case]
    writes = []
    for seed in range(3):
        one, given = of(options, seed), problem(seed)
        result = search(one, given, options)
        assert result.complete.all()
        for n, frames in enumerate(given.frames_lengths):
            expected = slowly(one, given.encoder[n], frames, options)
            assert_found(result, n, expected)
            assert result.state.log_probs[n] == pytest.approx(expected.total, abs=1e-3)
            assert result.state.frames[n] == frames
            writes += np.unique(expected.frames, return_counts=True)[1].tolist()
    assert len(writes) > 20  # frames that have labels
    if case == "regular":
        assert max(writes) > 2


_compiled = functools.cache(searcher)


@pytest.mark.parametrize("case", ["regular", "durations"])
@hypothesis.settings(max_examples=20)
@hypothesis.given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(0, 23), min_size=5, max_size=5),
)
def test_any_numbers_and_lengths(case, seed, lengths):
    options = CASES[case]
    one = of(options)
    given = problem(seed)._replace(frames_lengths=np.array(lengths, np.int32))
    result = _compiled(options)(one, *given, start(one, 5, options.blank))
    for n, frames in enumerate(lengths):
        expected = slowly(one, given.encoder[n], frames, options)
        if result.complete[n]:
            assert_found(result, n, expected)
        else:
            room = options.max_labels
            assert result.labels_lengths[n] == room < len(expected.labels)
            assert result.labels[n].tolist() == expected.labels[:room]


@pytest.mark.parametrize(
    ("case", "window"), [("regular", 40), ("durations, at most one", 3), ("regular", 1)]
)
def test_windows_are_alike(case, window):
    options = CASES[case]
    one, given = of(options), problem()
    expected = search(one, given, options)
    result = search(one, given, options._replace(window=window))
    for a, b in zip(result[:4] + result[5:7], expected[:4] + expected[5:7]):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_constrained_is_regular_with_one_symbol_a_frame():
    one, given = model(), problem()
    results = [search(one, given, CASES[case]) for case in ("constrained", "at most one")]
    assert same_bits(*results)


def test_types_are_those_of_the_losses():
    assert set(RNNT_TYPES) == set(topologies._COSTS)


def test_steps_between_two_looks_change_nothing(monkeypatch):
    one, given = model(), problem()
    expected = search(one, given, Options())
    monkeypatch.setattr(greedy, "_steps_per_look", lambda _: 4)
    assert same_bits(search(one, given, Options(window=4)), expected)


def test_steps_stay_within_their_bound(monkeypatch):
    """A silent batch, one that writes all it may at every frame, and one without room."""
    for bias, max_labels in ((9.0, 200), (-9.0, 13)):
        one = model()
        one = one._replace(bias=one.bias.at[0].set(bias))
        ends = []
        run = greedy.run

        def kept(search, loop, *steps, ends=ends, run=run):
            done = run(search, loop, *steps)
            ends.append((int(done.step), search.most_steps, done.trace.shape[0]))
            return done

        monkeypatch.setattr(greedy, "run", kept)
        T = 9
        result = jax_rnnt.greedy_search(
            problem(T=T).encoder, [9, 0, 1, 5, 4], start(one, 5), one.step, one.joint,
            max_labels=max_labels, max_symbols=3, window=2,
        )  # fmt: skip
        monkeypatch.undo()
        ((steps, bound, room),) = ends
        # Rounded up to the steps between two looks: one on a CPU.
        assert steps <= room < bound + 8
        assert bound == min(max_labels, 3 * T) + 5
        most = np.array([27, 0, 3, 15, 12]) if bias < 0 else np.zeros(5)
        assert result.labels_lengths.tolist() == np.minimum(most, max_labels).tolist()
        assert result.complete.tolist() == (most <= max_labels).tolist()


def test_a_full_room_is_said_and_the_search_goes_on_from_there():
    """Three labels a call, over and over, are the labels of one call, to the bit."""
    one, given = model(), problem(N=4)
    whole = search(one, given, Options())
    assert whole.labels_lengths.max() > 9
    state = start(one, 4)
    found = [[] for _ in range(4)]
    run = searcher(Options(max_labels=3))
    for _ in range(40):
        done = np.asarray(state.frames)
        rest = np.stack([np.roll(x, -k, 0) for x, k in zip(given.encoder, done)])
        result = run(one, rest, given.frames_lengths - done, state)
        state = result.state
        for n in range(4):
            found[n] += result.labels[n, : result.labels_lengths[n]].tolist()
        if result.complete.all():
            break
    for n in range(4):
        assert found[n] == whole.labels[n, : whole.labels_lengths[n]].tolist()
    assert same_bits(state, whole.state)


@pytest.mark.parametrize(
    ("case", "bad"), [("durations", np.nan), ("regular", np.inf), ("modified", -np.inf)]
)
def test_bad_logits_end_one_utterance(bad, case):
    """From frame 6 on; and its next chunk is over before it begins."""
    options = CASES[case]
    one, given = of(options), problem(N=4)
    expected = search(one, given, options)
    start_bad = 6

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(encoder, lengths, state, from_frame):
        def joint(frames, features):
            logits = one.joint(frames["values"], features)
            return jnp.where(frames["bad"][..., None], bad, logits)

        is_bad = (jnp.arange(23) >= from_frame)[None] & (jnp.arange(4) == 3)[:, None]
        options_ = options._asdict()
        return jax_rnnt.greedy_search(
            {"values": encoder, "bad": is_bad}, lengths, state, one.step, joint, **options_
        )

    lengths = np.array([23, 0, 1, 20])
    result = run(given.encoder, lengths, start(one, 4, options.blank), start_bad)
    assert result.complete.tolist() == [True, True, True, False]
    before = [f for f in expected.label_frames[3].tolist() if 0 < f < start_bad - 1]
    count = int(result.labels_lengths[3])
    assert result.label_frames[3, :count].tolist() == expected.label_frames[3, :count].tolist()
    assert count >= len(before) > 0
    assert result.label_frames[3, count - 1] < start_bad
    assert np.isnan(result.state.log_probs).tolist() == [False, False, False, True]
    other = run(given.encoder, lengths, start(one, 4, options.blank), 23)
    first = jax.tree.map(lambda x: x[:3], (result, other))
    assert same_bits(*first)

    again = run(given.encoder, lengths, result.state, 30)
    assert again.complete.tolist() == [True, True, True, False]
    assert again.labels_lengths[3] == 0
    assert same_bits(*jax.tree.map(lambda x: x[3], (again.state, result.state)))


def test_traced_lengths_that_make_no_sense_end_their_utterance():
    one, given = model(), problem(N=4)
    result = searcher(Options())(one, given.encoder, jnp.array([23, -1, 24, 5]), start(one, 4))
    assert result.complete.tolist() == [True, False, False, True]
    assert result.labels_lengths[1:3].tolist() == [0, 0]
    assert np.isnan(result.state.log_probs[1:3]).all()
    assert result.state.frames.tolist() == [23, 0, 0, 5]


def test_measure_sees_the_log_probabilities_of_each_label():
    options = CASES["durations"]
    one, given = of(options), problem()

    def entropy(log_probs):
        return -jnp.sum(jnp.exp(log_probs) * log_probs, -1)

    result = search(one, given, options, entropy)
    plain = search(one, given, options)
    assert same_bits(result._replace(label_measures=None), plain)
    features = start(one, 5).features
    checked = 0
    for n in range(5):
        if result.labels_lengths[n] == 0:
            continue
        frame = result.label_frames[n, 0]
        logits = one.joint(given.encoder[n, frame][None], features[n : n + 1])[0, :7]
        expected = entropy(jax.nn.log_softmax(logits))
        assert result.label_measures[n, 0] == pytest.approx(float(expected), abs=1e-5)
        checked += 1
    assert checked > 2
