"""Counting along an axis, beside arrays of as many axes: no operation here promotes a rank."""

import jax
import jax.numpy as jnp


def positions(size: int, ndim: int, axis: int) -> jax.Array:
    """0, 1, ..., size - 1 in int32 along `axis` (negative) of `ndim` axes, the others of size 1."""
    others = [i for i in range(ndim) if i != ndim + axis]
    return jnp.expand_dims(jnp.arange(size, dtype=jnp.int32), others)
