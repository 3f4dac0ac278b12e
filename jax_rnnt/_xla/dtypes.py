"""The dtypes of costs, arcs and what lies between."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def accumulator_dtype(*dtypes: DTypeLike) -> np.dtype:
    """What costs and arcs of inputs are computed in: float64 if any is float64, else float32."""
    wide = any(jnp.dtype(dtype) == np.float64 for dtype in dtypes)
    return np.dtype(np.float64 if wide else np.float32)


def bits_dtype(dtype):
    """The unsigned integers as wide as these floats."""
    return jnp.dtype(f"uint{8 * jnp.dtype(dtype).itemsize}")


def floats_dtype(dtype):
    """float32 or float64, whichever is as wide as these integers."""
    return jnp.dtype(f"float{8 * jnp.dtype(dtype).itemsize}")
