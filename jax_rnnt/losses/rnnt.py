"""The two losses: rows to arcs, arcs to costs, costs to what the caller asked for."""

import types

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jax_rnnt import _checks, reference
from jax_rnnt._xla.primitive import vary_alike
from jax_rnnt.lattice import compact as compact_layout
from jax_rnnt.lattice import cost
from jax_rnnt.rows import pick

_REDUCTIONS = types.MappingProxyType({None: None, "none": None, "sum": jnp.sum, "mean": jnp.mean})


def rnnt_loss(
    log_probs: ArrayLike,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    average_frames: bool = False,
    reduction: str | None = None,
    blank: int = 0,
    gather: bool = False,
    fastemit_lambda: ArrayLike = 0.0,
    compact: bool = False,
) -> jax.Array:
    r"""RNN-Transducer loss of normalised log-probabilities (warp-rnnt's signature).

    .. math:: cost_n = -\log \sum_{alignments} \prod_{arcs} P(arc)

    Prefer `rnnt_loss_from_logits`: with the log-softmax inside there is no normalised array to
    store and no dense gradient to push back through it.

    Args:
        log_probs: (..., T, U, V) nats, float32, bfloat16, float16 or float64; U = longest label
            sequence + 1. Compact: (S, V), the rows of one sequence after the other, T_n (U_n + 1)
            each, frame by frame; rows beyond their sum are padding.
        labels: (..., U - 1) integers, padded with anything. Compact: (L,), one sequence's labels
            after the other's, L >= sum U_n.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        blank: index of the blank; negative counts from the end.
        gather: accepted for warp-rnnt's callers and without effect: of each row only two entries
            are ever read, and the dense gradient exists only if autodiff asks for it.
        fastemit_lambda: FastEmit; gradients of label arcs are multiplied by (1 + lambda), the value
            and the blank arcs' gradients stay. May be traced.
        compact: whether log_probs and labels are packed; lengths may be traced all the same.

    Returns:
        (...) nats, or () after a reduction; float32 (float64 for float64). +inf with zero gradients
        where no alignment is possible. NaN with zero gradients where NaN or +inf stands within a
        sequence's lengths and, under jit, where its lengths or labels make no sense; the other
        sequences are untouched. What stands beyond a sequence's lengths has no effect, and its
        gradient is zero.

    Raises:
        TypeError: If log_probs are not floats, or labels or lengths not integers.
        ValueError: If shapes do not fit, or concrete lengths or labels are out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> log_probs = jax.nn.log_softmax(jnp.zeros((1, 2, 3, 5)))  # two frames, two labels
        >>> labels = jnp.array([[1, 2]])
        >>> print(jax_rnnt.rnnt_loss(log_probs, labels, jnp.array([2]), jnp.array([2])))
        [5.3391395]

    See Graves (2012), arXiv:1211.3711; FastEmit: Yu et al. (2020), arXiv:2010.11148.
    """
    del gather
    return checked_loss(
        "log_probs",
        _checks.floats("log_probs", log_probs),
        labels,
        frames_lengths,
        labels_lengths,
        fastemit_lambda,
        rows_to_arcs=pick.gather_rows,
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        compact=compact,
        implementation=None,
    )


