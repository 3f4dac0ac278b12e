"""Sums of log-probabilities that are exact, whatever order they are taken in.

A log-probability is rounded to a whole number of units of 2^-30 nats. Whole nats are floats, exact
up to 2^24, and the units beside them integers, so that no sum below that rounds. (Logarithms in
float32 do, and mantissas of products round by the order of their factors: equal paths differ.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt._xla.residuals import from_bits, to_bits
from jax_rnnt.reference.axes import positions


class Score(NamedTuple):
    """A sum of log-probabilities: whole nats, -inf or NaN, and units of 2^-30 nats beside them."""

    whole: jax.Array  # floats
    units: jax.Array  # int32 in [-2^29, 2^29)


def score(log_probs: jax.Array) -> Score:
    """Log-probabilities rounded to units, halves to even."""
    whole = jnp.round(log_probs)
    rest = jnp.where(jnp.abs(log_probs) < jnp.inf, log_probs - whole, 0)
    return _carried(Score(whole, jnp.round(rest * 2.0**30).astype(jnp.int32)))


def add(a: Score, b: Score) -> Score:
    return _carried(Score(a.whole + b.whole, a.units + b.units))


def is_greater(a: Score, b: Score) -> jax.Array:
    return (a.whole > b.whole) | ((a.whole == b.whole) & (a.units > b.units))


def value(a: Score) -> jax.Array:
    """Nats."""
    return a.whole + a.units.astype(a.whole.dtype) * 2.0**-30


def start(valid: jax.Array, columns: int, dtype) -> jax.Array:
    """The scores before the first frame (..., columns, 2), as bits; NaN where not valid."""
    column = positions(columns, valid.ndim + 1, -1)
    whole = jnp.where(column == 0, jnp.zeros((), dtype), -jnp.inf)
    return to_pairs(score(jnp.where(valid[..., None], whole, jnp.nan)))


def larger(a: Score, b: Score) -> Score:
    first = ~is_greater(b, a)
    return Score(*(jnp.where(first, x, y) for x, y in zip(a, b)))


def to_pairs(scores: Score) -> jax.Array:
    """As they pass from one block of frames to the next: (..., 2), bits of whole nats and units."""
    (whole,) = to_bits(scores.whole)
    units = lax.bitcast_convert_type(
        scores.units.astype(f"int{8 * whole.dtype.itemsize}"), whole.dtype
    )
    return jnp.stack((whole, units), -1)


def from_pairs(bits: jax.Array) -> Score:
    (whole,) = from_bits(bits[..., 0])
    signed = f"int{8 * bits.dtype.itemsize}"
    units = lax.bitcast_convert_type(bits[..., 1], signed).astype(jnp.int32)
    return _carried(Score(whole, units))


def _carried(a: Score) -> Score:
    carry = (a.units >= 2**29).astype(jnp.int32) - (a.units < -(2**29)).astype(jnp.int32)
    whole = a.whole + carry.astype(a.whole.dtype)
    units = jnp.where(jnp.abs(whole) < jnp.inf, a.units - carry * 2**30, 0)
    return Score(whole, units)
