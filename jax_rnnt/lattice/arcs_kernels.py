"""The kernels of lattices of any arcs, in both layouts.

Their first operands are the arcs, in the order of a `Topology`, which are their attributes too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_rnnt import reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt._xla.residuals import from_bits, to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference import compact_arcs as compact_reference
from jax_rnnt.reference.compact import row_cotangents
from jax_rnnt.reference.kept import weighted


class Kernels(NamedTuple):
    cost: Kernel
    forward: Kernel
    backward: Kernel


# E and F are initial and final, of T + 1 log-weights, or of none: an alignment begins at (0, 0) and
# ends at (T_n, U_n). A forward keeps two results for its backward: alphas and betas, a pair
# (mantissa, exponent) each for each cell, and totals, a pair for each sequence; how they are laid
# out is the platform's own.
PADDED = Kernels(
    Kernel(
        "arcs_cost",
        operands=("TU*", "", "", "E", "F"),
        results=("",),
        result_dtype="accumulator",
        fallback=lambda *operands, **topology: reference.arcs_forward(*operands, **topology)[:1],
        scratch={"cuda": ("TU2", "2", "2")},
    ),
    Kernel(
        "arcs_forward",
        operands=("TU*", "", "", "E", "F"),
        results=("", "TU4", "2"),
        result_dtype="accumulator",
        kept=(1, 2),
        fallback=reference.arcs_forward,
        scratch={"cuda": ("2",)},
    ),
    Kernel(
        "arcs_backward",
        operands=("TU*", "", "", "E", "F", "TU4", "2", ""),
        results=("E", "F", "TU*"),
        result_dtype="accumulator",
        bits=(0, 3, 4),
        fallback=reference.arcs_backward,
    ),
)
# E and F are always of none.
COMPACT = Kernels(
    Kernel(
        "arcs_cost_compact",
        operands=("S*", "N", "N", "N", "E", "F"),
        results=("N",),
        result_dtype="accumulator",
        fallback=compact_reference.arcs_cost,
        scratch={"cuda": ("S2", "N2", "N2")},
    ),
    Kernel(
        "arcs_forward_compact",
        operands=("S*", "N", "N", "N", "E", "F"),
        results=("N", "S4", "N2"),
        result_dtype="accumulator",
        kept=(1, 2),
        fallback=compact_reference.arcs_forward,
        scratch={"cuda": ("N2",)},
    ),
    Kernel(
        "arcs_backward_compact",
        operands=("S*", "N", "N", "N", "E", "F", "S4", "N2", "N"),
        results=("E", "F", "S*"),
        result_dtype="accumulator",
        bits=(0, 4, 5),
        fallback=compact_reference.arcs_backward,
    ),
)


def run(
    kernels: Kernels,
    arcs: tuple[jax.Array, ...],
    lengths: tuple[jax.Array, ...],
    ends: tuple[jax.Array, jax.Array],
    *,
    insist: bool,
    **attributes: Any,
) -> jax.Array:
    """Costs, differentiable once with respect to arcs and ends.

    Args:
        lengths: frames_lengths, labels_lengths; compact, offsets too.
        ends: initial and final, each with no entries for its default.
        attributes: the topology's; compact, max_labels too.
    """
    leaves, tree = jax.tree.flatten((arcs, lengths, ends))
    operands = jax.tree.unflatten(tree, vary_alike(*leaves))
    return _costs(*operands, kernels, insist, tuple(attributes.items()))


@custom_vjp(3, 4, 5)
def _costs(arcs, lengths, ends, kernels, insist, attributes):
    return kernels.cost(*arcs, *lengths, *ends, insist=insist, **dict(attributes))[0]


def _costs_forward(arcs, lengths, ends, kernels, insist, attributes):
    operands = *arcs, *lengths, *ends
    costs, *kept = kernels.forward(*operands, insist=insist, **dict(attributes))
    return costs, (to_bits(*arcs), lengths, to_bits(*ends), kept)


def _costs_backward(kernels, insist, attributes, residuals, cotangents):
    arcs, lengths, ends, kept = residuals
    operands = *arcs, *lengths, *ends, *kept, cotangents
    initial, final, *arcs = kernels.backward(*operands, insist=insist, **dict(attributes))
    return tuple(arcs), (None,) * len(lengths), (initial, final)


_costs.defvjp(_costs_forward, _costs_backward)


def run_plain_compact(
    arcs: tuple[jax.Array, ...], lengths: tuple[jax.Array, ...], **attributes: Any
) -> jax.Array:
    """`run` of the compact layout in plain JAX, whose loops reverse-mode autodiff does not pass."""
    leaves, tree = jax.tree.flatten((arcs, lengths))
    operands = jax.tree.unflatten(tree, vary_alike(*leaves))
    return _plain_costs(*operands, tuple(attributes.items()))


@custom_vjp(2)
def _plain_costs(arcs, lengths, attributes):
    return compact_reference.arcs_cost(*_plain_operands(arcs, lengths), **dict(attributes))[0]


def _plain_forward(arcs, lengths, attributes):
    """Keeps the posteriors alone: with debugging options they must be the last of the program."""
    operands = _plain_operands(arcs, lengths)
    costs, *kept = compact_reference.arcs_forward(*operands, **dict(attributes))
    posteriors = compact_reference.posteriors(*operands, *kept, **dict(attributes))
    return costs, (to_bits(*posteriors), lengths)


def _plain_backward(attributes, residuals, cotangents):
    del attributes
    bits, lengths = residuals
    posteriors = from_bits(*bits)
    frames_lengths, labels_lengths, offsets = lengths
    cotangents = row_cotangents(
        frames_lengths, labels_lengths, offsets, cotangents, posteriors[0].shape[-1]
    )
    return tuple(weighted(x, cotangents) for x in posteriors), (None,) * len(lengths)


_plain_costs.defvjp(_plain_forward, _plain_backward)


def _plain_operands(arcs, lengths):
    none = jnp.zeros((*arcs[0].shape[:-1], 0), arcs[0].dtype)
    return *arcs, *lengths, none, none
