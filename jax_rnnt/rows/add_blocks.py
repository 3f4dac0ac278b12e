"""Sums into blocks, in order."""

import jax

from jax_rnnt._xla.primitive import Kernel


def add_blocks(sums: jax.Array, blocks: jax.Array, parts: jax.Array) -> jax.Array:
    """sums (B, ...) with every part (R, ...) added to the block whose number it has.

    The parts of one block are added in order. A part is dropped if its number is beyond the last
    block's.
    """
    flat = sums.reshape(len(sums), -1), blocks, parts.reshape(len(parts), -1)
    return _add_blocks(*flat, insist=False)[0].reshape(sums.shape)


def _add_blocks_plainly(sums, blocks, parts):
    """The same by a scatter, which XLA does in order on CPU and TPU, in any order on a GPU."""

    def add(sums, blocks, parts):
        return sums.at[blocks].add(parts, mode="drop")

    for _ in range(blocks.ndim - 1):
        add = jax.vmap(add)
    return [add(sums, blocks, parts)]


_add_blocks = Kernel(
    "add_blocks",
    operands=("BL", "R", "RL"),
    results=("BL",),
    result_dtype="operand",
    overwrites=True,
    fallback=_add_blocks_plainly,
    platforms=("cuda",),
)
