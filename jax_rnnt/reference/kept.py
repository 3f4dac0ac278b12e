"""What a lattice's forward in jax.numpy keeps for its backward: the arcs' posteriors."""

import jax
import jax.numpy as jnp

from jax_rnnt._xla.residuals import from_bits, to_bits


def keep_posteriors(
    costs: jax.Array, blank_posteriors: jax.Array, label_posteriors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both arcs' posteriors as bits, the first two of (..., 4), and totals that nothing reads.

    They take the places of the alphas and betas, and of the totals, that a kernel keeps.
    """
    nothing = jnp.zeros_like(blank_posteriors)
    own = jnp.stack((blank_posteriors, label_posteriors, nothing, nothing), -1)
    (posteriors,) = to_bits(own)
    return posteriors, jnp.zeros((*costs.shape, 2), posteriors.dtype)


def arc_cotangents(
    kept_posteriors: jax.Array, cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The blank and the label arcs' cotangents from what keep_posteriors returned."""
    (posteriors,) = from_bits(kept_posteriors)
    blank_posteriors, label_posteriors = posteriors[..., 0], posteriors[..., 1]
    return weighted(blank_posteriors, cotangents), weighted(label_posteriors, cotangents)


def weighted(posteriors: jax.Array, cotangents: jax.Array) -> jax.Array:
    """-posterior x cotangent; zero where either is zero, even if the other is inf or NaN."""
    used = (posteriors != 0) & (cotangents != 0)
    return jnp.where(used, -posteriors * jnp.where(used, cotangents, 0), 0)
