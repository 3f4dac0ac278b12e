"""Functions that run as one program, so that debugging options see only what it returns.

`debug_nans` and `debug_infs` look at what each program returns, and under `disable_jit` every
operation is a program. Between a loss's arguments and its costs there are infinities on purpose:
arcs that do not exist are log-probabilities of -inf.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer


def one_program(function: Callable, *, static_argnames: tuple[str, ...] = ()) -> Callable:
    """jax.jit of the function, under `disable_jit` as well; while tracing, the function itself.

    The function becomes a part of the caller's program, and not a jitted function within it, so
    that lowering sees whose array an operand is and may write over one that nothing else reads.
    """
    compiled = jax.jit(function, static_argnames=static_argnames)

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        if isinstance(jnp.zeros(()), Tracer):
            return function(*arguments, **options)
        with jax.disable_jit(False):
            return compiled(*arguments, **options)

    return run
