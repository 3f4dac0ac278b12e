"""Examples of jax_rnnt.

`examples.digits`, `examples.speech`, `examples.data_parallel`, `examples.multi_process`.
"""
