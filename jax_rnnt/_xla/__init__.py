"""What binds the kernels to JAX and XLA; knows nothing of what they compute."""

from jax_rnnt._xla import oldest_jax as oldest_jax  # before anything that an older JAX lacks
