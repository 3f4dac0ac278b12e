"""Contenders in JAX: arrays, calls, and what XLA says of the compiled functions."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from benchmarks.measuring import devices, hlo, timing
from benchmarks.problems.shapes import Case


class Device:
    """What JAX runs on."""

    def describe(self) -> dict:
        device = jax.devices()[0]
        versions = {"jax_rnnt": jax_rnnt.__version__, "jax": jax.__version__}
        return {
            "device": devices.name(device),
            "platform": device.platform,
            "versions": {**versions, "runtime": device.client.platform_version.splitlines()[0]},
        }

    def copy_bandwidth(self) -> float:
        """Bytes read and written per second by a copy that no cache holds."""
        if jax.default_backend() == "cpu":
            return timing.host_copy_bandwidth()
        x = jnp.ones(1 << 28, jnp.float32)
        copies = jax.jit(lambda x: x.copy()), jax.jit(lambda x: -x)
        seconds = min(
            timing.measure(lambda _, copy=copy: copy(x), jax.block_until_ready) for copy in copies
        )
        return 2 * x.nbytes / seconds

    def healthy(self) -> bool:
        try:
            return bool(jnp.ones(2).sum() == 2)
        except Exception:
            return False


class Framework(Device):
    def __init__(self, loss: Callable, dtype: str):
        def total(*arguments):
            return loss(*arguments).sum()

        self.dtype = jnp.dtype(dtype)
        self._costs = jax.jit(loss)
        self._forward = jax.jit(total)
        self._both = jax.jit(jax.value_and_grad(total))
        self._donating = jax.jit(jax.value_and_grad(total), donate_argnums=0)
        self._train_step = jax.jit(
            jax.value_and_grad(lambda parameters, *rest: total(_joint(*parameters), *rest))
        )

    def prepare(self, case: Case) -> "Problem":
        return Problem(self._forward, self._both, case, self.dtype)

    def gradient(self, logits: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Costs (N,), and the gradient of their sum, both float32."""
        arguments = jnp.asarray(logits).astype(self.dtype), *map(jnp.asarray, case.arrays())
        costs, (_, gradient) = self._costs(*arguments), self._both(*arguments)
        return np.asarray(costs, np.float32), np.asarray(gradient.astype(jnp.float32))

    def train_step(self, case: Case) -> dict:
        """Memory where logits are made inside the compiled function and nobody else wants them."""
        parameters = (
            jax.ShapeDtypeStruct((case.N, case.T, case.V), self.dtype),
            jax.ShapeDtypeStruct((case.N, case.U, case.V), self.dtype),
        )
        return _temporary(self._train_step.lower(parameters, *case.arrays()).compile())

    def donating(self, case: Case) -> dict:
        """Memory where the gradient takes the logits' place."""
        logits = jax.ShapeDtypeStruct((case.N, case.T, case.U, case.V), self.dtype)
        return _temporary(self._donating.lower(logits, *case.arrays()).compile())


class Problem:
    """A case's arrays on the device and the calls on them."""

    def __init__(self, forward: Callable, both: Callable, case: Case, dtype):
        self._forward, self._both = forward, both
        sets = timing.count_inputs(case.elements * dtype.itemsize, jax.default_backend())
        shape = case.N, case.T, case.U, case.V
        logits = [_standard_normal(jax.random.key(i), shape, dtype) for i in range(sets)]
        rest = [jnp.asarray(array) for array in case.arrays()]
        self.inputs = [(x, *rest) for x in logits]

    def forward(self, i: int) -> jax.Array:
        return self._forward(*self.inputs[i % len(self.inputs)])

    def both(self, i: int) -> tuple[jax.Array, jax.Array]:
        return self._both(*self.inputs[i % len(self.inputs)])

    def wait(self, results) -> None:
        jax.block_until_ready(results)

    def analyse(self) -> dict:
        """Memory by XLA's own account, and launches, of forward and backward."""
        compiled = self._both.lower(*self.inputs[0]).compile()
        figures: dict = {"thunks_by_operation": hlo.thunks(compiled.as_text())}
        figures["thunks"] = sum(figures["thunks_by_operation"].values())
        if memory := compiled.memory_analysis():
            beyond = memory.output_size_in_bytes - memory.alias_size_in_bytes
            figures["temporary_bytes"] = memory.temp_size_in_bytes
            figures["beyond_logits_bytes"] = memory.temp_size_in_bytes + beyond
        return figures


def _temporary(compiled) -> dict:
    memory = compiled.memory_analysis()
    return {"temporary_bytes": memory.temp_size_in_bytes} if memory else {}


def _joint(encoder: jax.Array, predictor: jax.Array) -> jax.Array:
    return encoder[:, :, None] + predictor[:, None]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _standard_normal(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """One sequence after the other: all at once, the generator's counters fill the memory."""

    def sequence(key):
        return jax.random.normal(key, shape[1:]).astype(dtype)

    return jax.lax.map(sequence, jax.random.split(key, shape[0]))
