"""What lattice_cost takes for arcs."""

import jax
import jax.numpy as jnp
import pytest
from tolerances import assert_costs

import jax_rnnt


@pytest.mark.parametrize("compact", [False, True])
def test_arcs_of_two_dtypes_follow_the_promotion_that_is_set(implementation, compact):
    blank = jnp.full(4 if compact else (1, 2, 2), -0.5)
    label = blank.astype(jnp.bfloat16)

    def cost():
        return jax_rnnt.lattice_cost(
            blank, label, [2], [1], compact=compact, implementation=implementation
        )

    with pytest.raises(ValueError, match="no available implicit dtype promotion path"):
        cost()
    with jax.numpy_dtype_promotion("standard"):
        costs = cost()
    assert costs.dtype == jnp.float32
    assert_costs(costs, [1.5 - 0.6931471805599453])
