"""The lattice of any arcs: from the arcs' log-weights to the cost, and their posteriors back.

A loss is a choice of arcs. What RNN-T's own two need is in `cost`, in the same layouts.
"""

import functools
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt import _checks, reference
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.program import one_program
from jax_rnnt.lattice import arcs_kernels
from jax_rnnt.lattice import compact as compact_form
from jax_rnnt.lattice.arguments import check_layout
from jax_rnnt.lattice.topology import Arc, check_arcs, check_last, runs_kernels, topology


def arcs_cost(
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
) -> jax.Array:
    r"""-log of the sum of the weights of all paths through a lattice of any arcs.

    .. math::
        \alpha(t, u) &= [u = 0]\, e^{initial(t)}
            + \sum_{(dt, du)} \alpha(t-dt, u-du)\, e^{arcs_{dt, du}(t-dt, u-du)}, \\
        cost &= -\log \sum_t \alpha(t, U_n)\, e^{final(t)}

    An arc (dt, du) consumes dt frames and writes du labels. It leaves every node (t, u) before
    the end, t < T_n, if it does not lead beyond (T_n, U_n); to T_n only if it is in `last` and
    reaches U_n there, as nothing leads on from T_n.
    Minus the gradient is the posterior probability that the alignment takes each arc, begins at
    each `initial` and ends at each `final`. Unless these two are given, an alignment begins
    at (0, 0) and ends at (T_n, U_n): over all arcs that pass a frame posteriors sum to one, and so
    do those over all arcs that write a label. Weights need not be probabilities: a cost may be
    negative.

    ======================  ================================================  ================
    loss                    arcs                                              last
    ======================  ================================================  ================
    RNN-T                   (1, 0): blank, (0, 1): label                      (1, 0)
    one symbol a frame      (1, 0): blank, (1, 1): label                      both
    multi-blank             (1, 0): blank, (d, 0): big blanks, (0, 1): label  all (d, 0)
    token-and-duration      (d, 0): blank, for d > 0, (d, 1): label           all (d, 0)
    ======================  ================================================  ================

    Args:
        arcs: for each (dt, du), which are not both 0, an array (..., T, U) in nats: the weights of
            the arcs (t, u) -> (t + dt, u + du). Two arcs of one (dt, du) are one, of their
            `jnp.logaddexp`. Compact: (S,), the cells of one sequence after the other,
            T_n (U_n + 1) each, frame by frame.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        last: the keys of the arcs that may be an alignment's last, by default all of them. No other
            arc reaches T_n.
        initial: (..., T + 1) nats, the weights of beginning at (t, 0); by default 0 at t = 0 and
            -inf elsewhere. Not compact.
        final: (..., T + 1) nats, the weights of ending at (t, U_n); by default 0 at t = T_n and
            -inf elsewhere. Not compact.
        compact: whether the cells are packed; lengths may be traced all the same.
        max_labels: compact only, an upper bound of the labels' lengths known in advance; a longer
            sequence's cost is NaN.
        implementation: None for the native kernel where there is one (no dt above 8, no du
            above 1) and plain JAX elsewhere, "native" to insist on the kernel, "reference" for
            plain JAX (differentiable twice where not compact).

    Returns:
        (...) nats, float32 (float64 if any weights are). +inf with zero gradients where there is no
        path; NaN with zero gradients where a traced length makes no sense, or where the weight of
        an arc that may be taken within the lengths, or of a beginning or an end there, is NaN or
        +inf; a weight above 2.9e6 may count as that. What stands at any other place has no effect.
        Precision is that of `lattice_cost`.

    Raises:
        TypeError: If arcs are no dict of floats, keys no pairs of integers, or lengths no integers.
        ValueError: If shapes do not fit, a key is not an arc's, or a concrete length makes no
            sense.
        NotImplementedError: If implementation is "native" and there is no kernel for these arcs.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> half = jnp.log(jnp.full((3, 2), 0.5))  # three frames, one label, one symbol a frame
        >>> print(jnp.exp(-jax_rnnt.arcs_cost({(1, 0): half, (1, 1): half}, 3, 1)))
        0.375

    See Tripathi et al. (2019), "Monotonic Recurrent Neural Network Transducer and Decoding
    Strategies"; Xu et al. (2022), "Multi-blank Transducers for Speech Recognition",
    arXiv:2211.03541; Xu et al. (2023), "Efficient Sequence Transduction by Jointly Predicting
    Tokens and Durations", arXiv:2304.06795; Variani et al. (2022), "Global Normalization for
    Streaming Speech Recognition in a Modular Framework", arXiv:2205.13674.
    """
    checked = check(
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
    return cells(
        *checked.arrays,
        last=checked.last,
        max_labels=checked.max_labels,
        implementation=implementation,
    )


class Checked(NamedTuple):
    """Arguments of functions of a lattice of any arcs."""

    # Arcs, frames_lengths, labels_lengths, and of initial and final those that are given.
    arrays: tuple[dict[Arc, jax.Array], _checks.Integers, _checks.Integers, dict[str, jax.Array]]
    last: tuple[Arc, ...] | None
    max_labels: int | None  # None in the padded layout


def check(
    arcs: Mapping[Arc, ArrayLike],
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    last: Collection[Arc] | None,
    initial: ArrayLike | None,
    final: ArrayLike | None,
    compact: bool = False,
    max_labels: int | None = None,
    implementation: str | None = None,
) -> Checked:
    """The arguments of `arcs_cost`; TypeError or ValueError if something is wrong."""
    checked = check_arcs(arcs)
    keys = list(checked)
    last = check_last(last, keys)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    ends = {
        name: _checks.floats(name, value)
        for name, value in (("initial", initial), ("final", final))
        if value is not None
    }
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    compact = _checks.flag("compact", compact)
    if compact and ends:
        raise ValueError(f"{next(iter(ends))} is not for the compact form.")
    shape = checked[keys[0]].shape
    max_labels = check_layout(
        f"arcs[{keys[0]}]",
        shape,
        frames_lengths,
        labels_lengths,
        compact=compact,
        max_labels=max_labels,
    )
    for end, value in ends.items():
        expected = (*shape[:-2], shape[-2] + 1)
        _checks.shape(end, value, expected, "one for each of 0, 1, ..., T")
    # TypePromotionError where promotion is strict.
    functools.reduce(jnp.promote_types, [x.dtype for x in (*checked.values(), *ends.values())])
    return Checked((checked, frames_lengths, labels_lengths, ends), last, max_labels)


@functools.partial(one_program, static_argnames=("last", "max_labels", "implementation"))
def cells(arcs, frames_lengths, labels_lengths, ends, *, last, max_labels, implementation):
    """arcs_cost on checked arguments."""
    dtype = accumulator_dtype(*(x.dtype for x in (*arcs.values(), *ends.values())))
    arcs, ends = jax.tree.map(lambda x: x.astype(dtype), (arcs, ends))
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    if max_labels is None:
        return padded_arcs(arcs, *lengths, last=last, **ends, implementation=implementation)
    rows = next(iter(arcs.values())).shape[0]
    offsets = compact_form.offsets(*lengths, rows)
    return compact_arcs(
        arcs, *lengths, offsets, max_labels, last=last, implementation=implementation
    )


def padded_arcs(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    *,
    last: Collection[Arc] | None,
    initial: jax.Array | None = None,
    final: jax.Array | None = None,
    implementation: str | None,
) -> jax.Array:
    """arcs_cost on checked arguments (..., T, U); a length outside its range gives NaN."""
    own = topology(arcs, last)
    if not runs_kernels(own, implementation):
        return reference.arcs_cost(
            arcs, frames_lengths, labels_lengths, last=last, initial=initial, final=final
        )
    weights = tuple(arcs[key] for key in own.keys)
    none = lax.stop_gradient(weights[0])[..., 0, :0]  # no numbers, sharded as the weights are
    return arcs_kernels.run(
        arcs_kernels.PADDED,
        weights,
        (frames_lengths, labels_lengths),
        (none if initial is None else initial, none if final is None else final),
        insist=implementation == "native",
        **own._asdict(),
    )


def compact_arcs(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    max_labels: int,
    *,
    last: Collection[Arc] | None,
    implementation: str | None,
) -> jax.Array:
    """arcs_cost on checked arguments (S,); a length that makes no sense gives NaN.

    offsets: (N,) int32, the row at which each sequence begins.
    """
    own = topology(arcs, last)
    weights = tuple(arcs[key] for key in own.keys)
    lengths = frames_lengths, labels_lengths, offsets
    attributes = dict(own._asdict(), max_labels=max_labels)
    if not runs_kernels(own, implementation):
        return arcs_kernels.run_plain_compact(weights, lengths, **attributes)
    none = lax.stop_gradient(weights[0])[:0]
    return arcs_kernels.run(
        arcs_kernels.COMPACT,
        weights,
        lengths,
        (none, none),
        insist=implementation == "native",
        **attributes,
    )
