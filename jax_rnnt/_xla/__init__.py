"""What binds the kernels to JAX and XLA; knows nothing of what they compute."""
