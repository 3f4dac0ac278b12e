"""The joint network: what its logits are computed from, and all of them as one array.

logits[n, t, u] = dropout(activation(encoder[n // K, t] + predictor[n, u])) @ kernel + bias

K sequences share the frames of an encoder: one, or several hypotheses of what was said.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt.reference.axes import positions
from jax_rnnt.rows.dropout import Dropout


class Weights(NamedTuple):
    """The joint's operands; H hidden units, W logits a row."""

    encoder: jax.Array  # (N / K, T, H)
    predictor: jax.Array  # (N, U, H)
    kernel: jax.Array  # (H, W)
    bias: jax.Array  # (W,)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the activations and of the matrix products' operands.

        The public function asks jax_numpy_dtype_promotion. What is traced later does not, as the
        option may be another one by then.
        """
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(*(x.dtype for x in self))

    @property
    def hypotheses(self) -> int:
        """K."""
        return self.predictor.shape[0] // max(self.encoder.shape[0], 1)

    def project(self, activations: jax.Array) -> jax.Array:
        """Logits (..., W) of activations (..., H), in the accumulator's dtype."""
        bias = self.bias.astype(accumulator_dtype(self.dtype))
        return self.product(activations) + jnp.expand_dims(bias, range(activations.ndim - 1))

    def product(self, activations: jax.Array) -> jax.Array:
        """Logits without their bias.

        If they were rounded to a half dtype, forward and backward would have to round them alike:
        the gradient at a symbol of probability near 1 is what two numbers leave of each other.
        """
        dtype = accumulator_dtype(self.dtype)
        contract = (activations.ndim - 1,), (0,)
        operands = activations.astype(self.dtype), self.kernel.astype(self.dtype)
        return product(*operands, contract, dtype)


def logits(
    weights: Weights,
    labels: jax.Array,
    activation: Callable[[jax.Array], jax.Array],
    dropout: Dropout,
    tokens: int,
) -> jax.Array:
    """All logits (..., K, T, U, W), for weights of any number of batch dimensions.

    Args:
        weights: the operands, encoder (..., T, H) and predictor (..., K, U, H).
        labels: (..., K, T, U), each row's own; rows of padding have any logits and no gradient.
        activation: elementwise.
        dropout: of the activations; its sequences are (..., K).
        tokens: labels are in [0, tokens).
    """
    dtype = accumulator_dtype(weights.dtype)
    encoder, predictor = weights.encoder.astype(dtype), weights.predictor.astype(dtype)
    sums = encoder[..., None, :, None, :] + predictor[..., None, :, :]
    rank, (T, U) = labels.ndim, labels.shape[-2:]
    places = dropout.sequences[..., None, None], positions(T, rank, -2), positions(U, rank, -1)

    def activate(sums):
        return dropout.apply(activation, sums, *places)

    return logits_of_sums(weights, sums, reference.is_read(labels, tokens), activate)


def logits_of_sums(
    weights: Weights,
    sums: jax.Array,
    inside: jax.Array,
    activate: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Logits (..., W) of sums (..., H), of which those not `inside` (...) are padding."""
    inside = inside[..., None]
    # A row without a gradient adds none to the kernel's, which it shares with the others.
    values = jnp.where(inside, lax.stop_gradient(activate(sums)), 0)
    usable = inside & jnp.isfinite(values.astype(weights.dtype)).all(-1, keepdims=True)
    activations = jnp.where(usable, activate(jnp.where(usable, sums, 0)), values)
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


def zeros_of_sequences(cells: jax.Array) -> jax.Array:
    """A zero for each sequence of cells (..., T, U).

    It depends on the sequence, as its cotangent does: vmap must batch both.
    """
    first = cells[..., 0, 0]
    return jnp.where(jnp.isnan(first), 0, jnp.zeros_like(first))


def clamp_gradient(logits: jax.Array, clamp: float) -> tuple[jax.Array, jax.Array]:
    """Logits (..., T, U, W) whose gradient is clamped, and a zero for each sequence (...).

    Whoever adds the zeros to the costs says with their cotangents g how the costs are weighed:
    logits' gradients are clamped to [-clamp |g|, clamp |g|], those of a cost to [-clamp, clamp].
    """
    unit = zeros_of_sequences(logits[..., 0]).astype(accumulator_dtype(logits.dtype))
    return _clamp_gradient(logits, unit, clamp)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _clamp_gradient(logits, unit, clamp):
    del clamp
    return logits, unit


def _clamp_forward(logits, unit, clamp):
    del clamp
    return (logits, unit), None


def _clamp_backward(clamp, _, cotangents):
    gradients, unit = cotangents
    bounds = jnp.expand_dims(clamp * jnp.abs(unit), range(unit.ndim, gradients.ndim))
    bounds = bounds.astype(gradients.dtype)
    return lax.clamp(*jnp.broadcast_arrays(-bounds, gradients, bounds)), unit


_clamp_gradient.defvjp(_clamp_forward, _clamp_backward)


def product(a, b, contract, dtype=None):
    """The matrix product over the dimensions `contract` of a and of b."""
    return lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=dtype)
