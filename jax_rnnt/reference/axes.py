"""Positions along an axis with the rank of the arrays beside them, so that none is promoted."""

import jax
import jax.numpy as jnp


def positions(size: int, ndim: int, axis: int) -> jax.Array:
    """0, 1, ..., size - 1 in int32 along `axis` (negative) of `ndim` axes, the others of size 1."""
    others = [i for i in range(ndim) if i != ndim + axis]
    return jnp.expand_dims(jnp.arange(size, dtype=jnp.int32), others)
