"""Arcs of the simple joint, whose logits are the sum of the encoder's and the predictor's.

    logits[n, t, u] = encoder[n, t] + predictor[n, u]

No array of T U V exists: the normaliser is a product of matrices,

    log sum_v exp logits[n, t, u, v] = log (exp(encoder - a) @ exp(predictor - p)^T)[t, u] + a + p

with a and p the rows' maxima. It loses what is below the smallest number, in float32 87 nats: all
terms of a cell of which no symbol is likely in both. Such cells are summed again exactly, column
after column, if there are any. Sums have a fixed order, and what stands in padding has no effect.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla import ffi
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.rows.pick import ColumnLabels

# Products of bfloat16 are for tensor cores from here on.
_HALVES_CAPABILITY = 8, 0


class SimpleJoint(NamedTuple):
    """What rows (..., T, U, V) are sums of."""

    encoder: jax.Array  # (..., T, V)
    predictor: jax.Array  # (..., U, V)

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.encoder.shape[:-1], *self.predictor.shape[-2:]


class _Half(NamedTuple):
    """What there is to know of the rows (..., R, V) of encoder or predictor."""

    maxima: jax.Array  # (..., R), 0 where the row is not usable
    inside: jax.Array  # (..., R), not padding
    sensible: jax.Array  # without NaN and +inf
    usable: jax.Array  # inside, sensible, and not of -inf alone


class _Kept(NamedTuple):
    """What a forward keeps for its backward, all of finite numbers."""

    joint: SimpleJoint
    labels: ColumnLabels
    inverse: jax.Array  # (..., T, U) of the sums; 0 where they are not the product's
    logs: jax.Array  # (..., T, U) logarithms of the sums that are `lost` in the product
    lost: jax.Array  # (..., T, U)


def joint_to_arcs(
    joint: SimpleJoint,
    labels: ColumnLabels,
    *,
    lm_scale: float,
    blank: int,
    implementation: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Both arcs' log-weights (..., T, U), lm_scale of them the predictor's alone.

    Args:
        joint: of floats of any of the dtypes; the arcs are in the accumulator's.
        labels: by column.
        lm_scale: in [0, 1).
        blank: in [0, V).
        implementation: "reference" for rows of logits as an array, differentiable twice.
    """
    if implementation == "reference":
        return _plain_arcs(joint, labels, lm_scale, blank)
    leaves, tree = jax.tree.flatten((joint, labels))
    return _arcs(*jax.tree.unflatten(tree, vary_alike(*leaves)), lm_scale, blank)


def _plain_arcs(joint, labels, scale, blank):
    dtype = accumulator_dtype(*(x.dtype for x in joint))
    encoder, predictor = (x.astype(dtype) for x in joint)
    T = encoder.shape[-2]
    # Rows of padding hold anything: it must not reach a sum.
    frames = positions(T, labels.counts.ndim + 1, -1) < labels.counts[..., None]
    columns = reference.is_read(labels.labels, predictor.shape[-1])
    encoder = jnp.where(frames[..., None], encoder, 0)
    predictor = jnp.where(columns[..., None], predictor, 0)
    logits = encoder[..., None, :] + predictor[..., None, :, :]
    arcs = reference.log_softmax_pick(logits, labels.of_rows(T), blank=blank)
    if not scale:
        return arcs
    own = reference.log_softmax_pick(predictor, labels.labels, blank=blank)
    return tuple((1 - scale) * x + scale * y[..., None, :] for x, y in zip(arcs, own))


@custom_vjp(2, 3)
def _arcs(joint, labels, scale, blank):
    return _forward(joint, labels, scale, blank)[0]


