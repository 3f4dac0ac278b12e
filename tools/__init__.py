"""Tools for whoever works on jax_rnnt."""
