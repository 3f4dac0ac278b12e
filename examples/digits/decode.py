"""Greedy decoding of a batch, and the digit error rate."""

from collections.abc import Sequence

import jax

import jax_rnnt

from .data import BLANK, Array
from .model import Transducer

MOST_PER_FRAME = 3


def greedy(
    model: Transducer, features: Array, frames_lengths: Array, most_symbols: int
) -> tuple[jax.Array, jax.Array]:
    """Take the best symbol at every step: a blank moves to the next frame, a digit is written.

    Args:
        model: the network.
        features: (N, frames, bands).
        frames_lengths: (N,) feature frames of each string.
        most_symbols: room for the symbols of a string; a string ends where it is full.

    Returns:
        symbols (N, most_symbols) and counts (N,): string n is symbols[n, : counts[n]].
    """
    predictor, joint = model.predictor, model.joint

    def predictor_step(state: jax.Array, symbols: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = predictor.step(state, symbols)
        return state, joint.project_predictor(state)

    found = jax_rnnt.greedy_search(
        joint.project_encoder(model.encoder(features)),
        model.encoder.frames_lengths(frames_lengths),
        jax_rnnt.search_start(
            predictor_step, predictor.recurrent.start(features.shape[0]), blank=BLANK
        ),
        predictor_step,
        joint.from_projected,
        max_labels=most_symbols,
        blank=BLANK,
        max_symbols=MOST_PER_FRAME,
    )
    return found.labels, found.labels_lengths


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
