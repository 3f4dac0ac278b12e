"""Dropout inside a joint network, whose mask is a function of each activation's place.

The mask of the activation of unit h in cell (t, u) of sequence n is drawn by a counter-based
generator from (seed, n, t, u, h). So every walk over the cells draws the same mask as often as it
needs it, and none is ever stored.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_UNITS_AT_ONCE = 8  # one draw of the generator, of 16 bits each
_PRECISION = 2**16


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["seed", "sequences"],
    meta_fields=["threshold"],
)
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Which activations are dropped."""

    seed: jax.Array  # (2,) uint32
    sequences: jax.Array  # (N,) int32, each sequence's number in the whole batch
    threshold: int  # how many of 2^16 are dropped, in [0, 2^16)

    def apply(
        self,
        activation: Callable[[jax.Array], jax.Array],
        sums: jax.Array,
        sequences: jax.Array,
        frames: jax.Array,
        columns: jax.Array,
    ) -> jax.Array:
        """Activations (..., H), those that are kept divided by their share, the others zero.

        Those have no gradient either, whatever their sums are.

        Args:
            activation: elementwise.
            sums: (..., H).
            sequences, frames, columns: int32, which broadcast to (...).
        """
        if not self.threshold:
            return activation(sums)
        H = sums.shape[-1]
        numbers = uniform_bits(self.seed, sequences, frames, columns, H)
        kept = numbers >= np.uint16(self.threshold)
        activations = activation(jnp.where(kept, sums, 0))
        dtype = np.float64 if activations.dtype == np.float64 else np.float32
        scale = dtype(_PRECISION) / dtype(_PRECISION - self.threshold)
        return jnp.where(kept, activations * scale.astype(activations.dtype), 0)


def threshold_of(rate: float) -> int:
    """The threshold of a rate in [0, 1), which is rounded to a multiple of 2^-16."""
    return min(round(rate * _PRECISION), _PRECISION - 1)


def seed_of(key: jax.Array) -> jax.Array:
    """(2,) uint32 of a JAX key of any kind."""
    return jax.random.bits(key, (2,), jnp.uint32)


def uniform_bits(
    seed: jax.Array, sequences: jax.Array, frames: jax.Array, columns: jax.Array, units: int
) -> jax.Array:
    """(..., units) uint16, a number for every unit of the cells (...)."""
    cells = jnp.broadcast_arrays(*(x[..., None] for x in (columns, frames, sequences)))
    shape, blocks = cells[0].shape[:-1], -(-units // _UNITS_AT_ONCE)
    block = lax.broadcasted_iota(jnp.uint32, (*shape, blocks), len(shape))
    counter = block, *(jnp.broadcast_to(x.astype(jnp.uint32), block.shape) for x in cells)
    words = jnp.stack(philox(counter, (seed[0], seed[1])), -1)
    # Otherwise a loop over units would draw all of a block's for each of them.
    words = lax.optimization_barrier(words)
    # The lower half of each word first.
    numbers = lax.bitcast_convert_type(words, jnp.uint16)
    return numbers.reshape(*shape, blocks * _UNITS_AT_ONCE)[..., :units]


_ROUNDS = 7
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def philox(
    counter: tuple[jax.Array, ...], key: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, ...]:
    """Philox4x32 with 7 rounds: four words of a counter of four and a key of two, all uint32.

    Seven rounds are the fewest that pass all of TestU01's tests.

    See Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
    """
    a, b, c, d = counter
    for step in range(_ROUNDS):
        keys = (k + np.uint32(step * by % 2**32) for k, by in zip(key, _KEY_STEPS))
        first, second = keys
        (high_a, low_a), (high_c, low_c) = (
            _wide_product(x, by) for x, by in zip((a, c), _MULTIPLIERS)
        )
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
    return a, b, c, d


def _wide_product(x: jax.Array, factor: int) -> tuple[jax.Array, jax.Array]:
    """The upper and the lower 32 bits of a product: JAX has no wider integers by default."""
    mask, half = np.uint32(0xFFFF), np.uint32(16)
    low, high = np.uint32(factor & 0xFFFF), np.uint32(factor >> 16)
    x_low, x_high = x & mask, x >> half
    middle = x_high * low + ((x_low * low) >> half)
    middle_low = x_low * high + (middle & mask)
    upper = x_high * high + (middle >> half) + (middle_low >> half)
    return upper, x * np.uint32(factor)
