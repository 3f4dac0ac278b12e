"""The checks that searches share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_rnnt import _checks

RNNT_TYPES = ("regular", "modified", "constrained")


class Alphabet(NamedTuple):
    """How a row of logits is divided: V symbols, then one logit for each duration, if any."""

    blank: int
    durations: tuple[int, ...] | None

    def tokens(self, logits: jax.Array) -> int:
        return logits.shape[-1] - len(self.durations or ())

    def blank_of(self, logits: jax.Array) -> int:
        """The blank's index in [0, V)."""
        return _checks.blank_index(self.blank, self.tokens(logits))


def check_alphabet(blank: Any, durations: Any, rnnt_type: Any) -> Alphabet:
    _checks.choice("rnnt_type", rnnt_type, RNNT_TYPES)
    if durations is None:
        return Alphabet(_checks.index("blank", blank), None)
    if rnnt_type != "regular":
        raise ValueError(f'durations are for rnnt_type="regular", got {rnnt_type!r}.')
    return Alphabet(_checks.index("blank", blank), _checks.durations("durations", durations))


def check_encoder(encoder: Any, frames_lengths: Any, N: int) -> tuple[Any, jax.Array, jax.Array]:
    """The encoder, lengths within [0, T], and which of them made sense.

    An encoder of no frames gets one that no length reaches.
    """
    encoder = jax.tree.map(jnp.asarray, encoder)
    leaves = jax.tree.leaves(encoder)
    shapes = [x.shape for x in leaves]
    if not leaves or any(len(shape) < 2 or shape[:2] != shapes[0][:2] for shape in shapes):
        raise ValueError(f"Each array of encoder must be (N, T, ...), got shapes {shapes}.")
    T = shapes[0][1]
    if shapes[0][0] != N:
        raise ValueError(f"encoder must have N = {N} sequences, as state has, got {shapes[0][0]}.")
    lengths = _checks.integers("frames_lengths", frames_lengths)
    _checks.shape("frames_lengths", lengths, (N,), "one for each sequence")
    _checks.lengths_values("frames_lengths", lengths, 0, T, "T frames")
    if T == 0:
        encoder = jax.tree.map(lambda x: jnp.zeros((N, 1, *x.shape[2:]), x.dtype), encoder)
    lengths = jnp.asarray(lengths)
    return encoder, jnp.clip(lengths, 0, T), (lengths >= 0) & (lengths <= T)


def check_logits(logits: Any, rows: tuple[int, ...], alphabet: Alphabet) -> jax.Array:
    """What the joint gave, or TypeError, ValueError."""
    logits = _checks.floats("What joint returns", logits)
    own = len(alphabet.durations or ())
    if logits.shape[:-1] != rows or logits.shape[-1] <= own:
        axes = ", ".join(map(str, rows))
        last = f"V + {own}" if own else "V"
        raise ValueError(f"joint must return shape ({axes}, {last}), got {logits.shape}.")
    return logits
