"""Log-probabilities of a joint network's rows, as `pick_rows` gives them of logits."""

import jax
import jax.numpy as jnp

from jax_rnnt import reference
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt.rows import joint_network, pick
from jax_rnnt.rows.joint_entries import Joint, joint_entries
from jax_rnnt.rows.normalise import Picking, Planes, planes_of
from jax_rnnt.rows.pick_rows import row_arcs, with_kernels_for


def joint_rows(
    joint: Joint, labels: pick.ColumnLabels, picking: Picking, implementation: str | None
) -> tuple[Planes, jax.Array | None]:
    """The log-probabilities (..., T, U) of the rows and, with a clamp, a zero for each sequence.

    Whoever adds the zeros to the sequences' costs lets `joint.clamp` know how these are weighed.
    """
    *sequences, T, _, W = joint.shape
    selection = picking.selection(W)
    implementation = with_kernels_for(selection, implementation)
    if implementation == "reference" or 0 in sequences:
        return _of_logits(joint, labels, picking, implementation)
    rows, unit = joint_entries(joint, labels, selection, implementation)
    return planes_of(rows, labels.of_rows(T), picking, selection.tokens), unit


def _of_logits(joint, labels, picking, implementation):
    row_labels, tokens = labels.of_rows(joint.shape[-3]), joint.shape[-1] - picking.durations
    weights = joint.weights
    own = row_labels if joint.has_hypotheses else row_labels[..., None, :, :]
    dropout = joint.dropout_of(weights)
    logits = joint_network.logits(weights, own, joint.activation, dropout, tokens)
    logits = logits if joint.has_hypotheses else logits.squeeze(-4)
    unit = None
    if joint.clamp is not None:
        logits, unit = joint_network.clamp_gradient(logits, joint.clamp)
    return row_arcs(logits, row_labels, picking, implementation), unit


def joint_to_arcs(
    joint: Joint, labels: pick.ColumnLabels, *, blank: int, implementation: str | None
) -> tuple[jax.Array, jax.Array]:
    """Both arcs' log-probabilities (..., T, U), as `pick.softmax_arcs` gives them of logits."""
    planes, _ = joint_rows(joint, labels, Picking(blank), implementation)
    return planes.blank, planes.label


def label_log_probs_at(
    joint: Joint,
    frames: jax.Array,
    labels: jax.Array,
    *,
    blank: int,
    implementation: str | None,
) -> jax.Array:
    """The log-probabilities (..., U - 1) of labels, one a column, each in a frame of its own.

    Args:
        joint: without dropout and without hypotheses.
        frames: (..., U - 1) int32; labels of negative frames are not looked at.
        labels: (..., U - 1) int32.
    """
    weights = joint.weights
    dtype = accumulator_dtype(weights.dtype)
    encoder = jnp.take_along_axis(
        weights.encoder, jnp.maximum(frames, 0)[..., None], -2, mode="clip"
    )
    sums = encoder.astype(dtype) + joint.predictor[..., :-1, :].astype(dtype)
    logits = weights.project(joint.activation(sums))
    labels = jnp.where(frames >= 0, labels, reference.PADDING_ROW)
    return pick.softmax_arcs(logits, labels, blank=blank, implementation=implementation)[1]
