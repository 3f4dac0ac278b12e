"""RNN-Transducer loss for JAX: CUDA and CPU kernels behind `jit`, `grad`, `vmap` and sharding."""

import importlib
from typing import TYPE_CHECKING, Any

from jax_rnnt import reference
from jax_rnnt._version import __version__
from jax_rnnt.export import custom_call_checks, register_custom_calls
from jax_rnnt.lattice.cost import lattice_cost
from jax_rnnt.losses.joint import rnnt_loss_from_joint
from jax_rnnt.losses.rnnt import rnnt_loss, rnnt_loss_from_logits
from jax_rnnt.rows.pick import log_softmax_pick

if TYPE_CHECKING:
    from jax_rnnt import flax as flax

__all__ = [
    "__version__",
    "custom_call_checks",
    "lattice_cost",
    "log_softmax_pick",
    "reference",
    "register_custom_calls",
    "rnnt_loss",
    "rnnt_loss_from_joint",
    "rnnt_loss_from_logits",
]


def __getattr__(name: str) -> Any:
    # `jax_rnnt.flax` needs no import of its own, and imports Flax when it is first asked for.
    if name == "flax":
        return importlib.import_module("jax_rnnt.flax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
