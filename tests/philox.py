"""The mask of dropout inside a joint, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def philox(counter, key, rounds=7) -> np.ndarray:
    """Philox4x32: counters (4, ...) and a key of two, as 64-bit integers below 2^32."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    counter, key = [np.asarray(x, np.uint64) for x in counter], [np.uint64(x) for x in key]
    for _ in range(rounds):
        first, second = counter[0] * _MULTIPLIERS[0], counter[2] * _MULTIPLIERS[1]
        counter = [
            (second >> half) ^ counter[1] ^ key[0],
            second & mask,
            (first >> half) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(k + by) & mask for k, by in zip(key, _KEY_STEPS)]
    return np.stack(counter)


def dropout_mask(key, rate, N, T, U, H) -> np.ndarray:
    """(N, T, U, H): 0 where an activation is dropped, else one over the part that is not."""
    threshold = round(rate * 2**16)
    seed = np.asarray(jax.random.bits(key, (2,), jnp.uint32))
    blocks = -(-H // 8)
    places = np.meshgrid(*(np.arange(x) for x in (N, T, U, blocks)), indexing="ij")
    words = philox(places[::-1], seed)
    halves = [half for word in words for half in (word & np.uint64(0xFFFF), word >> np.uint64(16))]
    numbers = np.stack(halves, -1).reshape(N, T, U, 8 * blocks)[..., :H]
    return np.where(numbers < threshold, 0, 2**16 / (2**16 - threshold))
