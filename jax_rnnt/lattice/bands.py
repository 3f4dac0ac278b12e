"""Arcs of a band of columns as those of the whole lattice, and their cotangents back.

A band is `columns` (..., T): frame t holds the columns columns[t] + [0, S). Nothing leaves a cell
outside of it. Both directions are gathers, each entry having one source at most: no two are added,
so results do not depend on an order.
"""

import jax
import jax.numpy as jnp

from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions


def band_to_lattice(
    arcs: jax.Array, columns: jax.Array, U: int, implementation: str | None
) -> jax.Array:
    """Arcs (..., T, S) as (..., T, U), -inf outside the band.

    Args:
        arcs: log-weights; those at columns beyond U are left out.
        columns: (..., T) int32, any.
        U: how many columns the lattice has.
        implementation: "reference" for what is differentiable twice.
    """
    if implementation == "reference":
        return _spread(arcs, columns, U)
    return _band_to_lattice(*vary_alike(arcs, columns), U)


def _spread(arcs, columns, U):
    S = arcs.shape[-1]
    place = positions(U, arcs.ndim, -1) - columns[..., None]
    found = jnp.take_along_axis(arcs, jnp.clip(place, 0, S - 1), -1, mode="promise_in_bounds")
    return jnp.where((place >= 0) & (place < S), found, -jnp.inf)


@custom_vjp(2)
def _band_to_lattice(arcs, columns, U):
    return _spread(arcs, columns, U)


def _forward(arcs, columns, U):
    # An array of no numbers that says how wide the band is.
    width = jnp.zeros((arcs.shape[-1], 0), arcs.dtype)
    return _spread(arcs, columns, U), (columns, width)


def _backward(U, residuals, cotangents):
    columns, width = residuals
    column = columns[..., None] + positions(width.shape[0], columns.ndim + 1, -1)
    inside = (column >= 0) & (column < U)
    column = jnp.clip(column, 0, U - 1)
    found = jnp.take_along_axis(cotangents, column, -1, mode="promise_in_bounds")
    return jnp.where(inside, found, 0), None


_band_to_lattice.defvjp(_forward, _backward)
