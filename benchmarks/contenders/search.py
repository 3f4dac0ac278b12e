"""Ways to search: from a transducer, its encoder's frames and their lengths to labels."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

import jax_rnnt
from benchmarks.problems.search_models import BLANK, Transducer
from jax_rnnt.search import beam_frame

GREEDY, TABULATED = "greedy_search", "greedy_search, tabulated"
SCAN, SYMBOLS = "scan over frames", "a step for each symbol"
BEAM, NOT_MERGED = "beam 4", "beam 4, nothing merged"
WIDTH = 4


class Labels(NamedTuple):
    """(N, L) and (N,)."""

    labels: jax.Array
    lengths: jax.Array


def greedy(model: Transducer, encoder: jax.Array, lengths: jax.Array, max_labels: int) -> Labels:
    state = jax_rnnt.search_start(model.step, model.start(len(encoder)))
    found = jax_rnnt.greedy_search(
        encoder, lengths, state, model.step, model.joint, max_labels=max_labels
    )
    return Labels(found.labels, found.labels_lengths)


def beam(model: Transducer, encoder: jax.Array, lengths: jax.Array, max_labels: int) -> Labels:
    """One symbol a frame; the best hypothesis."""
    start = model.start(len(encoder))
    state = jax_rnnt.search_start(model.step, start, beam=WIDTH, max_labels=max_labels)
    found = jax_rnnt.beam_search(
        encoder, lengths, state, model.step, model.joint, rnnt_type="modified"
    )
    return Labels(found.labels[:, 0], found.labels_lengths[:, 0])


def beam_without_merging(
    model: Transducer, encoder: jax.Array, lengths: jax.Array, max_labels: int
) -> Labels:
    with _nothing_merged():
        return beam(model, encoder, lengths, max_labels)


@contextlib.contextmanager
def _nothing_merged() -> Iterator[None]:
    """Hypotheses are taken for different ones, which XLA knows while it compiles."""

    def never(hypotheses) -> jax.Array:
        N, K = hypotheses.scores.shape
        return jnp.zeros((N, K, K), bool)

    with mock.patch.object(beam_frame, "leads_to", never):
        yield


class _Searches(NamedTuple):
    """N searches, each at a frame of its own where they do not go together."""

    frame: jax.Array
    here: jax.Array
    predictor: tuple
    features: jax.Array
    found: Labels


def _begin(model: Transducer, encoder: jax.Array, max_labels: int) -> _Searches:
    nothing = jnp.zeros(len(encoder), jnp.int32)
    predictor, features = model.step(model.start(len(encoder)), nothing + BLANK)
    found = Labels(jnp.zeros((len(encoder), max_labels), jnp.int32), nothing)
    return _Searches(nothing, nothing, predictor, features, found)


def _symbol(
    model: Transducer, searches: _Searches, frame: jax.Array, may_write: jax.Array
) -> tuple[_Searches, jax.Array]:
    """The best symbol at a frame (N, E), written where that is allowed; and where it was."""
    logits = model.joint(frame[:, None], searches.features[:, None])[:, 0]
    label = jnp.argmax(logits, -1).astype(jnp.int32)
    labels, count = searches.found
    writes = (label != BLANK) & may_write & (count < labels.shape[1])
    slot = jnp.where(writes, count, labels.shape[1])
    labels = labels.at[jnp.arange(len(label)), slot].set(label, mode="drop")
    predictor, features = model.step(searches.predictor, label)
    predictor, features = jax.tree.map(
        lambda x, y: jnp.where(writes.reshape((-1,) + (1,) * (x.ndim - 1)), x, y),
        (predictor, features),
        (searches.predictor, searches.features),
    )
    found = Labels(labels, count + writes.astype(jnp.int32))
    return searches._replace(predictor=predictor, features=features, found=found), writes


def scan_over_frames(
    model: Transducer, encoder: jax.Array, lengths: jax.Array, max_labels: int, most: int = 2
) -> Labels:
    """All utterances at the same frame, at which each may write two labels."""

    def next_frame(searches: _Searches, x: tuple) -> tuple[_Searches, None]:
        t, frame = x
        may_write = t < lengths
        for _ in range(most):
            searches, may_write = _symbol(model, searches, frame, may_write)
        return searches, None

    frames = jnp.arange(encoder.shape[1]), jnp.swapaxes(encoder, 0, 1)
    searches, _ = lax.scan(next_frame, _begin(model, encoder, max_labels), frames)
    return searches.found


def step_for_each_symbol(
    model: Transducer, encoder: jax.Array, lengths: jax.Array, max_labels: int, most: int = 3
) -> Labels:
    """Each utterance at a frame of its own, a blank or a label a step."""
    rows = jnp.arange(len(encoder))

    def step(searches: _Searches) -> _Searches:
        frame = encoder[rows, jnp.minimum(searches.frame, lengths - 1)]
        may_write = (searches.here < most) & (searches.frame < lengths)
        searches, writes = _symbol(model, searches, frame, may_write)
        return searches._replace(
            frame=jnp.where(writes, searches.frame, searches.frame + 1),
            here=jnp.where(writes, searches.here + 1, 0),
        )

    searches = lax.while_loop(
        lambda searches: jnp.any(searches.frame < lengths),
        step,
        _begin(model, encoder, max_labels),
    )
    return searches.found


Search = Callable[[Transducer, jax.Array, jax.Array, int], Labels]
GREEDY_WAYS: dict[str, Search] = {
    GREEDY: greedy,
    TABULATED: greedy,
    SCAN: scan_over_frames,
    SYMBOLS: step_for_each_symbol,
}
BEAM_WAYS: dict[str, Search] = {BEAM: beam, NOT_MERGED: beam_without_merging}
IS_TABULATED = {TABULATED, BEAM, NOT_MERGED}
