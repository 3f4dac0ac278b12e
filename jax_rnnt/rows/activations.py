"""The activations of a joint network: functions by name, and which functions are allowed."""

import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt import _checks


def _identity(x):
    return x


ACTIVATIONS: Mapping[str | None, Callable[..., jax.Array]] = types.MappingProxyType(
    {
        None: _identity,
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "gelu": jax.nn.gelu,
        "sigmoid": jax.nn.sigmoid,
    }
)


def resolve_activation(activation: Any) -> Callable[..., jax.Array]:
    """The function behind an activation's name, or the function itself.

    Raises:
        TypeError: If a function is not hashable.
        ValueError: If there is no activation of that name.
    """
    if isinstance(activation, Callable):
        if not isinstance(activation, Hashable):
            raise TypeError(f"activation must be hashable, got {activation!r}.")
        return activation
    _checks.choice("activation", activation, tuple(ACTIVATIONS))
    return ACTIVATIONS[activation]


def name_of(function: Callable) -> str | None:
    """A function's name among ACTIVATIONS, "none" for the identity; None if it is not there."""
    for name, known in ACTIVATIONS.items():
        if function is known:
            return name or "none"
    return None


def check_closure(activation: Callable[[jax.Array], jax.Array], dtype: np.dtype) -> None:
    """ValueError if the function closes over arrays: the gradients of traced ones would be lost."""
    if name_of(activation) is None and jax.make_jaxpr(activation)(jnp.zeros((), dtype)).consts:
        raise ValueError(
            "activation must not close over arrays, but may over Python's numbers: scale encoder, "
            "predictor or kernel instead."
        )
