"""Lattices in JAX: from arcs to costs and all gradients."""

import jax
import jax.numpy as jnp

from benchmarks.contenders.family import Lattice
from benchmarks.measuring import timing, traces
from benchmarks.problems.family_cases import LatticeSize


class Problem:
    """A lattice's arrays on the device, full lengths, and the call on them.

    Calls have the same arcs: in a loss, too, the rows have just written them.
    """

    def __init__(self, lattice: Lattice, size: LatticeSize, implementation: str):
        N, T, U = size

        def total(arcs, frames_lengths, labels_lengths):
            return lattice.cost(arcs, frames_lengths, labels_lengths, implementation).sum()

        self._both = jax.jit(jax.value_and_grad(total))
        numbers = jax.random.normal(jax.random.key(0), (len(lattice.arcs), *size))
        arcs = dict(zip(lattice.arcs, jax.nn.log_softmax(numbers, axis=0)))
        self._arguments = arcs, jnp.full(N, T, jnp.int32), jnp.full(N, U - 1, jnp.int32)

    def call_ms(self) -> float:
        """Milliseconds of one of many calls that are enqueued together."""
        return 1e3 * timing.measure(lambda _: self._both(*self._arguments), jax.block_until_ready)

    def device_ms(self) -> float | None:
        """Milliseconds of the kernels of a call; None where no device is traced."""
        return traces.median_ms(lambda: jax.block_until_ready(self._both(*self._arguments)))
