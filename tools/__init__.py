"""Programs for those who work on jax_rnnt."""