def _forward(joint, labels, scale, blank):
    encoder, predictor = halves = _halves(joint, labels)
    cells = _cells(encoder.usable, predictor.usable)
    exps = [jnp.exp(_shifted(rows, half)) for rows, half in zip(joint, halves)]
    sums = _product("...tv,...uv->...tu", *exps)
    # Each of V terms may have lost as much as the smallest number that is not denormal.
    numbers = jnp.finfo(sums.dtype)
    least = joint.shape[-1] * float(numbers.tiny) / float(numbers.eps)
    lost = cells & ~(sums > least)
    exact = lax.cond(
        lost.any(),
        lambda joint, halves, _: _exact_logs(joint, halves),
        lambda joint, halves, sums: sums,
        joint,
        halves,
        sums,
    )
    in_product = cells & ~lost
    logs = jnp.where(lost, exact, jnp.log(jnp.where(in_product, sums, 1)))
    exist = cells & (logs > -jnp.inf)
    logs = jnp.where(exist, logs, 0)
    own = scale * jnp.log(exps[1].sum(-1))
    senseless = _cells(encoder.inside, predictor.inside)
    senseless &= ~_cells(encoder.sensible, predictor.sensible)
    missing = jnp.where(senseless, jnp.nan, -jnp.inf).astype(sums.dtype)

    def arcs(of_encoder, of_predictor):
        """From the logits of one symbol, relative to the maxima: a frame's, and a column's."""
        value = (1 - scale) * (of_encoder - logs) + (of_predictor - own)[..., None, :]
        return jnp.where(exist, value, missing)

    has_label, symbols = _symbols(labels, joint)
    blanks = (x[..., blank].astype(sums.dtype) for x in joint)
    relative = [x - half.maxima for x, half in zip(blanks, halves)]
    blank_arcs = arcs(relative[0][..., None], relative[1])
    at_labels = jnp.take_along_axis(joint.encoder, symbols[..., None, :], -1, mode="clip")
    at_labels = at_labels.astype(sums.dtype) - encoder.maxima[..., None]
    at_columns = jnp.take_along_axis(joint.predictor, symbols[..., None], -1, mode="clip")[..., 0]
    label_arcs = arcs(at_labels, at_columns.astype(sums.dtype) - predictor.maxima)
    label_arcs = jnp.where(has_label[..., None, :], label_arcs, -jnp.inf)
    inverse = jnp.where(in_product, 1 / jnp.where(in_product, sums, 1), 0)
    kept = _Kept(joint, labels, inverse, jnp.where(lost, logs, 0), lost & exist)
    return (blank_arcs, label_arcs), kept


def _backward(scale, blank, kept, cotangents):
    joint, labels = kept.joint, kept.labels
    encoder, predictor = halves = _halves(joint, labels)
    has_label, symbols = _symbols(labels, joint)
    exist = (kept.inverse > 0) | kept.lost
    blanks = jnp.where(exist, cotangents[0], 0)
    own = jnp.where(exist & has_label[..., None, :], cotangents[1], 0)
    total = blanks + own
    away = (scale - 1) * total
    weights = away * kept.inverse
    of_frames, of_columns = (jnp.exp(_shifted(rows, half)) for rows, half in zip(joint, halves))
    symbol = positions(joint.shape[-1], joint.encoder.ndim, -1)
    to_encoder = of_frames * _product("...tu,...uv->...tv", weights, of_columns)
    to_encoder += jnp.where(symbol == blank, ((1 - scale) * blanks).sum(-1)[..., None], 0)
    to_encoder += _at_labels((1 - scale) * own, has_label, symbols, joint.shape[-1])
    to_predictor = _product("...tu,...tv->...uv", weights, of_frames)
    to_predictor -= (scale * total.sum(-2) / of_columns.sum(-1))[..., None]
    to_predictor *= of_columns
    to_predictor += jnp.where(symbol == blank, blanks.sum(-2)[..., None], 0)
    to_predictor += jnp.where(symbol == symbols[..., None], own.sum(-2)[..., None], 0)
    gradients = lax.cond(
        kept.lost.any(),
        _add_exact,
        lambda joint, halves, logs, away, gradients: gradients,
        joint,
        halves,
        kept.logs,
        jnp.where(kept.lost, away, 0),
        SimpleJoint(
            jnp.where(encoder.usable[..., None], to_encoder, 0),
            jnp.where(predictor.usable[..., None], to_predictor, 0),
        ),
    )
    return SimpleJoint(*(g.astype(x.dtype) for g, x in zip(gradients, joint))), None


_arcs.defvjp(_forward, _backward)


def _halves(joint: SimpleJoint, labels: ColumnLabels) -> tuple[_Half, _Half]:
    dtype = accumulator_dtype(*(x.dtype for x in joint))
    T, V = joint.encoder.shape[-2:]
    frames = positions(T, labels.counts.ndim + 1, -1) < labels.counts[..., None]
    columns = reference.is_read(labels.labels, V)
    return _half(joint.encoder, frames, dtype), _half(joint.predictor, columns, dtype)


def _half(rows, inside, dtype):
    maxima = jnp.where(inside, rows.max(-1).astype(dtype), 0)
    sensible = maxima < jnp.inf  # a maximum with NaN is NaN
    usable = inside & sensible & (maxima > -jnp.inf)
    return _Half(jnp.where(usable, maxima, 0), inside, sensible, usable)


