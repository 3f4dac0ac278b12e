"""The steps that all losses share: rows to arcs, arcs to costs, costs to the caller's reduction."""

import functools
import types

import jax
import jax.numpy as jnp

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.losses import layouts

_REDUCTIONS = types.MappingProxyType({None: None, "none": None, "sum": jnp.sum, "mean": jnp.mean})


def checked_loss(
    name,
    rows,
    labels,
    frames_lengths,
    labels_lengths,
    fastemit_lambda,
    *,
    blank,
    compact,
    reduction,
    implementation,
    average_frames,
    where,
    rows_to_arcs,
):
    """Check the arguments and compute the loss of any source of rows.

    Args:
        name: what messages call the rows.
        rows: an array of rows, or a pytree that rows are computed from and that has their `shape`,
            (..., T, U, V) or, compact, (S, V).
        rows_to_arcs: the function from rows, their labels as `pick.pick_rows` takes them, `blank`
            and `implementation` to the arcs' log-probabilities.
    """
    _checks.choice("reduction", reduction, tuple(_REDUCTIONS))
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    compact = _checks.flag("compact", compact)
    average_frames = _checks.flag("average_frames", average_frames)
    labels = _checks.integers("labels", labels)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    check = layouts.check_compact if compact else layouts.check_padded
    where = None if where is None else _checks.mask("where", where)
    check(name, rows, labels, frames_lengths, labels_lengths, where)
    is_zero = type(fastemit_lambda) in (int, float) and fastemit_lambda == 0
    fastemit_lambda = None if is_zero else _checks.number("fastemit_lambda", fastemit_lambda)
    return _loss(
        rows,
        labels,
        frames_lengths,
        labels_lengths,
        where,
        fastemit_lambda,
        blank=_checks.blank_index(blank, rows.shape[-1]),
        compact=compact,
        reduction=reduction,
        implementation=implementation,
        average_frames=average_frames,
        rows_to_arcs=rows_to_arcs,
    )


@functools.partial(
    one_program,
    static_argnames=(
        "rows_to_arcs",
        "average_frames",
        "reduction",
        "blank",
        "compact",
        "implementation",
    ),
)
def _loss(
    rows,
    labels,
    frames_lengths,
    labels_lengths,
    where,
    fastemit_lambda,
    *,
    rows_to_arcs,
    average_frames,
    reduction,
    blank,
    compact,
    implementation,
):
    layout = layouts.of_compact if compact else layouts.of_padded
    row_labels, sensible, cells_to_costs = layout(
        rows, labels, frames_lengths, labels_lengths, where
    )
    blank_log_probs, label_log_probs = rows_to_arcs(
        rows, row_labels, blank=blank, implementation=implementation
    )
    if fastemit_lambda is not None:
        scale = 1 + jnp.asarray(fastemit_lambda, label_log_probs.dtype)
        label_log_probs = _scale_gradient(*vary_alike(label_log_probs, scale))
    # A sequence whose lengths or labels make no sense gets 0 frames, for which the cost is NaN.
    frames_lengths = jnp.where(sensible, frames_lengths, 0)
    costs = cells_to_costs(
        blank_log_probs, label_log_probs, frames_lengths, labels_lengths, implementation
    )
    if average_frames:
        costs = costs / jnp.maximum(frames_lengths, 1).astype(costs.dtype)
    if where is not None:
        costs = jnp.where(where, costs, 0)  # costs left out are NaN, with zero gradients
    reduce = _REDUCTIONS[reduction]
    return costs if reduce is None else reduce(costs, where=where)


@jax.custom_jvp
def _scale_gradient(x, scale):
    """x, with a derivative that is multiplied by `scale`."""
    del scale
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals, tangents):
    x, scale = primals
    return x, tangents[0] * scale
