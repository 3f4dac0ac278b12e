"""The joint network: what its logits are computed from, and all of them as one array.

logits[n, t, u] = activation(encoder[n, t] + predictor[n, u]) @ kernel + bias
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.dtypes import accumulator_dtype


class Weights(NamedTuple):
    """The joint's operands; H hidden units."""

    encoder: jax.Array  # (N, T, H)
    predictor: jax.Array  # (N, U, H)
    kernel: jax.Array  # (H, V)
    bias: jax.Array  # (V,)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the activations and of the matrix products' operands.

        The public function asks jax_numpy_dtype_promotion. What is traced later does not, as the
        option may be another one by then.
        """
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(*(x.dtype for x in self))

    def project(self, activations: jax.Array) -> jax.Array:
        """Logits (..., V) of activations (..., H), in the accumulator's dtype.

        If they were rounded to a half dtype, forward and backward would have to round them alike:
        the gradient at a symbol of probability near 1 is what two numbers leave of each other.
        """
        dtype = accumulator_dtype(self.dtype)
        contract = (activations.ndim - 1,), (0,)
        operands = activations.astype(self.dtype), self.kernel.astype(self.dtype)
        bias = jnp.expand_dims(self.bias.astype(dtype), range(activations.ndim - 1))
        return product(*operands, contract, dtype) + bias


class Rows(NamedTuple):
    """What is kept of each row of logits, all (N, T, U)."""

    blank_log_probs: jax.Array
    label_log_probs: jax.Array
    maxima: jax.Array
    log_sums: jax.Array


def logits(
    weights: Weights, labels: jax.Array, activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """All logits (..., T, U, V), for weights of any number of batch dimensions.

    Args:
        weights: the operands.
        labels: (..., T, U), each row's own; rows of padding have any logits and no gradient.
        activation: elementwise.
    """
    dtype = accumulator_dtype(weights.dtype)
    encoder, predictor = weights.encoder.astype(dtype), weights.predictor.astype(dtype)
    sums = encoder[..., None, :] + predictor[..., None, :, :]
    inside = reference.is_read(labels, weights.kernel.shape[-1])[..., None]
    # A row without a gradient adds none to the kernel's, which it shares with the others.
    values = jnp.where(inside, lax.stop_gradient(activation(sums)), 0)
    usable = inside & jnp.isfinite(values.astype(weights.dtype)).all(-1, keepdims=True)
    activations = jnp.where(usable, activation(jnp.where(usable, sums, 0)), values)
    return _project_usable(weights, activations, usable)


@jax.custom_jvp
def _project_usable(weights, activations, usable):
    """Logits, to whose derivative with respect to the kernel only usable rows add."""
    del usable
    return weights.project(activations)


@_project_usable.defjvp
def _project_usable_jvp(primals, tangents):
    weights, activations, usable = primals
    weights_tangents, activations_tangents, _ = tangents
    usable_activations = jnp.where(usable, activations, 0)
    zero_bias = weights._replace(bias=jnp.zeros_like(weights.bias))
    tangent = zero_bias.project(activations_tangents)
    tangent += weights_tangents.project(usable_activations)
    return _project_usable(*primals), tangent


def product(a, b, contract, dtype=None):
    """The matrix product over the dimensions `contract` of a and of b."""
    return lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=dtype)
