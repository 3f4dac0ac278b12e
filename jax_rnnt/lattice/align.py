"""The best path through the RNN-T lattice: in which frame each label is written."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.program import one_program
from jax_rnnt.lattice import align_kernels
from jax_rnnt.lattice import compact as compact_form
from jax_rnnt.lattice.arguments import check_two_arcs
from jax_rnnt.reference.compact import take


class Alignment(NamedTuple):
    """The best path of each sequence; see :func:`lattice_align`."""

    log_probs: jax.Array
    """(...) nats, float32 or float64, the sum of the log-probabilities of all arcs of the path.
    -inf where there is no path; NaN where lengths or labels make no sense, or where NaN or +inf
    stands within the lengths."""
    label_frames: jax.Array
    """(..., U - 1) int32, the frame in which each label is written, never before that of the label
    before it. -1 behind a sequence's labels, and for all of them where log_probs is -inf or NaN."""
    label_log_probs: jax.Array
    """(..., U - 1) nats, the log-probability of each label where the path writes it. 0 where
    label_frames is -1."""


# So that exported programs may return it.
jax.export.register_namedtuple_serialization(Alignment, serialized_name="jax_rnnt.Alignment")


def lattice_align(
    blank_log_probs: ArrayLike,
    label_log_probs: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    compact: bool = False,
    max_labels: int | None = None,
    implementation: str | None = None,
) -> Alignment:
    r"""The best path through the RNN-T lattice: the frame of each label, and its log-probability.

    .. math::
        \log P(0, 0) &= 0, \\
        \log P(t, u) &= \max(\log P(t-1, u) + blank(t-1, u), \log P(t, u-1) + label(t, u-1)), \\
        log\_prob &= \log P(T_n-1, U_n) + blank(T_n-1, U_n)

    The maximum where `lattice_cost` has the sum: log_probs is at most -lattice_cost. Its gradient
    is 1 at the arcs of the path, and 0 elsewhere.

    Of paths of equal log-probability it is the one whose labels come earliest, the last label's
    frame compared first: going back from the end, the blank's arc is taken where both are equal.
    Log-probabilities are rounded to multiples of 2^-30 nats, whose sums are exact up to 8e6: paths
    are equal if the sums of their arcs are, in whatever order, and every implementation finds the
    same path.

    Memory: one bit a cell beside the arcs.

    Args:
        blank_log_probs: (..., T, U) nats, the arcs (t, u) -> (t + 1, u). Compact: (S,), the cells
            of one sequence after the other, T_n (U_n + 1) each, frame by frame.
        label_log_probs: the same shape, the arcs (t, u) -> (t, u + 1); those at u = U_n are unused.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        compact: whether the cells are packed; lengths may be traced all the same.
        max_labels: compact only, an upper bound of the labels' lengths, and how many entries a
            sequence has in the results; by default the largest length, which must then be known in
            advance. A longer sequence's log_probs is NaN.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX.

    Returns:
        An `Alignment` (log_probs, label_frames, label_log_probs), of which the first and the last
        are differentiable once; float32 (float64 for float64 arcs). Compact: (N,) and twice
        (N, max_labels). log_probs is -inf where no alignment is possible and NaN where a traced
        length makes no sense or an arc within the lengths is NaN or +inf; the other sequences are
        untouched. What stands beyond the lengths has no effect.

    Raises:
        TypeError: If arcs are not floats or lengths not integers.
        ValueError: If shapes do not fit, or a concrete length makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> blank = jnp.log(jnp.array([[0.9, 0.5], [0.1, 0.5], [0.9, 0.9]]))  # three frames
        >>> label = jnp.log(jnp.array([[0.1, 0.5], [0.9, 0.5], [0.1, 0.1]]))  # one label
        >>> path = jax_rnnt.lattice_align(blank, label, 3, 1)
        >>> print(path.label_frames, jnp.exp(path.label_log_probs))
        [1] [0.9]

    See Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711.
    """
    arrays, bound = check_two_arcs(
        blank_log_probs,
        label_log_probs,
        frames_lengths,
        labels_lengths,
        compact=compact,
        max_labels=max_labels,
        implementation=implementation,
    )
    if compact and max_labels is None:
        bound = largest_length(arrays[-1])
    return _cells(*arrays, max_labels=bound, implementation=implementation)


def largest_length(labels_lengths: _checks.Integers) -> int:
    """The largest of concrete lengths, 0 of none; ValueError if they are traced."""
    lengths = _checks.concrete(labels_lengths)
    if lengths is None:
        raise ValueError(
            "max_labels must be given in the compact form where labels_lengths are traced: it is "
            "the size of the results."
        )
    return int(lengths.max(initial=0))


@functools.partial(one_program, static_argnames=("max_labels", "implementation"))
def _cells(
    blank_log_probs, label_log_probs, frames_lengths, labels_lengths, *, max_labels, implementation
):
    dtype = accumulator_dtype(blank_log_probs.dtype, label_log_probs.dtype)
    arcs = blank_log_probs.astype(dtype), label_log_probs.astype(dtype)
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    if max_labels is None:
        return padded_alignment(*arcs, *lengths, implementation)
    offsets = compact_form.offsets(*lengths, blank_log_probs.shape[0])
    return compact_alignment(*arcs, *lengths, offsets, max_labels, implementation)


def padded_alignment(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    implementation: str | None,
) -> Alignment:
    """lattice_align on checked arguments (..., T, U); a length outside its range gives NaN."""
    log_probs, label_frames = align_kernels.padded_path(
        blank_log_probs, label_log_probs, frames_lengths, labels_lengths, implementation
    )
    return with_label_log_probs(log_probs, label_frames[..., :-1], label_log_probs)


def with_label_log_probs(
    log_probs: jax.Array, label_frames: jax.Array, label_log_probs: jax.Array
) -> Alignment:
    """The alignment, with what stands at the labels' frames in an array (..., T, U)."""
    place = jnp.maximum(label_frames, 0)[..., None, :]
    written = jnp.take_along_axis(label_log_probs[..., :-1], place, -2, mode="clip")[..., 0, :]
    return Alignment(log_probs, label_frames, jnp.where(label_frames >= 0, written, 0))


def compact_alignment(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    max_labels: int,
    implementation: str | None,
) -> Alignment:
    """lattice_align on checked arguments (S,); a length that makes no sense gives NaN.

    offsets: (N,) int32, the row at which each sequence begins.
    """
    log_probs, label_frames = align_kernels.compact_path(
        blank_log_probs,
        label_log_probs,
        frames_lengths,
        labels_lengths,
        offsets,
        max_labels,
        implementation,
    )
    label_frames = label_frames[..., :-1]
    column = jnp.arange(max_labels, dtype=jnp.int32)[None]
    is_written = label_frames >= 0
    place = offsets[:, None] + label_frames * (labels_lengths[:, None] + 1) + column
    written = take(label_log_probs, jnp.where(is_written, place, 0), 0)
    return Alignment(log_probs, label_frames, jnp.where(is_written, written, 0))
