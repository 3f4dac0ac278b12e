"""The derivatives of kernels: reverse mode, once."""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def refuse_derivatives(*arguments: Any, **params: Any) -> NoReturn:
    """Raise NotImplementedError, as the derivative rule of what may not be differentiated again."""
    del arguments, params
    raise NotImplementedError(
        "jax_rnnt's kernels can be differentiated once: where gradients are differentiated again, "
        "use implementation='reference', not compact."
    )


def custom_vjp(*nondiff_argnums: int) -> Callable[[Callable], Any]:
    """jax.custom_vjp as a decorator with arguments; jvp raises and says which option has one."""

    def decorate(function: Callable) -> Any:
        return _CustomVjp(jax.custom_vjp(function, nondiff_argnums=nondiff_argnums))

    return decorate


class _CustomVjp:
    def __init__(self, function: Any):
        self._function = function
        self.defvjp = function.defvjp

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*jax.tree.map(_reverse_mode, arguments))


def _reverse_mode(x: Any) -> Any:
    """x, whose tangent reverse mode can transpose and forward mode refuses to compute."""
    is_float = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
    return _differentiable_in_reverse(x) if is_float else x


@jax.custom_jvp
def _differentiable_in_reverse(x):
    return x


@_differentiable_in_reverse.defjvp
def _differentiable_in_reverse_jvp(primals, tangents):
    return primals[0], _forward_mode.bind(tangents[0])


def _refuse_forward_mode(*arguments: Any, **params: Any) -> NoReturn:
    del arguments, params
    raise NotImplementedError(
        "jax_rnnt's kernels have reverse-mode derivatives only (jax.grad, jax.vjp, jax.jacrev): "
        "jax.jvp, jax.linearize and jax.hessian need implementation='reference', not compact."
    )


# The identity of tangents. Reverse mode only transposes it; whatever evaluates it is forward mode.
_forward_mode = Primitive("rnnt_forward_mode")
_forward_mode.def_impl(_refuse_forward_mode)
_forward_mode.def_abstract_eval(lambda x: x)
mlir.register_lowering(_forward_mode, _refuse_forward_mode)
batching.primitive_batchers[_forward_mode] = lambda xs, dims: (_forward_mode.bind(*xs), dims[0])
ad.deflinear2(_forward_mode, lambda cotangent, _: [cotangent])
