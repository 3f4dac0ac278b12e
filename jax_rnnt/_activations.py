"""Activations by name."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

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
    }
)


def resolve_activation(activation: Any) -> Callable[..., jax.Array]:
    """The function behind an activation's name, or the function itself; ValueError otherwise."""
    if isinstance(activation, Callable):
        return activation
    _checks.choice("activation", activation, tuple(ACTIVATIONS))
    return ACTIVATIONS[activation]


def name_of(function: Callable) -> str | None:
    """Under which name a kernel may know the function: "none" for no activation, None for none."""
    for name, known in ACTIVATIONS.items():
        if function is known:
            return name or "none"
    return None
