"""What the steps of a search write: one row each, brought together once at the end."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

# A step that writes no label leaves this for one.
NOTHING = -1


def empty(steps: int, N: int, columns: int) -> jax.Array:
    """A trace of so many steps in which nothing is written."""
    return jnp.full((steps, N, columns), NOTHING, jnp.int32)


def write(trace: jax.Array, step: jax.Array, record: Mapping[str, jax.Array]) -> jax.Array:
    """The trace with the record of a step: arrays (N,) of int32 and float32, the label first.

    All are kept as the same integers, so that a step writes once.
    """
    bits = [lax.bitcast_convert_type(x, jnp.int32) for x in record.values()]
    return lax.dynamic_update_index_in_dim(trace, jnp.stack(bits, -1), step, 0)


def gather(trace: jax.Array, types: Mapping[str, jnp.dtype], max_labels: int) -> dict:
    """Each column as (N, max_labels): what the steps with a label wrote, and zeros behind it."""

    def of_one(rows: jax.Array) -> jax.Array:
        wrote = rows[:, 0] != NOTHING
        slot = jnp.where(wrote, jnp.cumsum(wrote) - 1, max_labels)
        room = jnp.zeros((max_labels, rows.shape[1]), jnp.int32)
        return room.at[slot].set(rows, mode="drop")

    rows = jax.vmap(of_one, in_axes=1)(trace)
    return {
        name: lax.bitcast_convert_type(rows[..., column], dtype)
        for column, (name, dtype) in enumerate(types.items())
    }
