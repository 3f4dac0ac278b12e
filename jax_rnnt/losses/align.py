"""The best alignment of rows that exist as an array of logits."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt.lattice.align import (
    Alignment,
    compact_alignment,
    largest_length,
    padded_alignment,
    with_label_log_probs,
)
from jax_rnnt.lattice.arcs_align import padded_arcs_alignment
from jax_rnnt.lattice.compact import check_max_labels
from jax_rnnt.losses import layouts, topologies
from jax_rnnt.losses.checked import optional_bias
from jax_rnnt.losses.rnnt import ROWS
from jax_rnnt.reference.compact import offsets


def rnnt_align(
    logits: ArrayLike,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    blank: int = 0,
    where: ArrayLike | None = None,
    rnnt_type: str = "regular",
    normalize: str = "softmax",
    label_bias: ArrayLike | None = None,
    blank_bias: ArrayLike | None = None,
    compact: bool = False,
    max_labels: int | None = None,
    implementation: str | None = None,
) -> Alignment:
    r"""The best alignment of labels with frames under a joint network's logits (Viterbi).

    .. math:: log\_prob_n = \max_{alignments} \sum_{arcs} \log softmax(logits)_{arc}

    The maximum where `rnnt_loss_from_logits` has the sum: forced alignment, the frame in which each
    label of a known text is written. Of equal alignments it is the one whose labels come earliest,
    see `lattice_align`.

    Args:
        logits: (..., T, U, V), float32, bfloat16, float16 or float64, not normalised; U = longest
            label sequence + 1. Compact: (S, V), the rows of one sequence after the other,
            T_n (U_n + 1) each, frame by frame.
        labels: (..., U - 1) integers, padded with anything. Compact: (L,), one sequence's labels
            after the other's.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        blank: index of the blank; negative counts from the end.
        where: (...) booleans, None for all true: sequences for which it is false are not aligned.
            Their log_probs are 0, and their lengths and labels may be anything.
        rnnt_type: "regular", "modified" or "constrained", as in `rnnt_loss_from_logits`; the latter
            two in plain JAX and not compact.
        normalize: "softmax" or "hat", as in `rnnt_loss_from_logits`.
        label_bias: floats that broadcast to (..., T, U), compact to (S,), added to the labels'
            log-probabilities, those that come back too; -inf forbids. See `alignment_window`.
        blank_bias: the same of the blanks.
        compact: whether logits and labels are packed; lengths may be traced all the same.
        max_labels: compact only, an upper bound of the labels' lengths and the width of the
            results; by default the largest length, which must then be known in advance.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX.

    Returns:
        An `Alignment`: log_probs (...), label_frames (..., U - 1) and label_log_probs (..., U - 1),
        compact (N,) and twice (N, max_labels); float32 (float64 for float64 logits), the first and
        the last differentiable once. -inf where no alignment is possible, NaN where NaN or +inf
        stands within the lengths and, under jit, where lengths or labels make no sense: there
        label_frames is -1. The other sequences are untouched.

    Raises:
        TypeError: If logits or biases are not floats, or labels or lengths not integers.
        ValueError: If shapes do not fit, biases do not broadcast, concrete lengths or labels are
            out of range, or an option is none of its values.
        NotImplementedError: If implementation="native" and the platform has no kernels, or if
            compact and rnnt_type is not "regular".

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> frames = jnp.array([0, 0, 2, 0, 1])  # what is likely in each of five frames
        >>> logits = 5 * jnp.eye(3)[frames][:, None] * jnp.ones((5, 3, 1))
        >>> path = jax_rnnt.rnnt_align(logits, jnp.array([2, 1]), 5, 2)
        >>> print(path.label_frames)
        [2 4]

    See Graves (2012), arXiv:1211.3711.
    """
    logits = _checks.floats("logits", logits)
    labels = _checks.integers("labels", labels)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    _checks.choice("normalize", normalize, tuple(ROWS))
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    picks_to_arcs = topologies.costs_of(rnnt_type)
    compact = _checks.flag("compact", compact)
    where = None if where is None else _checks.mask("where", where)
    check = layouts.check_compact if compact else layouts.check_padded
    check("logits", logits, labels, frames_lengths, labels_lengths, where, 0)
    if max_labels is not None and not compact:
        raise ValueError("max_labels is for the compact form: U says it otherwise.")
    if compact:
        if rnnt_type != "regular":
            raise NotImplementedError(f"rnnt_type={rnnt_type!r} is not aligned in compact form.")
        bound = largest_length(labels_lengths) if max_labels is None else max_labels
        max_labels = check_max_labels(max(bound, 0), labels_lengths, logits.shape[0])
    biases = {"label_bias": label_bias, "blank_bias": blank_bias}
    cells = layouts.cells_axes(compact), tuple(logits.shape[:-1])
    return _align(
        logits,
        labels,
        frames_lengths,
        labels_lengths,
        where,
        {name: optional_bias(name, x, *cells) for name, x in biases.items()},
        blank=_checks.blank_index(blank, logits.shape[-1]),
        max_labels=max_labels,
        implementation=implementation,
        rows_to_picks=ROWS[normalize],
        picks_to_arcs=picks_to_arcs,
    )


@functools.partial(
    one_program,
    static_argnames=("blank", "max_labels", "implementation", "rows_to_picks", "picks_to_arcs"),
)
def _align(
    logits,
    labels,
    frames_lengths,
    labels_lengths,
    where,
    biases,
    *,
    blank,
    max_labels,
    implementation,
    rows_to_picks,
    picks_to_arcs,
):
    compact = max_labels is not None
    layout = layouts.of_compact if compact else layouts.of_padded
    row_labels, sensible, _ = layout(logits, labels, frames_lengths, labels_lengths, where, 0)
    picks = rows_to_picks(logits, row_labels, blank=blank, implementation=implementation)
    # A sequence whose lengths or labels make no sense gets 0 frames, for which there is no path.
    lengths = jnp.where(sensible, frames_lengths, 0), labels_lengths
    if compact:
        places = offsets(frames_lengths, labels_lengths, logits.shape[0]), max_labels
        solve = functools.partial(compact_alignment, implementation=implementation)
        path = _solved(picks_to_arcs, picks, biases, lambda b, x: solve(b, x, *lengths, *places))
        return left_out(path, where)
    return left_out(align_picks(picks_to_arcs, picks, biases, lengths, implementation), where)


def align_picks(
    picks_to_arcs: Callable,
    picks: tuple[jax.Array, ...],
    biases: Mapping[str, Any],
    lengths: tuple[jax.Array, jax.Array],
    implementation: str | None,
) -> Alignment:
    """The alignment of padded rows' blank and label log-probabilities (..., T, U).

    Args:
        picks_to_arcs: of `topologies.costs_of`.
    """

    def solve(arcs, last=None):
        if arcs.keys() == {(1, 0), (0, 1)}:
            return padded_alignment(arcs[1, 0], arcs[0, 1], *lengths, implementation)
        own = padded_arcs_alignment(arcs, *lengths, last=last)
        label = topologies.biased(picks[1], biases["label_bias"])  # without the blank of its arc
        return with_label_log_probs(own.log_probs, own.label_frames, label)

    return picks_to_arcs(picks, biases, solve)


def _solved(picks_to_arcs, picks, biases, solve):
    return picks_to_arcs(picks, biases, lambda arcs: solve(arcs[1, 0], arcs[0, 1]))


def left_out(path: Alignment, where: jax.Array | None) -> Alignment:
    """The alignment, with log_probs of 0 where `where` is false."""
    if where is None:
        return path
    return path._replace(log_probs=jnp.where(where, path.log_probs, 0))
