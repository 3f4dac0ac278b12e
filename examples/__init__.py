"""Examples of jax_rnnt: `python -m examples.digits` and `python -m examples.data_parallel`."""
