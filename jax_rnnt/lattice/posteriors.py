"""Costs of a lattice and all arcs' posteriors from one pair of sweeps.

The derivative of a cost is minus its arcs' posteriors. A loss that needs both anyway has it for one
product.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.program import one_program
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.lattice import arcs as arcs_lattice
from jax_rnnt.lattice import cost
from jax_rnnt.lattice.arguments import check_two_arcs
from jax_rnnt.lattice.topology import Arc
from jax_rnnt.reference.kept import weighted

# RNN-T's own two arcs, whose lattice has kernels of its own: blank, then label.
STANDARD: tuple[Arc, Arc] = (1, 0), (0, 1)


class CostAndPosteriors(NamedTuple):
    """What :func:`lattice_cost_and_posteriors` says of each sequence."""

    costs: jax.Array
    """(...) nats, as `lattice_cost` gives them."""
    blank_posteriors: jax.Array
    """(..., T, U), the probability that an alignment takes the blank's arc."""
    label_posteriors: jax.Array
    """(..., T, U), that it takes the label's."""


def lattice_cost_and_posteriors(
    blank_log_probs: ArrayLike,
    label_log_probs: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    implementation: str | None = None,
) -> CostAndPosteriors:
    r"""`lattice_cost` and the posterior probabilities of its arcs, from one pair of sweeps.

    .. math:: posterior_{arc}(t, u) = P(\text{the alignment takes the arc} \mid \text{labels})
        = -\frac{\partial\, cost}{\partial\, arc(t, u)}

    For a loss that does something with the posteriors beside training on the cost: pruning,
    timestamps, distillation. The derivative of the costs is one product with the posteriors, which
    are constants to derivatives themselves.

    Args:
        blank_log_probs: (..., T, U) nats, the arcs (t, u) -> (t + 1, u).
        label_log_probs: the same shape, the arcs (t, u) -> (t, u + 1); those at u = U_n are unused.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        implementation: None for the native kernel where there is one, "native" to insist on it,
            "reference" for plain JAX (costs are differentiable twice).

    Returns:
        :class:`CostAndPosteriors` in float32 (float64 for float64 arcs). Posteriors are in [0, 1],
        and zero beyond the lengths. Costs of +inf and NaN are those of `lattice_cost`; their
        posteriors and gradients are zero, whatever their cotangents are.

    Raises:
        TypeError: If arcs are not floats or lengths not integers.
        ValueError: If shapes do not fit, or a concrete length makes no sense.
        NotImplementedError: If implementation="native" and the platform has no kernels.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> arcs = jnp.log(jnp.full((2, 2), 0.5))  # two frames, one label: two alignments
        >>> cost, blank, label = jax_rnnt.lattice_cost_and_posteriors(arcs, arcs, 2, 1)
        >>> print(jnp.exp(-cost), label[:, 0])
        0.25 [0.5 0.5]

    See Graves (2012), "Sequence Transduction with Recurrent Neural Networks", arXiv:1211.3711.
    """
    (blank, label, *lengths), _ = check_two_arcs(
        blank_log_probs,
        label_log_probs,
        frames_lengths,
        labels_lengths,
        compact=False,
        max_labels=None,
        implementation=implementation,
    )
    arcs = dict(zip(STANDARD, (blank, label)))
    costs, posteriors = _padded(arcs, *lengths, last=None, implementation=implementation)
    return CostAndPosteriors(costs, *(posteriors[arc] for arc in STANDARD))


