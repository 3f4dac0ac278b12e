"""Rows of a band of columns: their labels, and a joint network's logits on them.

A band is `columns` (..., T): frame t holds the columns columns[t] + [0, S) of the predictor. With a
few columns a frame the logits (..., T, S, V) are an array as any other, in the dtype of the matrix
products; a walk over tiles would take twice the time, for less memory (see `joint_tiles`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.rows import joint_network
from jax_rnnt.rows.activations import check_closure
from jax_rnnt.rows.dropout import Dropout
from jax_rnnt.rows.joint_entries import Joint
from jax_rnnt.rows.pick import ColumnLabels


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["joint", "columns"], meta_fields=["width"]
)
@dataclasses.dataclass(frozen=True)
class BandJoint:
    """What the rows (..., T, S, V) of a band are computed from, or (..., K, T, S, V)."""

    joint: Joint
    columns: jax.Array  # (..., T) int32, or (..., K, T) of K hypotheses
    width: int  # S

    @property
    def shape(self) -> tuple[int, ...]:
        *leading, _, V = self.joint.shape
        return *leading, self.width, V


@dataclasses.dataclass(frozen=True)
class BandJointPicks:
    """`pick`, a function from logits and labels by row to log-probabilities, of a joint's band.

    Gives the units of `joint_network.clamp_gradient` as well, None without a clamp.
    """

    pick: Callable

    def __call__(
        self, band: BandJoint, labels: jax.Array, *, blank: int, implementation: str | None
    ) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
        inside = reference.is_read(labels, band.shape[-1])
        logits, broken = _band_logits(band, inside, implementation)
        clamp, unit = band.joint.clamp, None
        if clamp is not None:
            logits, unit = joint_network.clamp_gradient(logits, clamp)
        picks = self.pick(logits, labels, blank=blank, implementation=implementation)
        if broken is not None:
            picks = tuple(jnp.where(broken, jnp.nan, x) for x in picks)
        return tuple(picks), unit


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


def _band_logits(
    band: BandJoint, inside: jax.Array, implementation: str | None
) -> tuple[jax.Array, jax.Array | None]:
    """Logits (..., T, S, V), and which rows (..., T, S) have activations that are no numbers.

    Those rows, and rows not `inside`, have the logits of activations that are 0, and add nothing to
    any gradient. None: the logits say it themselves.
    """
    joint, columns = band.joint, band.columns
    if not joint.has_hypotheses:
        columns, inside = columns[..., None, :], inside[..., None, :, :]
    weights = joint.weights
    dropout = joint.dropout_of(weights)
    places = dropout.seed, dropout.sequences
    rows = _Rows(weights.encoder, weights.predictor, columns, inside, places)
    how = _How(band.width, joint.activation, dropout.threshold, weights.dtype)
    if implementation == "reference":
        activate = functools.partial(_activate, rows, how)
        logits = joint_network.logits_of_sums(weights, _sums(rows, how), inside, activate)
        broken = None
    else:
        check_closure(joint.activation, accumulator_dtype(weights.dtype))
        leaves, tree = jax.tree.flatten(rows)
        activations, finite = _activations(jax.tree.unflatten(tree, vary_alike(*leaves)), how)
        kernel, bias = weights.kernel.astype(how.dtype), weights.bias.astype(how.dtype)
        logits = _project(*vary_alike(activations, kernel, bias))
        broken = inside & ~finite
    if joint.has_hypotheses:
        return logits, broken
    return logits.squeeze(-4), None if broken is None else broken.squeeze(-3)


class _Rows(NamedTuple):
    """What activations (..., K, T, S, H) are computed from, of K predictors of one encoder."""

    encoder: jax.Array  # (..., T, H)
    predictor: jax.Array  # (..., K, U, H)
    columns: jax.Array  # (..., K, T)
    inside: jax.Array  # (..., K, T, S)
    dropout: tuple[jax.Array, jax.Array]  # its seed and sequences (..., K)


class _How(NamedTuple):
    width: int  # S
    activation: Callable
    dropout: int  # the threshold
    dtype: np.dtype  # of the products

    @property
    def wide(self) -> np.dtype:
        return accumulator_dtype(self.dtype)


def _sums(rows: _Rows, how: _How) -> jax.Array:
    """(..., K, T, S, H), of the encoder's rows and those of the predictor that the band has."""
    flat = _flat_columns(rows.columns, how.width)[..., None]
    found = jnp.take_along_axis(rows.predictor, flat, -2, mode="clip")
    found = found.reshape(*rows.columns.shape, how.width, found.shape[-1])
    encoder = rows.encoder[..., None, :, None, :]
    return encoder.astype(how.wide) + found.astype(how.wide)


def _activate(rows: _Rows, how: _How, sums: jax.Array) -> jax.Array:
    column = band_columns(rows.columns, how.width)
    _, sequences = rows.dropout
    places = sequences[..., None, None], positions(column.shape[-2], column.ndim, -2), column
    return Dropout(*rows.dropout, how.dropout).apply(how.activation, sums, *places)


def _flat_columns(columns, width):
    """(..., T S), columns of all rows of all frames."""
    return band_columns(columns, width).reshape(*columns.shape[:-1], columns.shape[-1] * width)


@custom_vjp(1)
def _activations(rows, how):
    """(..., K, T, S, H) in the products' dtype, and which rows are numbers; the others are 0."""
    values = _activate(rows, how, _sums(rows, how)).astype(how.dtype)
    finite = rows.inside & jnp.isfinite(values).all(-1)
    return jnp.where(finite[..., None], values, 0), finite


def _activations_forward(rows, how):
    values, finite = _activations(rows, how)
    return (values, finite), rows._replace(inside=finite)


def _activations_backward(how, rows, cotangents):
    # Sums are computed again, instead of being kept in the accumulator's dtype.
    encoder, predictor = lax.optimization_barrier((rows.encoder, rows.predictor))
    rows, usable = rows._replace(encoder=encoder, predictor=predictor), rows.inside[..., None]
    sums = jnp.where(usable, _sums(rows, how), 0)
    _, pull = jax.vjp(functools.partial(_activate, rows, how), sums)
    (to_sums,) = pull(cotangents[0].astype(sums.dtype))
    to_sums = jnp.where(usable, to_sums, 0)
    to_encoder = to_sums.sum((-4, -2))
    # A product with ones, so that each column's rows are summed in one order.
    flat = _flat_columns(rows.columns, how.width)
    is_own = flat[..., None] == positions(predictor.shape[-2], flat.ndim + 1, -1)
    to_predictor = jnp.einsum(
        "...ru,...rh->...uh",
        is_own.astype(how.dtype),
        to_sums.astype(how.dtype).reshape(*flat.shape, predictor.shape[-1]),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=how.wide,
    )
    nothing: Any = None  # of integers
    to_encoder, to_predictor = (
        to_encoder.astype(encoder.dtype),
        to_predictor.astype(predictor.dtype),
    )
    return (_Rows(to_encoder, to_predictor, nothing, nothing, nothing),)


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
    _, pull = jax.vjp(lambda a, b: joint_network.product(a, b, contract), activations, finite)
    wide = cotangents.astype(accumulator_dtype(cotangents.dtype))
    to_bias = wide.sum(range(wide.ndim - 1))
    return *pull(cotangents), to_bias.astype(kernel.dtype)


_project.defvjp(_project_forward, _project_backward)
