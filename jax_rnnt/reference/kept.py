"""What a lattice's forward in jax.numpy keeps for its backward: the arcs' posteriors."""

import jax
import jax.numpy as jnp

from jax_rnnt._xla.residuals import from_bits, to_bits


def keep_posteriors(
    costs: jax.Array, blank_posteriors: jax.Array, label_posteriors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both arcs' posteriors (..., 2) as bits, and for each sequence a pair that nothing reads.

    They take the places of the `values` and `totals` that a kernel keeps.
    """
    (posteriors,) = to_bits(jnp.stack((blank_posteriors, label_posteriors), -1))
    return posteriors, jnp.zeros((*costs.shape, 2), posteriors.dtype)


def arc_cotangents(
    kept_posteriors: jax.Array, cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """-posterior x cotangent; zero where either is zero, even if the other is inf or NaN."""
    (posteriors,) = from_bits(kept_posteriors)
    cotangents = cotangents[..., None]
    used = (posteriors != 0) & (cotangents != 0)
    products = jnp.where(used, -posteriors * jnp.where(used, cotangents, 0), 0)
    return products[..., 0], products[..., 1]
