"""What a lattice's forward leaves for its backward in jax.numpy: the arcs' posteriors."""

import jax
import jax.numpy as jnp

from jax_rnnt._xla.residuals import from_bits, to_bits


def keep_posteriors(
    costs: jax.Array, blank_posteriors: jax.Array, label_posteriors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What a forward here leaves for its backward in place of the kernels' values and totals.

    Both arcs' posteriors (..., 2), and a pair for each sequence that nobody reads.
    """
    (posteriors,) = to_bits(jnp.stack((blank_posteriors, label_posteriors), -1))
    return posteriors, jnp.zeros((*costs.shape, 2), posteriors.dtype)


def arc_cotangents(
    kept_posteriors: jax.Array, cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """-posterior x cotangent, zero where either is: inf and NaN cotangents go no further."""
    (posteriors,) = from_bits(kept_posteriors)
    cotangents = cotangents[..., None]
    used = (posteriors != 0) & (cotangents != 0)
    products = jnp.where(used, -posteriors * jnp.where(used, cotangents, 0), 0)
    return products[..., 0], products[..., 1]
