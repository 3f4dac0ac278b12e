"""What the lattice of any arcs says of its paths: the best of them, and all arcs' posteriors."""

import functools
from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.program import one_program
from jax_rnnt.lattice import arcs as arcs_lattice
from jax_rnnt.lattice.align import Alignment
from jax_rnnt.lattice.posteriors import with_posteriors
from jax_rnnt.lattice.topology import Arc
from jax_rnnt.reference import arcs_align as reference


def arcs_align(
    arcs: Mapping[Arc, ArrayLike],
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    last: Collection[Arc] | None = None,
    initial: ArrayLike | None = None,
    final: ArrayLike | None = None,
) -> Alignment:
    r"""The best path through a lattice of any arcs: the frame of each label, and its log-weight.

    .. math::
        \log\alpha(t, u) &= \max\bigl([u = 0]\, initial(t), \max_{(dt, du)}
            \log\alpha(t-dt, u-du) + arcs_{dt, du}(t-dt, u-du)\bigr), \\
        log\_prob &= \max_t \log\alpha(t, U_n) + final(t)

    The maximum where `arcs_cost` has the sum, in plain JAX: a byte for each node, and steps for
    each of T + U anti-diagonals. RNN-T's own two arcs have kernels in `lattice_align`.

    Where two arcs lead to a node with equal sums, the path takes the one of fewer labels, of these
    the one of fewer frames, and begins at a node only if nothing else is as good; of equal ends it
    takes the latest. Weights are rounded as in `lattice_align`, so that sums in any order are equal
    if they are.

    Args:
        arcs: for each (dt, du) an array (..., T, U) in nats, as in `arcs_cost`.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        last: the keys of the arcs that may be an alignment's last, by default all of them.
        initial: (..., T + 1) nats, the weights of beginning at (t, 0), by default at t = 0 alone.
        final: (..., T + 1) nats, the weights of ending at (t, U_n), by default at t = T_n alone.

    Returns:
        An `Alignment`: log_probs (...) with initial and final in it, label_frames (..., U - 1), the
        frame t in which the arc that writes the label begins, and label_log_probs (..., U - 1),
        that arc's weight; several labels of one arc have the same. log_probs and label_log_probs
        are differentiable.

    Raises:
        TypeError: If arcs are no dict of floats, keys no pairs of integers, or lengths no integers.
        ValueError: If shapes do not fit, a key is not an arc's, or a concrete length makes no
            sense.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> blank = jnp.log(jnp.array([[0.9, 0.5], [0.1, 0.5], [0.9, 0.9]]))
        >>> label = jnp.log(jnp.array([[0.1, 0.5], [0.9, 0.5], [0.1, 0.1]]))
        >>> path = jax_rnnt.arcs_align({(1, 0): blank, (1, 1): label}, 3, 1)
        >>> print(path.label_frames, jnp.exp(path.log_probs))
        [1] 0.729

    See `arcs_cost` for the losses and the papers of these lattices.
    """
    checked = arcs_lattice.check(
        arcs, frames_lengths, labels_lengths, last=last, initial=initial, final=final
    )
    return _align(*checked.arrays, last=checked.last)


