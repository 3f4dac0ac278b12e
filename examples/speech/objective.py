"""The three losses, from the joint's parts (logits of all cells never exist), and the encoder's."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

import jax_rnnt

if TYPE_CHECKING:
    from .model import Transducer


def costs(
    model: "Transducer",
    encoder: jax.Array,
    predictor: jax.Array,
    labels: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    key: jax.Array | None,
    step: jax.Array | None,
) -> jax.Array:
    """The costs (N,) of encoder (N, T, E) and predictor (N, U, P), by the loss of the settings.

    The key is that of the joint's dropout. It is the step's own, so that a run that goes on drops
    what it would have dropped; the streams of a module would be one more thing to store.
    """
    settings, joint = model.settings, model.joint
    parts = (
        joint.project_encoder(encoder),
        joint.project_predictor(predictor),
        joint.kernel[...].astype(settings.dtype),
        joint.bias[...].astype(settings.dtype),
    )
    batch = labels, frames_lengths, labels_lengths
    options: dict[str, Any] = {
        "fastemit_lambda": settings.fastemit,
        "where": frames_lengths > 0,  # rows that fill a batch up cost nothing
    }
    if key is not None and settings.joint_dropout:
        options.update(dropout_rate=settings.joint_dropout, dropout_key=key)
    if settings.loss == "rnnt":
        return jax_rnnt.rnnt_loss_from_joint(*parts, *batch, **options)
    if settings.loss == "tdt":
        return jax_rnnt.tdt_loss_from_joint(
            *parts, *batch, durations=settings.durations, sigma=settings.sigma, **options
        )
    simple = model.simple_encoder(encoder), model.simple_predictor(predictor)
    losses = jax_rnnt.pruned_rnnt_loss(
        *parts, *simple, *batch, width=settings.prune_width, lm_scale=0.25, **options
    )
    # icefall's schedule: the simple joint first learns where alignments are.
    after = jnp.float32(1) if step is None else jnp.minimum(step / settings.prune_warmup_steps, 1)
    simple_weight, pruned_weight = 1 - 0.5 * after, 0.1 + 0.9 * after
    # An utterance of more labels than its band can hold has its simple loss alone.
    pruned = jnp.where(jnp.isfinite(losses.pruned), losses.pruned, 0)
    return simple_weight * losses.simple + pruned_weight * pruned


def encoder_costs(
    logits: jax.Array, labels: jax.Array, frames_lengths: jax.Array, labels_lengths: jax.Array
) -> jax.Array:
    """(N,) nats of a transducer without a predictor: logits (N, T, V) are those of all columns."""
    log_probs = jax.nn.log_softmax(logits)
    # As a product: the gradient of a gather adds up in another order each time on a GPU.
    is_label = jax.nn.one_hot(jnp.pad(labels, ((0, 0), (0, 1))), logits.shape[-1])  # (N, U, V)
    exact = jax.lax.Precision.HIGHEST
    label_arcs = jnp.einsum("ntv,nuv->ntu", log_probs, is_label, precision=exact)
    blank_arcs = jnp.broadcast_to(log_probs[..., :1], label_arcs.shape)
    # A row that fills a batch up has no frame, and a lattice one at least.
    lengths = jnp.maximum(frames_lengths, 1), labels_lengths
    costs = jax_rnnt.lattice_cost(blank_arcs, label_arcs, *lengths)
    return jnp.where(frames_lengths > 0, costs, 0.0)
