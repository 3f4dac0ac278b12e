"""The band of columns that a pruned lattice keeps of each frame, from the arcs' posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt.reference.axes import positions

# By `rnnt_type`, the fewest columns of a band in which a label can be written: an alignment goes
# over from one column to the next within a frame or, of "modified", between two.
LEAST_WIDTHS = {"regular": 2, "modified": 1, "constrained": 2}


def prune_ranges(
    blank_posteriors: ArrayLike,
    label_posteriors: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    width: int,
    rnnt_type: str = "regular",
) -> jax.Array:
    r"""The first column of each frame's band, where a cheap model's posterior is largest.

    With :math:`S = \min(width, U)`, :math:`d = S - 1` for ``"regular"`` and 1 for the other types,

    .. math::
        gain(t, s) &= \sum_{i < S} blank(t, s + i) - [s > 0]\, label(t, s - 1), \\
        best(t) &= \begin{cases}
            \min \arg\max_s gain(t, s) & t < T_n - 1, \\
            \max(0, U_n - S + 1) & t \ge T_n - 1,
        \end{cases} \\
        low(t) &= \min_{t' \ge t} best(t'), \\
        first(t) &= \min\bigl(d t,\, \max_{t' \ge t} low(t') - d (t' - t)\bigr)

    These are the integers of k2's `get_rnnt_prune_ranges`: the first band begins at column 0, none
    begins before the one of an earlier frame nor more than d columns after that of the frame before
    it, and the last one holds column :math:`U_n`.

    S is static, while k2 widens it for a batch that needs it: a ``"regular"`` alignment exists in
    a band of `least_prune_width` columns at least. A narrower band makes the utterance's pruned
    cost +inf, with a gradient of zero, under jit and outside alike.

    Args:
        blank_posteriors: (..., T, U), those of `lattice_cost_and_posteriors` or, of the other
            types, of `arcs_cost_and_posteriors`. Constants to derivatives; what stands beyond the
            lengths has no effect.
        label_posteriors: the same shape, of the arcs that write a label.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        width: how many columns a band has, at least 2, or 1 for ``"modified"``; with U or more it
            has all U. k2's recipes take 5.
        rnnt_type: "regular", "modified" or "constrained", of the loss that is pruned.

    Returns:
        (..., T) int32 in [0, U - S], the `columns` of a loss.

    Raises:
        TypeError: If posteriors are not floats, lengths not integers, or width is not known.
        ValueError: If shapes do not fit, a concrete length makes no sense, or width is too small.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> arcs = jnp.log(jnp.full((4, 4), 0.5))  # four frames, three labels
        >>> _, blank, label = jax_rnnt.lattice_cost_and_posteriors(arcs, arcs, 4, 3)
        >>> print(jax_rnnt.prune_ranges(blank, label, 4, 3, width=2))
        [0 1 2 2]

    See Kuang et al. (2022), "Pruned RNN-T for fast, memory-efficient ASR training",
    arXiv:2206.13236.
    """
    blank_posteriors = _checks.floats("blank_posteriors", blank_posteriors)
    label_posteriors = _checks.floats("label_posteriors", label_posteriors)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    width = check_width(width, rnnt_type)
    shape = blank_posteriors.shape
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(
            f"blank_posteriors must be (..., T, U) with T and U at least 1, got {shape}."
        )
    *batch, T, U = shape
    _checks.shape("label_posteriors", label_posteriors, shape, "as blank_posteriors")
    _checks.shape("frames_lengths", frames_lengths, tuple(batch), "one for each sequence")
    _checks.shape("labels_lengths", labels_lengths, tuple(batch), "one for each sequence")
    _checks.lengths_values("frames_lengths", frames_lengths, 1, T, "T frames")
    _checks.lengths_values("labels_lengths", labels_lengths, 0, U - 1, "U - 1 labels")
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    posteriors = blank_posteriors, label_posteriors
    return first_columns(*posteriors, *lengths, width=width, rnnt_type=rnnt_type)


def check_width(width: int, rnnt_type: str) -> int:
    """width as an int, or TypeError, ValueError."""
    _checks.choice("rnnt_type", rnnt_type, tuple(LEAST_WIDTHS))
    columns, least = _checks.index("width", width), LEAST_WIDTHS[rnnt_type]
    if columns < least:
        raise ValueError(
            f"width must be at least {least} for rnnt_type {rnnt_type!r}, got {width}: no "
            "alignment has room for a label in less."
        )
    return columns


def band_width(width: int, columns: int) -> int:
    """S, how many of U columns a band of a wanted width has."""
    return min(width, columns)


def least_prune_width(frames_lengths: ArrayLike, labels_lengths: ArrayLike) -> int:
    r"""The narrowest width of bands in which each utterance has a "regular" alignment.

    .. math:: \max_n \lceil U_n / T_n \rceil + 1

    To choose the `width` of a batch before it is given to a jitted function: k2's recipes take
    ``max(5, least_prune_width(...))``. It is more than 5 only for an utterance of more than four
    labels a frame.

    Args:
        frames_lengths: (...) integers T_n, known in advance, at least 1.
        labels_lengths: (...) integers U_n, likewise, at least 0.

    Returns:
        An int of at least 1; 1 for no utterances.

    Raises:
        TypeError: If lengths are not integers or are traced.
        ValueError: If their shapes differ or one makes no sense.

    Example:
        >>> import jax_rnnt
        >>> jax_rnnt.least_prune_width([40, 3], [10, 14])
        6
    """
    lengths = []
    for name, value, least in (
        ("frames_lengths", frames_lengths, 1),
        ("labels_lengths", labels_lengths, 0),
    ):
        array = _checks.integers(name, value)
        known = _checks.lengths_values(name, array, least, np.iinfo(np.int32).max, "a length")
        if known is None:
            raise TypeError(f"{name} must be known in advance, got a traced array.")
        lengths.append(known)
    frames, labels = lengths
    _checks.shape("labels_lengths", labels, frames.shape, "as frames_lengths")
    return int((-(-labels // frames)).max(initial=0)) + 1


@functools.partial(one_program, static_argnames=("width", "rnnt_type"))
def first_columns(
    blank_posteriors: jax.Array,
    label_posteriors: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    *,
    width: int,
    rnnt_type: str,
) -> jax.Array:
    """prune_ranges on checked arguments; of senseless lengths any columns in [0, U - S]."""
    *_, T, U = blank_posteriors.shape
    ndim = blank_posteriors.ndim
    S = band_width(width, U)
    places = U - S + 1
    frame, column = positions(T, ndim, -2), positions(U, ndim, -1)
    inside = frame < frames_lengths[..., None, None]
    inside &= column <= labels_lengths[..., None, None]
    blank, label = (
        jnp.where(inside, lax.stop_gradient(x), 0) for x in (blank_posteriors, label_posteriors)
    )
    gain = functools.reduce(jnp.add, [blank[..., i : i + places] for i in range(S)])
    gain -= jnp.pad(label[..., : places - 1], [(0, 0)] * (ndim - 1) + [(1, 0)])
    first = jnp.argmax(gain, -1).astype(jnp.int32)
    frame = frame[..., 0]
    last = jnp.clip(labels_lengths - S + 1, 0, U - S)[..., None]
    first = jnp.where(frame >= frames_lengths[..., None] - 1, last, first)
    axis = first.ndim - 1
    first = lax.cummin(first, axis=axis, reverse=True)
    step = S - 1 if rnnt_type == "regular" else 1
    slack = lax.cummin(step * frame - first, axis=axis, reverse=True)
    return step * frame - jnp.maximum(slack, 0)