def _shifted(rows: jax.Array, half: _Half) -> jax.Array:
    """Rows less their maxima; 0 where they are not usable."""
    shifted = rows.astype(half.maxima.dtype) - half.maxima[..., None]
    return jnp.where(half.usable[..., None], shifted, 0)


def _cells(of_frames, of_columns):
    return of_frames[..., None] & of_columns[..., None, :]


def _symbols(labels: ColumnLabels, joint: SimpleJoint) -> tuple[jax.Array, jax.Array]:
    """(..., U), whether a column has a label, and the label, any symbol where there is none."""
    has_label = (labels.labels >= 0) & reference.is_read(labels.labels, joint.shape[-1])
    return has_label, jnp.where(has_label, labels.labels, 0)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum of two arrays, exact to rounding or, on CUDA, nearly so."""
    exact = functools.partial(_exact_product, equation)
    is_vector = 1 in (*a.shape[-2:], *b.shape[-2:])  # no tensor core takes it
    if is_vector or a.dtype == np.float64 or not ffi.every_gpu_has(_HALVES_CAPABILITY):
        return exact(a, b)
    by_halves = functools.partial(_product_by_halves, equation)
    return lax.platform_dependent(a, b, cuda=by_halves, default=exact)


def _exact_product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(
        equation, a, b, precision=lax.Precision.HIGHEST, preferred_element_type=a.dtype
    )


def _product_by_halves(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """By two bfloat16 halves of each float32, without the product of the lower ones.

    XLA has it as the algorithm BF16_BF16_F32_X3, of which only the upper halves are left where no
    Triton product is made (--xla_gpu_enable_triton_gemm=false): costs are then off by 1e-4.
    """

    def upper_and_lower(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        upper = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)  # XLA keeps it
        return upper.astype(jnp.bfloat16), (x - upper).astype(jnp.bfloat16)

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.einsum(
            equation, x, y, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32
        )

    (upper_a, lower_a), (upper_b, lower_b) = upper_and_lower(a), upper_and_lower(b)
    return product(upper_a, upper_b) + (product(upper_a, lower_b) + product(lower_a, upper_b))


def _by_column(joint, halves):
    """Rows less their maxima: the encoder's (..., T, V), the predictor's (U, ..., V)."""
    frames, columns = (_shifted(rows, half) for rows, half in zip(joint, halves))
    return frames, jnp.moveaxis(columns, -2, 0)


def _exact_logs(joint, halves):
    """(..., T, U), the logarithms of all sums."""
    frames, columns = _by_column(joint, halves)

    def column(row):
        return jax.nn.logsumexp(frames + row[..., None, :], -1)

    return jnp.moveaxis(lax.map(column, columns), 0, -1)


def _add_exact(joint, halves, logs, away, gradients):
    """Gradients with away (..., T, U) times the softmax of each cell whose sum's log is `logs`."""
    frames, columns = _by_column(joint, halves)

    def step(total, column):
        row, logs, away = column
        exponents = frames + row[..., None, :] - logs[..., None]
        weights = jnp.where((away != 0)[..., None], away[..., None] * jnp.exp(exponents), 0)
        return total + weights, weights.sum(-2)

    cells = (jnp.moveaxis(x, -1, 0) for x in (logs, away))
    to_encoder, parts = lax.scan(step, gradients.encoder, (columns, *cells))
    return SimpleJoint(to_encoder, gradients.predictor + jnp.moveaxis(parts, 0, -2))


def _at_labels(x: jax.Array, has_label: jax.Array, symbols: jax.Array, V: int) -> jax.Array:
    """(..., T, V), at each symbol the sum of x (..., T, U) over the columns whose label it is.

    Equal labels are summed by a product, and each symbol takes the sum of its first column: no
    number is added in an order that may change.
    """
    U = symbols.shape[-1]
    same = has_label[..., None, :] & (symbols[..., None] == symbols[..., None, :])
    exact = lax.Precision.HIGHEST
    sums = jnp.einsum("...tu,...uw->...tw", x, same.astype(x.dtype), precision=exact)
    column = positions(U, symbols.ndim + 1, -2)
    symbol = positions(V, symbols.ndim + 1, -1)
    is_own = has_label[..., None] & (symbols[..., None] == symbol)
    first = jnp.where(is_own, column, U).min(-2)[..., None, :]
    found = jnp.take_along_axis(sums, jnp.minimum(first, U - 1), -1, mode="promise_in_bounds")
    return jnp.where(first < U, found, 0)