def rnnt_loss_from_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    average_frames: bool = False,
    reduction: str | None = None,
    blank: int = 0,
    fastemit_lambda: ArrayLike = 0.0,
    compact: bool = False,
    implementation: str | None = None,
) -> jax.Array:
    r"""RNN-Transducer loss of a joint network's logits, the log-softmax inside.

    .. math:: cost_n = -\log \sum_{alignments} \prod_{arcs} softmax(logits)_{arc}

    Under jit the gradient is written over logits that are not used again, so that a train step
    holds one array of their size.

    Args:
        logits: (..., T, U, V), float32, bfloat16, float16 or float64, not normalised; U = longest
            label sequence + 1. Compact: (S, V), the rows of one sequence after the other,
            T_n (U_n + 1) each, frame by frame; rows beyond their sum are padding.
        labels: (..., U - 1) integers, padded with anything. Compact: (L,), one sequence's labels
            after the other's, L >= sum U_n.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        blank: index of the blank; negative counts from the end.
        fastemit_lambda: FastEmit; gradients of label arcs are multiplied by (1 + lambda), the value
            and the blank arcs' gradients stay. May be traced.
        compact: whether logits and labels are packed; lengths may be traced all the same.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX (differentiable twice where not compact).

    Returns:
        (...) nats, or () after a reduction; float32 (float64 for float64). +inf with zero gradients
        where no alignment is possible. NaN with zero gradients where NaN or +inf stands within a
        sequence's lengths and, under jit, where its lengths or labels make no sense; the other
        sequences are untouched. What stands beyond a sequence's lengths has no effect, and its
        gradient is zero.

    Raises:
        TypeError: If logits are not floats, or labels or lengths not integers.
        ValueError: If shapes do not fit, or concrete lengths or labels are out of range.
        NotImplementedError: If implementation="native" and the platform has no kernels.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> logits = jnp.zeros((1, 2, 3, 5))  # one sequence, two frames, two labels, five symbols
        >>> labels, frames, lengths = jnp.array([[1, 2]]), jnp.array([2]), jnp.array([2])
        >>> loss = lambda x: jax_rnnt.rnnt_loss_from_logits(
        ...     x, labels, frames, lengths, reduction="mean")
        >>> print(loss(logits), jax.grad(loss)(logits).shape)
        5.3391395 (1, 2, 3, 5)

    See Graves (2012), arXiv:1211.3711; FastEmit: Yu et al. (2020), arXiv:2010.11148.
    """
    return checked_loss(
        "logits",
        _checks.floats("logits", logits),
        labels,
        frames_lengths,
        labels_lengths,
        fastemit_lambda,
        rows_to_arcs=pick.pick_rows,
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        compact=compact,
        implementation=implementation,
    )


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
    rows_to_arcs,
):
    """A loss of any source of rows, its arguments checked.

    Args:
        name: of the rows, in messages.
        rows: a pytree with the shape (..., T, U, V) or, compact, (S, V) and the dtype of the rows
            that it stands for: an array of them, or what they are computed from.
        rows_to_arcs: rows, their labels as `pick.pick_rows` takes them, `blank` and
            `implementation` to the arcs' log-probabilities.
    """
    _checks.choice("reduction", reduction, tuple(_REDUCTIONS))
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    compact = _checks.flag("compact", compact)
    average_frames = _checks.flag("average_frames", average_frames)
    labels = _checks.integers("labels", labels)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    check = _check_compact if compact else _check_padded
    check(name, rows, labels, frames_lengths, labels_lengths)
    is_zero = type(fastemit_lambda) in (int, float) and fastemit_lambda == 0
    fastemit_lambda = None if is_zero else _checks.number("fastemit_lambda", fastemit_lambda)
    # Under a caller's jit without one of our own: the program sees whose array the logits are, and
    # writes their gradient over them if nobody else wants them.
    is_staged = isinstance(jnp.zeros(()), Tracer)
    return (_traced_loss if is_staged else _loss)(
        rows,
        labels,
        frames_lengths,
        labels_lengths,
        fastemit_lambda,
        blank=_checks.blank_index(blank, rows.shape[-1]),
        compact=compact,
        reduction=reduction,
        implementation=implementation,
        average_frames=average_frames,
        rows_to_arcs=rows_to_arcs,
    )


def _check_padded(name, rows, labels, frames_lengths, labels_lengths):
    if len(rows.shape) < 3 or 0 in rows.shape[-3:]:
        raise ValueError(
            f"{name} must have shape (..., T, U, V) with T, U and V at least 1, got {rows.shape}."
        )
    *batch, T, U, V = rows.shape
    _checks.shape("labels", labels, (*batch, U - 1), f"(..., U - 1) for {name} {rows.shape}")
    _checks.shape("frames_lengths", frames_lengths, tuple(batch), "one for each sequence")
    _checks.shape("labels_lengths", labels_lengths, tuple(batch), "one for each sequence")
    _checks.lengths_values("frames_lengths", frames_lengths, 1, T, f"T = {T} frames")
    lengths = _checks.lengths_values(
        "labels_lengths", labels_lengths, 0, U - 1, f"U - 1 = {U - 1} labels"
    )
    _checks.labels_values(labels, lengths, V)


