"""Compiling: many programs at once, each while the next one is traced."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

# Triton's products are each compiled in dozens of ways and timed. On an H100 ten programs of
# `small` took 209 s with them; nine, of batches a quarter as large, 40 to 48 s without. Of the
# library's ways to compute a product, the eight that it ranks first are timed: `medium` is as fast
# as with all of them.
GPU_OPTIONS: dict[str, Any] = {
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_autotune_max_solutions": 8,
}


def _options() -> dict[str, Any] | None:
    return GPU_OPTIONS if jax.default_backend() == "gpu" else None


def compile_program(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """One program."""
    return lowered.compile(compiler_options=_options())


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` with the same options; whether there is a GPU is asked at the first call."""

    @functools.cache
    def jitted() -> Callable[..., Any]:
        return jax.jit(function, compiler_options=_options())

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        return jitted()(*arguments, **keywords)

    return run


def compile_together(
    *groups: Iterable[tuple[Any, jax.stages.Lowered]],
) -> list[dict[Any, jax.stages.Compiled]]:
    """Of each group its programs, as many at once as there are cores.

    XLA leaves Python to other threads. All are traced in this one, whose settings JAX knows.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [
            {key: pool.submit(compile_program, program) for key, program in group}
            for group in groups
        ]
    return [{key: program.result() for key, program in group.items()} for group in futures]
