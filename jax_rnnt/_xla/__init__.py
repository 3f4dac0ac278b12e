"""Binds the kernels to JAX and XLA, and knows nothing of what the kernels compute."""

from jax_rnnt._xla import oldest_jax as oldest_jax  # before anything that an older JAX lacks
