"""Wherever a stream is cut, a search has the bits of the whole."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from search_models import E, Options, model, problem, same_bits, searcher, start

CASES = {
    "regular": Options(max_symbols=2),
    "modified": Options("modified"),
    "durations": Options(durations=(0, 1, 2, 7)),
}
T = 27


def stream(run, one, given, chunk, state, cuts):
    """The labels, frames and log-probabilities of each utterance, and the state."""
    found = [[] for _ in given.encoder]
    for begin, end in itertools.pairwise(cuts):
        piece = np.zeros((len(found), chunk, E), given.encoder.dtype)
        piece[:, : end - begin] = given.encoder[:, begin:end]
        lengths = np.clip(given.frames_lengths - begin, 0, end - begin)
        result = run(one, piece, lengths.astype(np.int32), state)
        assert result.complete.all()
        state = result.state
        for n, pieces in enumerate(found):
            kept = slice(int(result.labels_lengths[n]))
            columns = (result.labels, result.label_frames, result.label_log_probs)
            pieces += zip(*(x[n, kept].tolist() for x in columns))
    return found, state


@pytest.mark.parametrize(
    ("case", "dtype"),
    [("regular", "bfloat16"), *((case, "float32") for case in CASES)],
)
def test_streaming_has_the_bits_of_the_whole(case, dtype):
    options = CASES[case]
    one = model(3, durations=len(options.durations or ()))
    one = jax.tree.map(lambda x: x.astype(dtype), one)
    given, run = problem(5, T=T), searcher(options, optimised=True)
    given = given._replace(encoder=given.encoder.astype(dtype))
    whole = stream(run, one, given, T, start(one, 5), [0, T])
    assert sum(map(len, whole[0])) > 10
    ragged = [0, 0, 1, 9, 9, 16, 25, T]
    for cuts in (range(T + 1), [0, 25, T], ragged):
        assert_same(stream(run, one, given, 25, start(one, 5), list(cuts)), whole)
    if case == "durations":  # arrays of one frame
        assert_same(stream(run, one, given, 1, start(one, 5), list(range(T + 1))), whole)


def assert_same(actual, expected):
    assert actual[0] == expected[0]
    assert same_bits(actual[1], expected[1])


def test_an_array_without_frames_changes_nothing():
    one = model()
    given, run = problem(), searcher(Options())
    state = run(one, *given, start(one, 5)).state
    result = run(one, given.encoder[:, :0], np.zeros(5, np.int32), state)
    assert result.complete.all()
    assert not result.labels_lengths.any()
    assert same_bits(result.state, state)


def test_a_stream_that_begins_anew_forgets_the_others_stay():
    one = model()
    given, run = problem(N=3), searcher(Options())
    fresh = start(one, 3)
    state = run(one, *given, fresh).state
    anew = jnp.array([True, False, False])

    def choose(new, old):
        return jnp.where(anew.reshape((3,) + (1,) * (old.ndim - 1)), new, old)

    state = jax.tree.map(choose, fresh, state)
    lengths = np.array([23, 10, 5], np.int32)
    mixed = run(one, given.encoder, lengths, state)
    alone = run(one, given.encoder, lengths, fresh)
    assert same_bits(*jax.tree.map(lambda x: x[0], (mixed, alone)))
    assert mixed.state.frames.tolist() == [23, 10, 6]
