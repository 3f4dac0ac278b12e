"""From back-pointers to the labels of each hypothesis, once a call."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt.search.hypotheses import NOTHING, Hypotheses, take
from jax_rnnt.search.trees import where


class Pointers(NamedTuple):
    """Where hypotheses come from, as `Hypotheses` has it: (N, K) and (N, K, S)."""

    frame: jax.Array
    slot: jax.Array
    here: jax.Array

    @classmethod
    def of(cls, hypotheses: Hypotheses) -> "Pointers":
        return cls(hypotheses.frame, hypotheses.slot, hypotheses.here)


class Written(NamedTuple):
    """Labels and their frames, (N, J, L) each, zeros behind a hypothesis' own."""

    labels: jax.Array
    frames: jax.Array


def trace_back(
    ends: Hypotheses, passed: Pointers, before: Written, first_frames: jax.Array, unroll: int
) -> Written:
    """What J hypotheses of N utterances have written in this call and before.

    Args:
        ends: the hypotheses, (N, J).
        passed: the pointers of the hypotheses at each frame of the call, (T, N, K).
        before: what those that the call began with had written.
        first_frames: (N,), frames of each stream before the call.
    """
    T = passed.frame.shape[0]

    def back(at: Pointers, x: tuple) -> tuple[Pointers, jax.Array]:
        t, pointers = x
        is_here = at.frame == t
        earlier = where(is_here, Pointers(*take(tuple(pointers), at.slot)), at)
        return earlier, jnp.where(is_here[..., None], at.here, NOTHING)

    frames = jnp.arange(T, dtype=jnp.int32)
    at, labels = lax.scan(
        back, Pointers.of(ends), (frames, passed), reverse=True, unroll=min(unroll, T)
    )
    labels = jnp.moveaxis(labels, 0, 2)  # (N, J, T, S)
    old = Written(*take(tuple(before), at.slot))

    def append(labels, length, old_labels, old_frames, first_frame):
        flat = labels.reshape(-1)
        wrote = flat != NOTHING
        count = jnp.cumsum(wrote, dtype=jnp.int32)
        place = jnp.where(wrote, length - count[-1] + count - 1, old_labels.shape[0])
        at_frame = jnp.repeat(first_frame + frames, labels.shape[1])
        return (
            old_labels.at[place].set(flat, mode="drop"),
            old_frames.at[place].set(at_frame, mode="drop"),
        )

    of_utterance = jax.vmap(append, in_axes=(0, 0, 0, 0, None))
    return Written(*jax.vmap(of_utterance)(labels, ends.lengths, *old, first_frames))
