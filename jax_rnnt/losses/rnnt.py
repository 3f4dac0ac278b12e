"""The two losses of rows that exist as an array: log-probabilities, or logits."""

import types

import jax
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.losses import layouts, topologies
from jax_rnnt.losses.checked import checked_loss
from jax_rnnt.rows import pick, pick_rows
from jax_rnnt.rows.normalise import Picking


def _hat_arcs(logits, labels, *, blank, implementation):
    picking = Picking(blank, normalize="hat")
    rows = pick_rows.row_arcs(logits, labels, picking, implementation)
    return rows.blank, rows.label


# How rows become both log-probabilities, by `normalize`.
ROWS = types.MappingProxyType({"softmax": pick.softmax_arcs, "hat": _hat_arcs})


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
    *,
    where: ArrayLike | None = None,
    rnnt_type: str = "regular",
    label_bias: ArrayLike | None = None,
    blank_bias: ArrayLike | None = None,
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
        where: (...) booleans, None for all true: sequences for which it is false are left out of
            value, gradient and mean, as in `jnp.mean(costs, where=where)`. Their costs are 0, and
            their lengths and labels may be anything. Compact: their lengths still say how many rows
            and labels they have.
        rnnt_type: "regular"; "modified": each frame takes one arc, the blank's or a label's, and is
            left by it (RNA, the monotonic RNN-T); "constrained": at most one label a frame, and
            each frame ends with a blank.
        label_bias: floats that broadcast to (..., T, U), compact to (S,), added to the labels'
            log-probabilities; -inf forbids. Minus its gradient is the posterior probability that
            the label is written there, without FastEmit's factor.
        blank_bias: the same of the blanks.

    Returns:
        (...) nats, or () after a reduction; float32 (float64 for float64). +inf with zero gradients
        where no alignment is possible. NaN with zero gradients where NaN or +inf stands within a
        sequence's lengths and, under jit, where its lengths or labels make no sense; the other
        sequences are untouched. What stands beyond a sequence's lengths has no effect, and its
        gradient is zero.

    Raises:
        TypeError: If log_probs or biases are not floats, or labels or lengths not integers.
        ValueError: If shapes do not fit, biases do not broadcast, concrete lengths or labels are
            out of range, or an option is none of its values.

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
        rows_to_picks=pick.gather_rows,
        picks_to_costs=topologies.costs_of(rnnt_type),
        numbers={"fastemit_lambda": fastemit_lambda},
        biases={"label_bias": label_bias, "blank_bias": blank_bias},
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        where=where,
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
    where: ArrayLike | None = None,
    rnnt_type: str = "regular",
    normalize: str = "softmax",
    label_bias: ArrayLike | None = None,
    blank_bias: ArrayLike | None = None,
    columns: ArrayLike | None = None,
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
            T_n (U_n + 1) each, frame by frame; rows beyond their sum are padding. With `columns`:
            (..., T, S, V).
        labels: (..., U - 1) integers, padded with anything. Compact: (L,), one sequence's labels
            after the other's, L >= sum U_n.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        blank: index of the blank; negative counts from the end.
        fastemit_lambda: FastEmit; gradients of label arcs are multiplied by (1 + lambda), the value
            and the blank arcs' gradients stay. May be traced.
        where: (...) booleans, None for all true: sequences for which it is false are left out of
            value, gradient and mean, as in `jnp.mean(costs, where=where)`. Their costs are 0, and
            their lengths and labels may be anything. Compact: their lengths still say how many rows
            and labels they have.
        rnnt_type: "regular"; "modified": each frame takes one arc, the blank's or a label's, and is
            left by it (RNA, the monotonic RNN-T); "constrained": at most one label a frame, and
            each frame ends with a blank.
        normalize: "softmax" of all symbols, or "hat": a sigmoid of the blank's own logit, and a
            softmax among the others for the rest.
        label_bias: floats that broadcast to (..., T, U), compact to (S,), added to the labels'
            log-probabilities; -inf forbids. Minus its gradient is the posterior probability that
            the label is written there, without FastEmit's factor.
        blank_bias: the same of the blanks.
        columns: (..., T) integers in [0, U - S], the first of the S columns that the logits hold of
            each frame, as `prune_ranges` gives them. Nothing leaves a cell outside of the band; U
            is that of the labels, and biases broadcast to (..., T, U) all the same. Not compact.
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
        TypeError: If logits or biases are not floats, or labels or lengths not integers.
        ValueError: If shapes do not fit, biases do not broadcast, concrete lengths or labels are
            out of range, or an option is none of its values.
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

    See Graves (2012), arXiv:1211.3711; FastEmit: Yu et al. (2020), arXiv:2010.11148; RNA: Sak et
    al. (2017); the monotonic RNN-T: Tripathi et al. (2019); HAT: Variani et al. (2020),
    arXiv:2003.07705; bands of columns: Kuang et al. (2022), arXiv:2206.13236.
    """
    _checks.choice("normalize", normalize, tuple(ROWS))
    rows, rows_to_picks = _checks.floats("logits", logits), ROWS[normalize]
    if columns is not None:
        if compact:
            raise ValueError("columns are not for the compact form, whose rows are all cells'.")
        labels = _checks.integers("labels", labels)
        if not labels.ndim:
            raise ValueError(f"labels must have shape (..., U - 1), got {labels.shape}.")
        U = labels.shape[-1] + 1
        rows = layouts.band_of("logits", rows, columns, U, frames_lengths, where)
        rows_to_picks = layouts.BandPicks(rows_to_picks)
    return checked_loss(
        "logits",
        rows,
        labels,
        frames_lengths,
        labels_lengths,
        rows_to_picks=rows_to_picks,
        picks_to_costs=topologies.costs_of(rnnt_type),
        numbers={"fastemit_lambda": fastemit_lambda},
        biases={"label_bias": label_bias, "blank_bias": blank_bias},
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        where=where,
        compact=compact,
        implementation=implementation,
    )
