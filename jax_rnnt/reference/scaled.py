"""Non-negative numbers as `mantissa * 2**exponent`, the exponent in an array of its own.

No step of a recursion takes a logarithm of a whole prefix, so float32 keeps its precision at any
length: a float32 log alpha near 10,000 is good to 0.001 only. To autodiff exponents are constants
and mantissas carry the derivative. The cotangent of a mantissa, (posterior / mantissa), needs no
scaling either.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# The exponent of zero: below every exponent that a sum of finite log-probabilities reaches, and far
# enough from the lowest float32 that adding arcs to it cannot overflow.
ZERO_EXPONENT = -1e37


class Scaled(NamedTuple):
    """A non-negative number `mantissa * 2**exponent`; both float arrays, the exponent whole."""

    mantissa: jax.Array
    exponent: jax.Array


def split(log_probs: jax.Array) -> Scaled:
    """exp(log_probs) as a mantissa in [2**-0.5, 2**0.5] and an exponent; -inf becomes zero."""
    possible = log_probs * _LOG2_E >= ZERO_EXPONENT
    finite = jnp.where(possible, log_probs, 0)
    constant = lax.stop_gradient(finite)
    exponent = jnp.round(constant * _LOG2_E)
    # Two-part log(2): the product with the high part is exact for exponents below 2**13. An
    # exponent of `largest` or more leaves no bits for a fraction, which is then 0.
    fraction = (constant - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    largest = 2.0 ** (jnp.finfo(log_probs.dtype).nmant - 1)
    fraction = jnp.where(jnp.abs(exponent) < largest, fraction, 0)
    mantissa = jnp.exp(fraction + (finite - constant))
    return Scaled(
        jnp.where(possible, mantissa, 0),
        jnp.where(possible, exponent, ZERO_EXPONENT),
    )


def multiply(a: Scaled, b: Scaled) -> Scaled:
    return Scaled(a.mantissa * b.mantissa, a.exponent + b.exponent)


def add(*terms: Scaled) -> Scaled:
    """The sum, normalized, of terms that are nearly so: mantissas near one, or zero."""
    exponent = functools.reduce(jnp.maximum, [x.exponent for x in terms])
    mantissas = [x.mantissa * _power_of_two(x.exponent - exponent) for x in terms]
    return normalize(Scaled(functools.reduce(jnp.add, mantissas), exponent))


def add_along(a: Scaled, axes: tuple[int, ...]) -> Scaled:
    """The sum over axes, normalized."""
    exponent = a.exponent.max(axes, keepdims=True)
    mantissa = (a.mantissa * _power_of_two(a.exponent - exponent)).sum(axes)
    return normalize(Scaled(mantissa, exponent.reshape(mantissa.shape)))


def ratio(a: Scaled, b: Scaled) -> jax.Array:
    """a / b of numbers of which a is at most b, but for rounding: in [0, 1]; 0 where b is zero."""
    none = (a.mantissa == 0) | (b.mantissa == 0)
    power = _power_of_two(jnp.minimum(a.exponent - b.exponent, 64))
    share = a.mantissa / jnp.where(none, 1, b.mantissa) * power
    return jnp.where(none, 0, jnp.minimum(share, 1))


def normalize(a: Scaled) -> Scaled:
    """The same number with its mantissa in [0.5, 1), or zero with the exponent of zero."""
    dtype = a.mantissa.dtype
    info = jnp.finfo(dtype)
    bits = lax.bitcast_convert_type(lax.stop_gradient(a.mantissa), f"int{info.bits}")
    shift = ((bits >> info.nmant) - (info.maxexp - 2)).astype(dtype)  # the sign bit is 0
    exponent = jnp.where(a.mantissa == 0, ZERO_EXPONENT, a.exponent + shift)
    return Scaled(a.mantissa * _power_of_two(-shift), exponent)


def log(a: Scaled) -> jax.Array:
    """Natural logarithm; zero gives -inf with a zero derivative."""
    zero = a.mantissa == 0
    mantissa_log = jnp.log(jnp.where(zero, 1, a.mantissa))
    # In float32 exponent * log(2), near 10,000, is off by an ulp unless log(2) is split.
    value = a.exponent * _LN2_HIGH + (a.exponent * _LN2_LOW + mantissa_log)
    return jnp.where(zero, -jnp.inf, value)


_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693359375  # ten bits, exact in every dtype
_LN2_LOW = -2.1219444005469057e-4


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """2**exponent for whole floats, exactly; 0 below the dtype's normal numbers."""
    lowest = jnp.finfo(exponent.dtype).minexp
    whole = jnp.maximum(exponent, lowest).astype(jnp.int32)
    power = jnp.ldexp(jnp.ones_like(exponent), whole)
    return lax.stop_gradient(jnp.where(exponent < lowest, 0, power))