def _check_compact(name, rows, labels, frames_lengths, labels_lengths):
    if len(rows.shape) != 2 or rows.shape[-1] < 1:
        raise ValueError(
            f"compact {name} must have shape (S, V) with V at least 1, got {rows.shape}."
        )
    if labels.ndim != 1:
        raise ValueError(f"compact labels must have shape (L,), got {labels.shape}.")
    compact_layout.check_lengths(rows.shape[0], frames_lengths, labels_lengths)
    compact_layout.check_labels(labels, labels_lengths, rows.shape[-1])


def _traced_loss(
    rows,
    labels,
    frames_lengths,
    labels_lengths,
    fastemit_lambda,
    *,
    rows_to_arcs,
    average_frames,
    reduction,
    blank,
    compact,
    implementation,
):
    layout = _compact_layout if compact else _padded_layout
    row_labels, sensible, cells_to_costs = layout(rows, labels, frames_lengths, labels_lengths)
    blank_log_probs, label_log_probs = rows_to_arcs(
        rows, row_labels, blank=blank, implementation=implementation
    )
    if fastemit_lambda is not None:
        scale = 1 + jnp.asarray(fastemit_lambda, label_log_probs.dtype)
        label_log_probs = _scale_gradient(*vary_alike(label_log_probs, scale))
    # A sequence that makes no sense is given no frames, which the lattice answers with NaN.
    frames_lengths = jnp.where(sensible, frames_lengths, 0)
    costs = cells_to_costs(
        blank_log_probs, label_log_probs, frames_lengths, labels_lengths, implementation
    )
    if average_frames:
        costs = costs / jnp.maximum(frames_lengths, 1).astype(costs.dtype)
    reduce = _REDUCTIONS[reduction]
    return costs if reduce is None else reduce(costs)


_loss = jax.jit(
    _traced_loss,
    static_argnames=(
        "rows_to_arcs",
        "average_frames",
        "reduction",
        "blank",
        "compact",
        "implementation",
    ),
)


def _padded_layout(rows, labels, frames_lengths, labels_lengths):
    *batch, T, U, V = rows.shape
    column = jnp.arange(U, dtype=jnp.int32)
    used = column[:-1] < labels_lengths[..., None]
    wrong = used & ((labels < 0) | (labels >= V))
    sensible = reference.valid_lengths(frames_lengths, labels_lengths, T, U) & ~wrong.any(-1)
    last = labels_lengths[..., None]
    last_column = [(0, 0)] * len(batch) + [(0, 1)]
    column_labels = jnp.where(column == last, reference.NO_LABEL, jnp.pad(labels, last_column))
    column_labels = jnp.where(column > last, reference.PADDING_ROW, column_labels)
    frames = jnp.where(sensible, frames_lengths, 0)
    return pick.ColumnLabels(column_labels, frames), sensible, cost.padded_cells


def _compact_layout(rows, labels, frames_lengths, labels_lengths):
    S, V = rows.shape
    offsets = compact_layout.offsets(frames_lengths, labels_lengths, S)
    row_labels, sensible = compact_layout.row_labels(
        labels, frames_lengths, labels_lengths, offsets, S, V
    )

    def cells_to_costs(blank_log_probs, label_log_probs, frames, label_counts, implementation):
        return cost.compact_cells(
            blank_log_probs,
            label_log_probs,
            frames,
            label_counts,
            offsets,
            min(labels.shape[0], max(S - 1, 0)),
            implementation,
        )

    return row_labels, sensible, cells_to_costs


@jax.custom_jvp
def _scale_gradient(x, scale):
    """x, whose derivative counts `scale` times."""
    del scale
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals, tangents):
    x, scale = primals
    return x, tangents[0] * scale
