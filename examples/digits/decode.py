"""Greedy decoding of a batch, and the digit error rate."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .data import BLANK, Array
from .model import Transducer

MOST_PER_FRAME = 3


class _Search(NamedTuple):
    """N searches, each at a frame of its own."""

    frame: jax.Array  # (N,)
    written_here: jax.Array  # (N,) symbols written at this frame
    state: jax.Array  # (N, predictor_width)
    symbols: jax.Array  # (N, most_symbols)
    written: jax.Array  # (N,) symbols written


def greedy(
    model: Transducer, features: Array, frames_lengths: Array, most_symbols: int
) -> tuple[jax.Array, jax.Array]:
    """Take the best symbol at every step: a blank moves to the next frame, a digit is written.

    Args:
        model: the network.
        features: (N, frames, bands).
        frames_lengths: (N,) feature frames of each string.
        most_symbols: room for the symbols of a string; what comes later is lost.

    Returns:
        symbols (N, most_symbols) and counts (N,): string n is symbols[n, : counts[n]].
    """
    encoded = model.encoder(features)
    lengths = model.encoder.frames_lengths(frames_lengths)
    rows = jnp.arange(encoded.shape[0])

    def unfinished(search: _Search) -> jax.Array:
        return jnp.any(search.frame < lengths)

    def step(search: _Search) -> _Search:
        encoded_here = encoded[rows, jnp.minimum(search.frame, lengths - 1)]
        logits = model.joint(encoded_here[:, None], search.state[:, None])[:, 0, 0]
        best = jnp.argmax(logits, axis=-1)
        has_room = (search.written_here < MOST_PER_FRAME) & (search.written < most_symbols)
        writes = (best != BLANK) & has_room & (search.frame < lengths)
        state = model.predictor.step(search.state, best)
        slot = jnp.where(writes, search.written, most_symbols)  # beyond the last: not written
        return _Search(
            frame=jnp.where(writes, search.frame, search.frame + 1),
            written_here=jnp.where(writes, search.written_here + 1, 0),
            state=jnp.where(writes[:, None], state, search.state),
            symbols=search.symbols.at[rows, slot].set(best, mode="drop"),
            written=search.written + writes,
        )

    start = model.predictor.recurrent.start(len(rows))
    state = model.predictor.step(start, jnp.full_like(rows, BLANK))
    nothing = jnp.zeros_like(rows)
    symbols = jnp.zeros((len(rows), most_symbols), rows.dtype)
    search = _Search(nothing, nothing, state, symbols, nothing)
    search = jax.lax.while_loop(unfinished, step, search)
    return search.symbols, search.written


def edit_distance(truth: Sequence[int], guess: Sequence[int]) -> int:
    """Insertions, deletions and substitutions that turn one into the other."""
    costs = list(range(len(guess) + 1))
    for i, wanted in enumerate(truth, start=1):
        diagonal, costs[0] = costs[0], i
        for j, written in enumerate(guess, start=1):
            substituted = diagonal + (wanted != written)
            diagonal = costs[j]
            costs[j] = min(substituted, costs[j] + 1, costs[j - 1] + 1)
    return costs[-1]
