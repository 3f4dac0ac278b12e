"""RNN-Transducer loss for JAX: CUDA and CPU kernels behind `jit`, `grad`, `vmap` and sharding."""

from jax_rnnt import reference
from jax_rnnt._ffi import custom_call_checks, register_custom_calls
from jax_rnnt._version import __version__
from jax_rnnt.joint import rnnt_loss_from_joint
from jax_rnnt.lattice import lattice_cost
from jax_rnnt.loss import rnnt_loss, rnnt_loss_from_logits
from jax_rnnt.pick import log_softmax_pick

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
