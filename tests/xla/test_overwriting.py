"""A gradient is written over its logits where nobody keeps them, and nowhere else.

XLA would copy kept logits first, the largest array there is. Programs are exported for a GPU and
read, on any machine that has the CUDA module.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jax_rnnt
from jax_rnnt._xla import ffi

pytestmark = pytest.mark.skipif(
    ffi.native_module("cuda") is None, reason="the CUDA kernels are not built"
)
N, T, U, V = 2, 5, 4, 6


def _value_and_gradient(logits):
    labels = jnp.ones((len(logits), U - 1), jnp.int32)
    lengths = jnp.full(len(logits), T, jnp.int32), jnp.full(len(logits), U - 1, jnp.int32)

    def total(logits):
        return jax_rnnt.rnnt_loss_from_logits(logits, labels, *lengths, reduction="sum")

    return jax.value_and_grad(total)(logits)


def _jit_in_jit(logits):
    return jax.jit(_value_and_gradient)(logits)


def _shard_map(devices, logits):
    mesh = jax.make_mesh(
        (devices,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )

    def local(logits):
        """Of a part with the dimension that `pmap` splits."""
        value, gradient = _value_and_gradient(logits.reshape(logits.shape[1:]))
        return value[None], gradient[None]

    return jax.shard_map(local, mesh=mesh, in_specs=P("a"), out_specs=P("a"))(logits)


def _overwrites(run, logits, **options):
    """Whether the program's call of the backward kernel writes over an operand."""
    exported = jax.export.export(
        jax.jit(run, **options),
        platforms=["cuda"],
        disabled_checks=jax_rnnt.custom_call_checks(),
    )(logits)
    program = exported.mlir_module().splitlines()
    (call,) = (line for line in program if "@jax_rnnt_pick_backward_columns_cuda" in line)
    return "output_operand_alias<" in call


WAYS = [
    pytest.param(_value_and_gradient, (N,), id="jit"),
    pytest.param(_jit_in_jit, (N,), id="jit in jit"),
    pytest.param(functools.partial(_shard_map, 1), (1, N), id="a device"),
    pytest.param(functools.partial(_shard_map, 2), (2, N), id="two devices"),
]


@pytest.mark.parametrize(("run", "batch"), WAYS)
def test_only_logits_that_nobody_keeps_are_written_over(run, batch):
    if np.prod(batch) // N > jax.device_count():
        pytest.skip("needs several devices")
    logits = jax.ShapeDtypeStruct((*batch, T, U, V), jnp.float32)
    hidden = jax.ShapeDtypeStruct((*batch, T, U, 1), jnp.float32)

    def of_hidden(hidden):
        return run(jnp.broadcast_to(hidden, logits.shape) * 2)

    assert not _overwrites(run, logits)
    assert _overwrites(run, logits, donate_argnums=0)
    assert _overwrites(of_hidden, hidden)
