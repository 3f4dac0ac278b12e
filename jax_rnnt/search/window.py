"""A step of a greedy search: from where an utterance stands over the blanks to its next label."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_rnnt.search.choices import Choices


class Walk(NamedTuple):
    """What N searches found within their windows of W frames: arrays (N,).

    Attributes:
        found: whether there is a label.
        senseless: whether there is, instead, a row that makes no sense.
        passed: frames before either; frames in all where there is neither.
        label: what was found, as are its log_prob and duration.
        total: the log-probability of the path up to `passed`.
    """

    found: jax.Array
    senseless: jax.Array
    passed: jax.Array
    label: jax.Array
    log_prob: jax.Array
    duration: jax.Array
    total: jax.Array


def walk(
    choices: Choices, within: jax.Array, forced: jax.Array, total: jax.Array, blank: int
) -> Walk:
    """Passes the blanks of a window.

    Log-probabilities are added one frame after the other, so that it makes no difference to the sum
    where a window begins.

    Args:
        choices: of arrays (N, W).
        within: (N, W), whether a frame may be looked at.
        forced: (N,), whether the first frame's symbol is the blank, whatever is better.
        total: (N,), the log-probability of the path so far.
    """
    column = jnp.arange(within.shape[1], dtype=jnp.int32)[None]
    is_blank = (choices.labels == blank) | (forced[:, None] & (column == 0))
    passes = within & is_blank & ~choices.senseless
    passed = jnp.zeros_like(choices.labels[:, 0])
    for k in range(within.shape[1]):
        here = passes[:, k] & (passed == k)
        total = jnp.where(here, total + choices.blank_log_probs[:, k], total)
        passed = jnp.where(here, k + choices.blank_durations[:, k], passed)
    stands = within & (column == passed[:, None])

    def at(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(stands, x, jnp.zeros_like(x)), 1, dtype=x.dtype)

    senseless = jnp.any(stands & choices.senseless, 1)
    return Walk(
        found=jnp.any(stands, 1) & ~senseless,
        senseless=senseless,
        passed=passed,
        label=at(choices.labels),
        log_prob=at(choices.label_log_probs),
        duration=at(choices.label_durations),
        total=total,
    )
