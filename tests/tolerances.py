"""How near a result must come to the float64 oracle: the one table from dtype to tolerance."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Tolerance(NamedTuple):
    """Relative and absolute, of costs and of gradients."""

    cost: float
    cost_floor: float
    gradient: float
    gradient_floor: float


# Costs of half dtypes are float32 costs of rounded inputs; their gradients are rounded at the end.
TOLERANCES = {
    "float64": Tolerance(1e-13, 1e-13, 1e-12, 1e-13),
    "float32": Tolerance(1e-6, 1e-6, 5e-6, 5e-7),
    "float16": Tolerance(1e-6, 1e-6, 2**-10, 5e-7),
    "bfloat16": Tolerance(1e-6, 1e-6, 2**-8, 5e-7),
}

# The largest error of the gradient with respect to float32 logits, norm over norm, at any length.
GRADIENT_ERROR = 5e-6


def assert_costs(actual, expected, dtype: str = "float32") -> None:
    tolerance = TOLERANCES[jnp.dtype(dtype).name]
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance.cost, atol=tolerance.cost_floor
    )


def assert_gradients(actual, expected, dtype: str = "float32", scale: float = 1.0) -> None:
    """Assert that gradients are near; `scale` is the largest cotangent, if it is far from one."""
    tolerance = TOLERANCES[jnp.dtype(dtype).name]
    np.testing.assert_allclose(
        np.asarray(actual, np.float64),
        expected,
        rtol=tolerance.gradient,
        atol=tolerance.gradient_floor * scale,
    )


def assert_same_bits(actual, expected) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(
        actual.view(f"u{actual.itemsize}"), expected.view(f"u{expected.itemsize}")
    )


def relative_error(actual, expected: np.ndarray) -> float:
    difference = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))
