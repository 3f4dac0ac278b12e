"""Rows of a band of columns: their labels, and a joint network's logits on them.

A band is `columns` (..., T): frame t holds the columns columns[t] + [0, S) of the predictor. With a
few columns a frame the logits (..., T, S, V) are an array as any other, in the dtype of the matrix
products; a walk over tiles would take twice the time (`joint_tiles`), for less memory.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.rows import joint_network
from jax_rnnt.rows.activations import check_closure
from jax_rnnt.rows.pick import ColumnLabels


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "columns"],
    meta_fields=["width", "activation"],
)
@dataclasses.dataclass(frozen=True)
class BandJoint:
    """What the rows (..., T, S, V) of a band are computed from."""

    weights: joint_network.Weights
    columns: jax.Array  # (..., T) int32
    width: int  # S
    activation: Callable[[jax.Array], jax.Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.weights.encoder.shape[:-1], self.width, self.weights.kernel.shape[-1]


@dataclasses.dataclass(frozen=True)
class JointPicks:
    """`pick`, a function from logits and labels by row to log-probabilities, of a joint's band."""

    pick: Callable

    def __call__(
        self, joint: BandJoint, labels: jax.Array, *, blank: int, implementation: str | None
    ) -> tuple[jax.Array, ...]:
        inside = reference.is_read(labels, joint.shape[-1])
        logits, finite = band_logits(joint, inside, implementation)
        picks = self.pick(logits, labels, blank=blank, implementation=implementation)
        # Logits of activations that are no numbers are none either; they were left out of products.
        return tuple(jnp.where(finite | ~inside, x, jnp.nan) for x in picks)


def band_labels(labels: ColumnLabels, columns: jax.Array, width: int) -> jax.Array:
    """(..., T, S), the label of each row of a band; rows beyond the columns are padding."""
    T, U = columns.shape[-1], labels.labels.shape[-1]
    column = band_columns(columns, width)
    inside = positions(T, column.ndim, -2) < labels.counts[..., None, None]
    inside &= (column >= 0) & (column < U)
    own = jnp.take_along_axis(labels.labels[..., None, :], column, -1, mode="clip")
    return jnp.where(inside, own, reference.PADDING_ROW)


def band_columns(columns: jax.Array, width: int) -> jax.Array:
    """(..., T, S), the column of each row of a band."""
    return columns[..., None] + positions(width, columns.ndim + 1, -1)


def band_logits(
    joint: BandJoint, inside: jax.Array, implementation: str | None
) -> tuple[jax.Array, jax.Array]:
    """Logits (..., T, S, V) of a band, and which rows (..., T, S) have finite activations.

    Rows without, and those not `inside`, have the logits of activations that are 0, and add nothing
    to any gradient.
    """
    weights = joint.weights
    dtype = accumulator_dtype(weights.dtype)
    operands = weights.encoder, weights.predictor, joint.columns, inside
    if implementation == "reference":
        sums = _sums(*operands[:3], joint.width, dtype)
        values = lax.stop_gradient(joint.activation(sums)).astype(weights.dtype)
        finite = inside & jnp.isfinite(values).all(-1)
        sums = jnp.where(finite[..., None], sums, 0)
        activations = jnp.where(finite[..., None], joint.activation(sums), 0)
        return weights.project(activations), finite
    check_closure(joint.activation, dtype)
    activations, finite = _activations(
        *vary_alike(*operands), joint.width, joint.activation, weights.dtype
    )
    kernel, bias = weights.kernel.astype(weights.dtype), weights.bias.astype(weights.dtype)
    return _project(*vary_alike(activations, kernel, bias)), finite


def _sums(encoder, predictor, columns, width, dtype):
    """(..., T, S, H), of the encoder's rows and the predictor's that the band has."""
    flat = _flat_columns(columns, width)[..., None]
    rows = jnp.take_along_axis(predictor, flat, -2, mode="clip")
    rows = rows.reshape(*columns.shape, width, predictor.shape[-1])
    return encoder[..., None, :].astype(dtype) + rows.astype(dtype)


def _flat_columns(columns, width):
    column = band_columns(columns, width)
    return column.reshape(*columns.shape[:-1], columns.shape[-1] * width)


@custom_vjp(4, 5, 6)
def _activations(encoder, predictor, columns, inside, width, activation, dtype):
    """(..., T, S, H) in the products' dtype, and (..., T, S), which are numbers; others are 0."""
    sums = _sums(encoder, predictor, columns, width, accumulator_dtype(dtype))
    values = activation(sums).astype(dtype)
    finite = inside & jnp.isfinite(values).all(-1)
    return jnp.where(finite[..., None], values, 0), finite


def _activations_forward(encoder, predictor, columns, inside, *options):
    values, finite = _activations(encoder, predictor, columns, inside, *options)
    return (values, finite), (encoder, predictor, columns, finite)


def _activations_backward(width, activation, dtype, residuals, cotangents):
    encoder, predictor, columns, finite = residuals
    # Sums are computed again, and not kept in the accumulator's dtype.
    encoder, predictor = lax.optimization_barrier((encoder, predictor))
    sums = _sums(encoder, predictor, columns, width, accumulator_dtype(dtype))
    usable = finite[..., None]
    _, pull = jax.vjp(activation, jnp.where(usable, sums, 0))
    (slopes,) = pull(cotangents[0].astype(sums.dtype))
    to_sums = jnp.where(usable, slopes, 0)
    to_encoder = to_sums.sum(-2)
    # A product with ones: each sum is over its rows in one order, in the accumulator's dtype.
    flat = _flat_columns(columns, width)
    is_own = flat[..., None] == positions(predictor.shape[-2], flat.ndim + 1, -1)
    rows = to_sums.astype(dtype).reshape(*flat.shape, predictor.shape[-1])
    to_predictor = jnp.einsum(
        "...ru,...rh->...uh",
        is_own.astype(dtype),
        rows,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=sums.dtype,
    )
    return to_encoder.astype(encoder.dtype), to_predictor.astype(predictor.dtype), None, None


_activations.defvjp(_activations_forward, _activations_backward)


@custom_vjp()
def _project(activations, kernel, bias):
    """Logits (..., V) of activations (..., H), all in one dtype."""
    contract = (activations.ndim - 1,), (0,)
    logits = joint_network.product(activations, kernel, contract)
    return logits + jnp.expand_dims(bias, range(logits.ndim - 1))


def _project_forward(activations, kernel, bias):
    return _project(activations, kernel, bias), (activations, kernel)


def _project_backward(residuals, cotangents):
    activations, kernel = residuals
    contract = (activations.ndim - 1,), (0,)
    # Logits of a weight that is no number have no gradient, and 0 times it would be none either.
    finite = jnp.where(jnp.isfinite(kernel), kernel, 0)
    _, pull = jax.vjp(lambda *x: joint_network.product(*x, contract), activations, finite)
    wide = cotangents.astype(accumulator_dtype(cotangents.dtype))
    to_bias = wide.sum(range(wide.ndim - 1))
    return *pull(cotangents), to_bias.astype(kernel.dtype)


_project.defvjp(_project_forward, _project_backward)
