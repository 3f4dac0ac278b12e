"""From back-pointers to the labels of each hypothesis, once a call."""

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt.search.hypotheses import NOTHING, Hypotheses, take


def pointers(hypotheses: Hypotheses) -> jax.Array:
    """(N, K, 2 + S): frame, slot and what was written there, as `Hypotheses` has them."""
    of = hypotheses
    return jnp.concatenate([of.frame[..., None], of.slot[..., None], of.here], -1)


def trace_back(
    ends: Hypotheses,
    passed: jax.Array,
    labels: jax.Array,
    label_frames: jax.Array,
    first_frames: jax.Array,
    unroll: int,
) -> tuple[jax.Array, jax.Array]:
    """The labels of J hypotheses of N utterances, and their frames: of this call and before.

    Args:
        ends: the hypotheses, (N, J).
        passed: (T, N, K, 2 + S), the pointers of the hypotheses at each frame of the call.
        labels, label_frames: (N, J, L), those of the hypotheses that the call began with.
        first_frames: (N,), frames of each stream before the call.
    """
    T = passed.shape[0]

    def back(at: jax.Array, x: tuple) -> tuple[jax.Array, jax.Array]:
        t, here = x
        is_here = at[..., :1] == t
        earlier = jnp.where(is_here, take(here, at[..., 1]), at)
        return earlier, jnp.where(is_here, at[..., 2:], NOTHING)

    frames = jnp.arange(T, dtype=jnp.int32)
    at, written = lax.scan(
        back, pointers(ends), (frames, passed), reverse=True, unroll=min(unroll, T)
    )
    old = take(jnp.stack([labels, label_frames], -1), at[..., 1])

    def append(written, length, old, first_frame):
        flat = written.reshape(-1)
        count = jnp.cumsum(flat != NOTHING, dtype=jnp.int32)
        place = jnp.where(flat != NOTHING, length - count[-1] + count - 1, old.shape[0])
        at_frame = jnp.repeat(first_frame + frames, written.shape[1])
        return old.at[place].set(jnp.stack([flat, at_frame], -1), mode="drop")

    of_utterance = jax.vmap(append, in_axes=(0, 0, 0, None))
    both = jax.vmap(of_utterance)(jnp.moveaxis(written, 0, 2), ends.lengths, old, first_frames)
    return both[..., 0], both[..., 1]
