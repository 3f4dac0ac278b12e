"""A loss from a joint with its options, in this process: times and memory."""

import dataclasses

import jax
import jax.numpy as jnp

from benchmarks.contenders.joint_options import WAYS
from benchmarks.measuring import timing
from benchmarks.problems import joint_models
from benchmarks.problems.shapes import JointCase


def row(case: JointCase, name: str, dtype) -> dict:
    """Milliseconds of forward and of both, and bytes beyond arguments and results."""
    way = WAYS[name]
    wide = dataclasses.replace(case, V=case.V + way.durations)
    operands = tuple(jnp.asarray(x.astype(dtype)) for x in joint_models.random(wide))
    arguments = operands, *map(jnp.asarray, case.arrays())

    def loss(operands, *rest):
        return way.loss(*operands, *rest).mean()

    figures = {}
    for name, function in (("forward", loss), ("forward_backward", jax.value_and_grad(loss))):
        call = jax.jit(function).lower(*arguments).compile()
        seconds = timing.measure(lambda _, call=call: call(*arguments), jax.block_until_ready)
        figures[f"{name}_ms"] = 1e3 * seconds
        if memory := call.memory_analysis():
            figures["temporary_bytes"] = memory.temp_size_in_bytes
    return figures
