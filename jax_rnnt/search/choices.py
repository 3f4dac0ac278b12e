"""What a greedy search would take at each frame, from rows of logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt.search.arguments import Alphabet


class Choices(NamedTuple):
    """The best symbol of each row, and what the blank would be: arrays like labels.

    Log-probabilities are nats in float32. A blank passes at least one frame; a label may pass none.
    `senseless` rows have a NaN, +inf or nothing but -inf; what else is said of them means nothing.
    """

    labels: jax.Array
    label_log_probs: jax.Array
    label_durations: jax.Array
    blank_log_probs: jax.Array
    blank_durations: jax.Array
    senseless: jax.Array


def choose(logits: jax.Array, alphabet: Alphabet, label_duration: int) -> Choices:
    """The choices of logits (..., V), or (..., V + D) with durations.

    Args:
        label_duration: frames that a label passes where there are no durations.
    """
    V, blank = alphabet.tokens(logits), alphabet.blank_of(logits)
    symbols = Row.of(logits[..., :V])
    labels = symbols.best.astype(jnp.int32)
    label_log_probs = -symbols.log_sum
    blank_log_probs = symbols.shifted[..., blank] - symbols.log_sum
    if alphabet.durations is None:
        label_frames, blank_frames = jnp.full_like(labels, label_duration), jnp.ones_like(labels)
        return Choices(
            labels, label_log_probs, label_frames, blank_log_probs, blank_frames, symbols.senseless
        )
    frames = np.array(alphabet.durations, np.int32)
    durations = Row.of(logits[..., V:])
    passes = frames.reshape((1,) * (logits.ndim - 1) + (-1,)) > 0
    passing = jnp.where(passes, durations.shifted, -jnp.inf)
    table = jnp.asarray(frames)
    return Choices(
        labels,
        label_log_probs - durations.log_sum,
        table[durations.best],
        blank_log_probs + (jnp.max(passing, -1) - durations.log_sum),
        table[jnp.argmax(passing, -1)],
        symbols.senseless | durations.senseless,
    )


class Row(NamedTuple):
    """A head's log-softmax, its best entry, and whether it makes no sense.

    shifted are the logits less the best, log_sum the logarithm of their exponentials' sum. Two
    passes over the logits: each is a kernel of a few microseconds in a step of some thirty.
    """

    best: jax.Array
    shifted: jax.Array
    log_sum: jax.Array
    senseless: jax.Array

    @property
    def log_probs(self) -> jax.Array:
        return self.shifted - self.log_sum[..., None]

    @classmethod
    def of(cls, logits: jax.Array) -> "Row":
        logits = logits.astype(jnp.float32)
        best = jnp.argmax(logits, -1)
        largest = _at(logits, best)
        shifted = logits - largest[..., None]
        log_sum = jnp.log(jnp.sum(jnp.exp(shifted), -1))
        return cls(best, shifted, log_sum, _is_senseless(largest, may_be_empty=False))


def senseless_rows(scores: jax.Array) -> jax.Array:
    """Which rows (..., V) of scores, that may be -inf throughout, have a NaN or +inf."""
    return _is_senseless(_at(scores, jnp.argmax(scores, -1)), may_be_empty=True)


def _at(logits: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, index[..., None], -1, mode="clip")[..., 0]


def _is_senseless(largest: jax.Array, may_be_empty: bool) -> jax.Array:
    """Of rows by the logit that argmax picks, for which a NaN is the largest.

    On a CPU neither a maximum nor an exponential need keep a NaN.
    """
    empty = jnp.zeros_like(largest, bool) if may_be_empty else largest == -jnp.inf
    return jnp.isnan(largest) | (largest == jnp.inf) | empty
