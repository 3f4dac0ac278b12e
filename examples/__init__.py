"""Examples of jax_rnnt: `examples.digits`, `examples.data_parallel`, `examples.multi_process`."""
