"""The dtypes of costs, arcs, and the numbers that a forward keeps for its backward."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def accumulator_dtype(*dtypes: DTypeLike) -> np.dtype:
    """The dtype of costs and arcs: float64 if any of the inputs' dtypes is, else float32."""
    wide = any(jnp.dtype(dtype) == np.float64 for dtype in dtypes)
    return np.dtype(np.float64 if wide else np.float32)


def bits_dtype(dtype):
    """The unsigned integer dtype that is as wide as a float dtype."""
    return jnp.dtype(f"uint{8 * jnp.dtype(dtype).itemsize}")


def floats_dtype(dtype):
    """float32 or float64, whichever is as wide as an integer dtype."""
    return jnp.dtype(f"float{8 * jnp.dtype(dtype).itemsize}")
