"""Floats that a forward keeps for its backward, as integers.

These floats may be -inf or NaN where costs and gradients are finite, and in an eager gradient they
are results of a program: as integers they are read by neither `debug_infs` nor `debug_nans`.
Integers have no derivative either, so `to_bits` refuses to be differentiated: the derivative would
be lost in silence.
"""

import jax
from jax import lax

from jax_rnnt._xla.derivatives import refuse_derivatives
from jax_rnnt._xla.dtypes import bits_dtype, floats_dtype


@jax.custom_jvp
def to_bits(*arrays: jax.Array) -> list[jax.Array]:
    """The bits of float arrays as unsigned integers."""
    return [lax.bitcast_convert_type(x, bits_dtype(x.dtype)) for x in arrays]


to_bits.defjvp(refuse_derivatives)


def from_bits(*arrays: jax.Array) -> list[jax.Array]:
    """The inverse of to_bits, for float32 and float64."""
    return [lax.bitcast_convert_type(x, floats_dtype(x.dtype)) for x in arrays]