def arcs_cost_and_posteriors(
    arcs: Mapping[Arc, ArrayLike],
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    last: Collection[Arc] | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, dict[Arc, jax.Array]]:
    r"""`arcs_cost` and the posterior probabilities of all arcs, from one pair of sweeps.

    .. math:: posteriors_{dt, du}(t, u) = P(\text{the alignment takes the arc} \mid \text{labels})
        = -\frac{\partial\, cost}{\partial\, arcs_{dt, du}(t, u)}

    `lattice_cost_and_posteriors` of any arcs. `arcs_posteriors` gives the same numbers of more
    kinds of lattices (compact ones, and such with weights of beginnings and ends), and no
    derivative of the costs with kernels.

    Args:
        arcs: for each (dt, du) an array (..., T, U) in nats, as in `arcs_cost`.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        last: the keys of the arcs that may be an alignment's last, by default all of them.
        implementation: as in `arcs_cost`.

    Returns:
        Costs (...) in nats and, for each key of arcs, posteriors (..., T, U) in [0, 1], float32
        (float64 if any weights are). Costs are differentiable, posteriors are constants to
        derivatives. Where a cost is +inf or NaN, posteriors and gradients are zero.

    Raises:
        TypeError: If arcs are no dict of floats, keys no pairs of integers, or lengths no integers.
        ValueError: If shapes do not fit, a key is not an arc's, or a concrete length makes no
            sense.
        NotImplementedError: If implementation is "native" and there is no kernel for these arcs.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> half = jnp.log(jnp.full((3, 2), 0.5))  # three frames, one label, one symbol a frame
        >>> arcs = {(1, 0): half, (1, 1): half}
        >>> costs, posteriors = jax_rnnt.arcs_cost_and_posteriors(arcs, 3, 1)
        >>> print(jnp.exp(-costs), posteriors[1, 1][:, 0])
        0.375 [0.33333334 0.33333334 0.33333334]

    See `arcs_cost` for the losses and the papers of these lattices.
    """
    checked = arcs_lattice.check(
        arcs,
        frames_lengths,
        labels_lengths,
        last=last,
        initial=None,
        final=None,
        implementation=implementation,
    )
    own, *lengths, _ = checked.arrays
    return _padded(own, *lengths, last=checked.last, implementation=implementation)


@functools.partial(one_program, static_argnames=("last", "implementation"))
def _padded(arcs, frames_lengths, labels_lengths, *, last, implementation):
    dtype = accumulator_dtype(*(x.dtype for x in arcs.values()))
    arcs = {arc: x.astype(dtype) for arc, x in arcs.items()}
    lengths = jnp.asarray(frames_lengths), jnp.asarray(labels_lengths)
    return padded_cost_and_posteriors(arcs, *lengths, last=last, implementation=implementation)


def padded_cost_and_posteriors(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    *,
    last: Collection[Arc] | None,
    implementation: str | None,
) -> tuple[jax.Array, dict[Arc, jax.Array]]:
    """Both on checked arguments (..., T, U); a length outside its range gives NaN and zeros."""
    last = None if last is None else tuple(last)
    if implementation == "reference":
        costs, posteriors = _both(dict(arcs), frames_lengths, labels_lengths, last, implementation)
        return costs, lax.stop_gradient(posteriors)
    leaves, tree = jax.tree.flatten((dict(arcs), frames_lengths, labels_lengths))
    operands = jax.tree.unflatten(tree, vary_alike(*leaves))
    return _own_derivative(*operands, last, implementation)


def padded_cost(
    arcs: Mapping[Arc, jax.Array],
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    last: Collection[Arc] | None,
    implementation: str | None,
) -> jax.Array:
    """Costs of checked arguments (..., T, U) by the kernels of these arcs."""
    if arcs.keys() == set(STANDARD):
        blank, label = (arcs[arc] for arc in STANDARD)
        return cost.padded_cells(blank, label, frames_lengths, labels_lengths, implementation)
    return arcs_lattice.padded_arcs(
        arcs, frames_lengths, labels_lengths, last=last, implementation=implementation
    )


def with_posteriors(solve: Callable, arcs: Any) -> tuple[jax.Array, Any]:
    """solve(arcs), the costs, and minus their gradient, which has the structure of arcs."""
    costs, vjp = jax.vjp(solve, arcs)
    (gradients,) = vjp(jnp.ones_like(costs))
    return costs, jax.tree.map(jnp.negative, gradients)


def _both(arcs, frames_lengths, labels_lengths, last, implementation):
    def solve(arcs):
        return padded_cost(arcs, frames_lengths, labels_lengths, last, implementation)

    return with_posteriors(solve, arcs)


@custom_vjp(3, 4)
def _own_derivative(arcs, frames_lengths, labels_lengths, last, implementation):
    return _both(arcs, frames_lengths, labels_lengths, last, implementation)


def _own_forward(*arguments):
    # Not the function itself, of which a second derivative would be zero in silence.
    costs, posteriors = _both(*arguments)
    return (costs, posteriors), posteriors


def _own_backward(last, implementation, posteriors, cotangents):
    del last, implementation
    scale = cotangents[0][..., None, None]
    return {arc: weighted(x, scale) for arc, x in posteriors.items()}, None, None


_own_derivative.defvjp(_own_forward, _own_backward)
