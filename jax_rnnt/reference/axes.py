"""Axes: positions along one with the rank of the arrays beside them, and anti-diagonals."""

import jax
import jax.numpy as jnp


def positions(size: int, ndim: int, axis: int) -> jax.Array:
    """0, 1, ..., size - 1 in int32 along `axis` (negative) of `ndim` axes, the others of size 1."""
    others = [i for i in range(ndim) if i != ndim + axis]
    return jnp.expand_dims(jnp.arange(size, dtype=jnp.int32), others)


def skew(x: jax.Array) -> jax.Array:
    """(..., T, U) to (T + U - 1, ..., U): entry [s, ..., u] is x[..., s - u, u], -inf outside."""
    *batch, T, U = x.shape
    x = jnp.swapaxes(x, -1, -2)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, U)], constant_values=-jnp.inf)
    x = x.reshape(*batch, U * (T + U))[..., : U * (T + U - 1)]
    return jnp.moveaxis(x.reshape(*batch, U, T + U - 1), -1, 0)


def unskew(x: jax.Array) -> jax.Array:
    """The inverse of skew: (T + U - 1, ..., U) to (..., T, U)."""
    S, *batch, U = x.shape
    x = jnp.moveaxis(x, 0, -1).reshape(*batch, U * S)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, U)])
    x = x.reshape(*batch, U, S + 1)[..., : S - U + 1]
    return jnp.swapaxes(x, -1, -2)