def arcs_posteriors(
    arcs: Mapping[Arc, ArrayLike],
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    last: Collection[Arc] | None = None,
    initial: ArrayLike | None = None,
    final: ArrayLike | None = None,
    compact: bool = False,
    max_labels: int | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, dict[Arc, jax.Array]]:
    r"""The costs of a lattice of any arcs, and the probability that an alignment takes each arc.

    .. math:: posteriors_{dt, du}(t, u) = P(\text{the alignment takes the arc} \mid \text{labels})
        = -\frac{\partial\, cost}{\partial\, arcs_{dt, du}(t, u)}

    The gradient of `arcs_cost` by one call: what the frames of a label could have been, where
    `arcs_align` says what is the best. A loss that trains on these costs as well takes
    `arcs_cost_and_posteriors`. Over all arcs that write a label posteriors sum to one; over
    all that pass a frame too, unless `initial` or `final` lets alignments begin or end elsewhere.

    Args:
        arcs: for each (dt, du) an array (..., T, U) in nats, as in `arcs_cost`. RNN-T's are
            {(1, 0): blank, (0, 1): label}. Compact: (S,).
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        last: as in `arcs_cost`.
        initial: as in `arcs_cost`.
        final: as in `arcs_cost`.
        compact: whether the cells are packed.
        max_labels: compact only, an upper bound of the labels' lengths.
        implementation: as in `arcs_cost`.

    Returns:
        Costs (...) in nats and, for each key of arcs, posteriors (..., T, U), compact (S,), in
        [0, 1], float32 (float64 if any weights are). Zeros beyond the lengths, and in sequences
        whose cost is +inf or NaN.

    Raises:
        TypeError: If arcs are no dict of floats, keys no pairs of integers, or lengths no integers.
        ValueError: If shapes do not fit, a key is not an arc's, or a concrete length makes no
            sense.
        NotImplementedError: If implementation is "native" and there is no kernel for these arcs.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> arc = jnp.log(jnp.full((3, 2), 0.5))
        >>> costs, posteriors = jax_rnnt.arcs_posteriors({(1, 0): arc, (1, 1): arc}, 3, 1)
        >>> print(posteriors[1, 1][:, 0])  # the label is as likely in each of three frames
        [0.33333334 0.33333334 0.33333334]
    """
    checked = arcs_lattice.check(
        arcs,
        frames_lengths,
        labels_lengths,
        last=last,
        initial=initial,
        final=final,
        compact=compact,
        max_labels=max_labels,
        implementation=implementation,
    )
    return _posteriors(
        *checked.arrays,
        last=checked.last,
        max_labels=checked.max_labels,
        implementation=implementation,
    )


@functools.partial(one_program, static_argnames=("last", "max_labels", "implementation"))
def _posteriors(arcs, frames_lengths, labels_lengths, ends, *, last, max_labels, implementation):
    arcs, ends = _accumulated(arcs, ends)

    def solve(arcs):
        lengths = frames_lengths, labels_lengths
        options = dict(last=last, max_labels=max_labels, implementation=implementation)
        return arcs_lattice.cells(arcs, *lengths, ends, **options)

    return with_posteriors(solve, arcs)


@functools.partial(one_program, static_argnames=("last",))
def _align(arcs, frames_lengths, labels_lengths, ends, *, last):
    arcs, ends = _accumulated(arcs, ends)
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    return padded_arcs_alignment(arcs, *lengths, last=last, **ends)


def padded_arcs_alignment(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    *,
    last: Collection[Arc] | None,
    initial: jax.Array | None = None,
    final: jax.Array | None = None,
) -> Alignment:
    """arcs_align on checked arguments; a length outside its range gives NaN."""
    path = reference.arcs_align(
        arcs, frames_lengths, labels_lengths, last=last, initial=initial, final=final
    )
    weights = [arcs[key] for key in sorted(arcs, key=lambda arc: arc[::-1])]
    *_, T, U = weights[0].shape
    is_written = path.label_frames >= 0
    place = jnp.where(is_written, path.label_frames * U + path.label_columns, 0)
    log_probs = jnp.zeros_like(place, weights[0].dtype)
    for k, own in enumerate(weights):
        flat = own.reshape(*own.shape[:-2], T * U)
        taken = jnp.take_along_axis(flat, place, -1, mode="clip")
        log_probs = jnp.where(is_written & (path.label_arcs == k), taken, log_probs)
    return Alignment(path.log_probs, path.label_frames, log_probs)


def _accumulated(arcs, ends):
    dtype = accumulator_dtype(*(x.dtype for x in (*arcs.values(), *ends.values())))
    return jax.tree.map(lambda x: x.astype(dtype), (arcs, ends))
