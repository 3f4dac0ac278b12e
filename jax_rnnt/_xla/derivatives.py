"""Derivatives of what the kernels compute: once, in reverse."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax


def refuse_derivatives(*arguments: Any, **params: Any) -> NoReturn:
    """The derivative of what computes a gradient: NotImplementedError."""
    del arguments, params
    raise NotImplementedError(
        "jax_rnnt's kernels can be differentiated once: where gradients are differentiated again, "
        "use implementation='reference'."
    )


def custom_vjp(*nondiff_argnums: int) -> Callable[[Callable], Any]:
    """jax.custom_vjp as a decorator with arguments."""
    return functools.partial(jax.custom_vjp, nondiff_argnums=nondiff_argnums)
