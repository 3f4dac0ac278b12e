"""Settings of the losses' tests."""

import jax
import pytest


@pytest.fixture(autouse=True)
def whole_precision():
    """A GPU's products of float32 are of tf32 by default."""
    with jax.default_matmul_precision("highest"):
        yield
