"""A way from a joint network to its loss, in JAX: times, memory, gradients; see `joint_paths`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import timing, traces
from benchmarks.problems import joint_models
from benchmarks.problems.shapes import JointCase
from benchmarks.running import on_jax, on_joint_options, on_pruned
from jax_rnnt.rows import joint_entries, joint_left_out


class Framework(on_jax.Device):
    def __init__(self, loss: Callable, dtype: str):
        self.dtype = jnp.dtype(dtype)
        self._loss = loss
        self._compiled: dict[tuple, tuple] = {}
        self._failed: dict[tuple, str] = {}

    def analyse(self, case: dict, options: dict) -> dict:
        """What XLA says of memory beyond arguments and results, whether or not it fits."""
        _, both = self._compile(_case(case), options)
        memory = both.memory_analysis()
        return {"temporary_bytes": memory.temp_size_in_bytes} if memory else {}

    def measure(self, case: dict, options: dict, gradients: str) -> dict:
        """Times, cost, and memory as the allocator saw it; gradients go to a file `.npz`."""
        problem = _case(case)
        forward, both = self._compile(problem, options)
        arguments = self._arguments(problem)
        before = _allocated("bytes_in_use")
        cost, results = jax.block_until_ready(both(*arguments))
        peak = _allocated("peak_bytes_in_use")
        figures = {"cost": float(cost)}
        if before is not None and peak is not None:
            figures["allocated_bytes"] = peak - before
        np.savez(gradients, **{k: np.asarray(x, np.float32) for k, x in results._asdict().items()})
        del results
        for name, call in (("forward_backward_ms", both), ("forward_ms", forward)):
            seconds = timing.measure(lambda _, call=call: call(*arguments), jax.block_until_ready)
            figures[name] = 1e3 * seconds
        return figures

    def profile(self, case: dict, options: dict) -> dict:
        """Milliseconds of a forward and backward on the device, by kind of kernel."""
        problem = _case(case)
        _, both = self._compile(problem, options)
        arguments = self._arguments(problem)
        jax.block_until_ready(both(*arguments))
        times = traces.device_ms(traces.record(lambda: jax.block_until_ready(both(*arguments))))
        longest = sorted(times, key=lambda name: -times[name])[:16]
        return {
            "device_ms": traces.by_kind(times) if times else {},
            "kernels_ms": {name: times[name] for name in longest},
        }

    def product_rate(self, rows: int, inner: int, columns: int, dtype: str) -> dict:
        """Floating-point operations a second of one matrix product."""
        keys = jax.random.split(jax.random.key(0))  # zeros and ones would take less power
        a = jax.random.normal(keys[0], (rows, inner), dtype)
        b = jax.random.normal(keys[1], (inner, columns), dtype)
        product = jax.jit(jnp.matmul)
        seconds = timing.measure(lambda _: product(a, b), jax.block_until_ready)
        return {"flops_per_second": 2 * rows * inner * columns / seconds}

    def measure_option(self, case: dict, way: str) -> dict:
        """Time and memory of the loss with one of its options; see `on_joint_options`."""
        return on_joint_options.row(_case(case), way, self.dtype)

    def measure_pruned(self, case: dict, part: str) -> dict:
        """Time and temporary memory of a part of the pruned recipe."""
        return on_pruned.row(_case(case), part, self.dtype)

    def describe_posterior(self, case: dict, options: dict, gradients: str) -> dict:
        """Where the posterior is, which cells a backward needs, and the truth in float32."""
        problem = _case(case)
        cost, truth, cells = joint_models.truth(problem, self.dtype)
        np.savez(gradients, **truth._asdict())
        inside = joint_models.within(problem)
        posteriors = np.where(inside, cells.blank_posteriors + cells.label_posteriors, 0)
        norms = np.where(inside, joint_models.gradient_norms(cells), 0)
        sizes = problem.T, problem.U, problem.H, problem.V, problem.N
        chosen = joint_entries.choose_tile(*sizes, self.dtype, jnp.tanh)
        *tile, at_once = options.get("tile") or chosen[:3]
        if (least := options.get("min_posterior")) is None:
            taken = joint_models.kept_tiles(norms, tile, joint_left_out.left_out(self.dtype))
        else:
            taken = joint_models.tiles_above(posteriors, tile, least)
        kept = joint_models.cells_of(taken, tile, inside.shape) & inside
        walked = joint_models.tiles_above(inside, tile, 0)
        tile_cells = tile[0] * tile[1]
        return {
            "cost": cost,
            "cells": problem.cells,
            "padded_cells": int(inside.size),
            "holding_cells": joint_models.holding(posteriors[inside], joint_models.HELD),
            "tile": [*tile, at_once],
            "forward_tiles_cells": int(walked.sum()) * tile_cells,
            "backward_tiles_cells": int(taken.sum()) * tile_cells,
            "kept_cells": int(kept.sum()),
            "kept_posterior": float(posteriors[kept].sum() / posteriors.sum()),
            "kept_gradient": float(norms[kept].sum() / norms.sum()),
        }

    def _arguments(self, case: JointCase) -> tuple:
        operands = [jnp.asarray(x.astype(self.dtype)) for x in joint_models.make(case)]
        arguments = joint_models.Operands(*operands), *map(jnp.asarray, case.arrays())
        return jax.block_until_ready(arguments)

    def _compile(self, case: JointCase, options: dict) -> tuple[Callable, Callable]:
        """Forward, and forward and backward, for arrays of the case's shape."""
        shape = case.N, case.T, case.U, case.H, case.V
        if shape in self._failed:
            raise RuntimeError(self._failed[shape])
        if shape not in self._compiled:
            keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}

            def loss(operands, *rest):
                return self._loss(*operands, *rest, **keywords).mean()

            N, T, U, H, V = shape
            operands = ((N, T, H), (N, U, H), (H, V), (V,))
            arguments = (
                joint_models.Operands(*(jax.ShapeDtypeStruct(x, self.dtype) for x in operands)),
                *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in case.arrays()),
            )
            try:
                self._compiled[shape] = tuple(
                    jax.jit(f).lower(*arguments).compile() for f in (loss, jax.value_and_grad(loss))
                )
            except Exception as error:
                self._failed[shape] = str(error)
                raise
        return self._compiled[shape]


def _case(plain: dict[str, Any]) -> JointCase:
    """From JSON, which knows no tuples."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return JointCase(**values)


def _allocated(what: str) -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get(what)
