"""Hypotheses of a beam: what each is, how it grows, and which of them are one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_rnnt.search import trees

NOTHING = -1  # where there is no label, or no frame


class Hypotheses(NamedTuple):
    """K sequences of labels for each of N utterances: a pytree of arrays (N, K, ...).

    Attributes:
        predictor: the predictor's state after each sequence; features: what it gave.
        scores: float32, nats above the utterance's `BeamState.log_probs`; -inf where there is none.
        keys: (N, K, 2) uint32, a hash of the sequence.
        parents: that of all its labels but the last.
        last: the last label.
        lengths: the number of labels.
        frame: the frame of this call at which it was another hypothesis of the beam, NOTHING where
            it comes from the call before; slot: which one.
        here: (N, K, S), the labels written at that frame, then NOTHING.
    """

    predictor: Any
    features: Any
    scores: jax.Array
    keys: jax.Array
    parents: jax.Array
    last: jax.Array
    lengths: jax.Array
    frame: jax.Array
    slot: jax.Array
    here: jax.Array

    @property
    def live(self) -> jax.Array:
        return self.scores > -jnp.inf


def take(tree: Any, index: jax.Array) -> Any:
    """The entries (N, J, ...) of a tree of arrays (N, K, ...) at index (N, J)."""

    def of(x: jax.Array) -> jax.Array:
        whole = index.reshape(index.shape + (1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, whole, axis=1, mode="clip")

    return jax.tree.map(of, tree)


def join(parts: list) -> Any:
    """Trees of arrays (N, K, ...) one behind the other."""
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)


def extended_keys(keys: jax.Array, labels: jax.Array) -> jax.Array:
    """The hash (..., 2) of the sequences behind keys (..., 2), each with one label (...) more."""
    label = labels.astype(jnp.uint32) + jnp.uint32(1)
    first = (keys[..., 0] ^ (label * jnp.uint32(0xC2B2AE3D))) * jnp.uint32(0x9E3779B1)
    second = (keys[..., 1] + label * jnp.uint32(0x27D4EB2F)) * jnp.uint32(0x85EBCA77)
    first ^= first >> jnp.uint32(15)
    second ^= second >> jnp.uint32(13)
    return jnp.stack([first ^ (second << jnp.uint32(5)), second ^ (first >> jnp.uint32(7))], -1)


def extended(
    old: Hypotheses, labels: jax.Array, scores: jax.Array, predictor: Any, features: Any
) -> Hypotheses:
    """Each hypothesis with one label more; what it wrote at this frame is not yet said."""
    return old._replace(
        predictor=predictor,
        features=features,
        scores=scores,
        keys=extended_keys(old.keys, labels),
        parents=old.keys,
        last=labels,
        lengths=old.lengths + 1,
    )


def leads_to(hypotheses: Hypotheses) -> jax.Array:
    """(N, i, j), whether hypothesis i is hypothesis j and one label more."""
    of = hypotheses
    live = of.live[:, :, None] & of.live[:, None, :]
    longer = of.lengths[:, :, None] == of.lengths[:, None, :] + 1
    return live & longer & jnp.all(of.parents[:, :, None] == of.keys[:, None, :], -1)


def merged_scores(hypotheses: Hypotheses) -> jax.Array:
    """(N, K): all that a sequence has at the best of its hypotheses, -inf at the others."""
    of = hypotheses
    K = of.scores.shape[1]
    same = (
        jnp.all(of.keys[:, :, None] == of.keys[:, None, :], -1)
        & (of.lengths[:, :, None] == of.lengths[:, None, :])
        & of.live[:, :, None]
        & of.live[:, None, :]
    )
    first, second = of.scores[:, :, None], of.scores[:, None, :]
    index = jnp.arange(K, dtype=jnp.int32)
    earlier = (index[None, :] < index[:, None])[None]
    led = jnp.any(same & ((second > first) | ((second == first) & earlier)), -1)
    total = jax.nn.logsumexp(jnp.where(same, second, -jnp.inf), -1)
    return jnp.where(led | ~of.live, -jnp.inf, total)


def where(mask: jax.Array, new: Hypotheses, old: Hypotheses) -> Hypotheses:
    return trees.where(mask, new, old)
