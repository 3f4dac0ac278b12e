"""The definition of what jax_rnnt computes, in jax.numpy.

Rows: a log-softmax of which the blank's and the row's own label's entries are kept.
Lattice: alpha over the (frame, label) lattice of one sequence,

    alpha(0, 0) = 1
    alpha(t, u) = alpha(t - 1, u) P_blank(t - 1, u) + alpha(t, u - 1) P_label(t, u - 1)
    cost = -log(alpha(T - 1, U - 1) P_blank(T - 1, U - 1))

Every probability is carried as `mantissa * 2**exponent` with the exponent in an array of its own,
so no step takes a logarithm of a whole prefix and float32 keeps its precision at any length (a
float32 log alpha near 10,000 is good to 0.001 only). The exponents are constants to autodiff; the
mantissas carry the derivative, and since the cotangent of a mantissa is (posterior / mantissa) it
needs no scaling either. `log_softmax_pick` and `lattice_cost` are therefore differentiable twice.

They serve platforms without kernels and are the oracle of the tests.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt._xla.dtypes import accumulator_dtype, bits_dtype

# Row labels: a label in [0, V), kNoLabel where only the blank leaves the row, anything else outside
# [0, V) for a padding row.
NO_LABEL = -1
PADDING_ROW = -2

# The exponent of zero: below every exponent that a sum of finite log-probabilities reaches, and far
# enough from the lowest float32 that adding arcs to it cannot overflow.
ZERO_EXPONENT = -1e37


class Scaled(NamedTuple):
    """A non-negative number `mantissa * 2**exponent`; both float arrays, the exponent whole."""

    mantissa: jax.Array
    exponent: jax.Array


def split(log_probs: jax.Array) -> Scaled:
    """exp(log_probs) as a mantissa in [2**-0.5, 2**0.5] and an exponent; -inf becomes zero."""
    possible = log_probs * _LOG2_E >= ZERO_EXPONENT
    finite = jnp.where(possible, log_probs, 0)
    constant = lax.stop_gradient(finite)
    exponent = jnp.round(constant * _LOG2_E)
    # Two-part log(2): the product with the high part is exact for exponents below 2**13. Where the
    # exponent is too large for a fraction, there is none.
    fraction = (constant - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    largest = 2.0 ** (jnp.finfo(log_probs.dtype).nmant - 1)
    fraction = jnp.where(jnp.abs(exponent) < largest, fraction, 0)
    mantissa = jnp.exp(fraction + (finite - constant))
    return Scaled(
        jnp.where(possible, mantissa, 0),
        jnp.where(possible, exponent, ZERO_EXPONENT),
    )


def multiply(a: Scaled, b: Scaled) -> Scaled:
    return Scaled(a.mantissa * b.mantissa, a.exponent + b.exponent)


def add(a: Scaled, b: Scaled) -> Scaled:
    exponent = jnp.maximum(a.exponent, b.exponent)
    return normalize(
        Scaled(
            a.mantissa * _power_of_two(a.exponent - exponent)
            + b.mantissa * _power_of_two(b.exponent - exponent),
            exponent,
        )
    )


def normalize(a: Scaled) -> Scaled:
    """The same number with its mantissa in [0.5, 1), or zero with the exponent of zero."""
    dtype = a.mantissa.dtype
    info = jnp.finfo(dtype)
    bits = lax.bitcast_convert_type(lax.stop_gradient(a.mantissa), f"int{info.bits}")
    shift = ((bits >> info.nmant) - (info.maxexp - 2)).astype(dtype)  # the sign bit is 0
    exponent = jnp.where(a.mantissa == 0, ZERO_EXPONENT, a.exponent + shift)
    return Scaled(a.mantissa * _power_of_two(-shift), exponent)


def log(a: Scaled) -> jax.Array:
    """Natural logarithm; zero gives -inf with a zero derivative."""
    zero = a.mantissa == 0
    mantissa_log = jnp.log(jnp.where(zero, 1, a.mantissa))
    # In float32 the exponent times log(2) loses an ulp of a number near 10,000 unless it is split.
    value = a.exponent * _LN2_HIGH + (a.exponent * _LN2_LOW + mantissa_log)
    return jnp.where(zero, -jnp.inf, value)


_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693359375  # ten bits, exact in every dtype
_LN2_LOW = -2.1219444005469057e-4


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """2**exponent for whole floats, exactly; 0 below the dtype's normal numbers."""
    lowest = jnp.finfo(exponent.dtype).minexp
    whole = jnp.maximum(exponent, lowest).astype(jnp.int32)
    power = jnp.ldexp(jnp.ones_like(exponent), whole)
    return lax.stop_gradient(jnp.where(exponent < lowest, 0, power))


def log_softmax_pick(
    logits: jax.Array, labels: jax.Array, *, blank: int
) -> tuple[jax.Array, jax.Array]:
    """The two entries of each row's log-softmax that a lattice needs.

    Args:
        logits: (..., V) floats.
        labels: (...) int32, one a row; see NO_LABEL and PADDING_ROW.
        blank: in [0, V).

    Returns:
        (blank_log_probs, label_log_probs), each (...) nats, float32 or float64.
    """
    blank_log_probs, label_log_probs, _, _ = pick_forward(logits, labels, blank=blank)
    return blank_log_probs, label_log_probs


def is_read(labels: jax.Array, vocabulary: int) -> jax.Array:
    """Whether a row with this label is more than padding."""
    return (labels >= NO_LABEL) & (labels < vocabulary)


def expand_columns(labels: jax.Array, counts: jax.Array, lines: int) -> jax.Array:
    """Each row's label of rows (..., R, C) that are labelled by column.

    Args:
        labels: (..., C) int32.
        counts: (...) int32; row [..., r, c] is padding where r >= counts.
        lines: R.

    Returns:
        (..., R, C) int32.
    """
    inside = jnp.arange(lines, dtype=jnp.int32)[:, None] < counts[..., None, None]
    return jnp.where(inside, labels[..., None, :], PADDING_ROW)


def pick_forward(
    logits: jax.Array, labels: jax.Array, *, blank: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """log_softmax_pick with each row's maximum and log of its sum, as the kernels return them."""
    wanted = is_read(labels, logits.shape[-1])
    rows = jnp.where(wanted[..., None], logits, 0).astype(accumulator_dtype(logits.dtype))
    # Rows without a log-softmax are taken out, so that no derivative meets their numbers.
    senseless = ~(rows < jnp.inf).all(-1)  # NaN or +inf
    impossible = (rows == -jnp.inf).all(-1)
    usable = ~senseless & ~impossible
    rows = jnp.where(usable[..., None], rows, 0)
    maxima = lax.stop_gradient(rows.max(-1))
    shifted = rows - maxima[..., None]
    log_sums = jnp.log(jnp.exp(shifted).sum(-1))
    column = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1)
    own_label = jnp.where(column == labels[..., None], shifted, 0).sum(-1)
    missing = jnp.where(senseless, jnp.nan, -jnp.inf).astype(rows.dtype)
    keep = wanted & usable
    blank_log_probs = jnp.where(keep, shifted[..., blank] - log_sums, missing)
    label_log_probs = jnp.where(keep, own_label - log_sums, missing)
    label_log_probs = jnp.where(labels >= 0, label_log_probs, -jnp.inf)
    marks = jnp.where(wanted, -missing, 0)  # of rows without a log-softmax: +inf, NaN
    return blank_log_probs, label_log_probs, maxima, jnp.where(keep, log_sums, marks)


def pick_backward(
    logits: jax.Array,
    labels: jax.Array,
    maxima: jax.Array,
    log_sums: jax.Array,
    blank_cotangents: jax.Array,
    label_cotangents: jax.Array,
    *,
    blank: int,
) -> jax.Array:
    """c_blank [v = blank] + c_label [v = label] - softmax_v (c_blank + c_label) for each row."""
    wanted = is_read(labels, logits.shape[-1])
    wanted &= (log_sums < jnp.inf) & ((blank_cotangents != 0) | (label_cotangents != 0))
    rows = jnp.where(wanted[..., None], logits, 0).astype(maxima.dtype)
    softmax = jnp.exp((rows - maxima[..., None]) - log_sums[..., None])
    column = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1)
    label_cotangents = jnp.where(labels >= 0, label_cotangents, 0)
    cotangents = (
        jnp.where(column == blank, blank_cotangents[..., None], 0)
        + jnp.where(column == labels[..., None], label_cotangents[..., None], 0)
        - softmax * (blank_cotangents + label_cotangents)[..., None]
    )
    return jnp.where(wanted[..., None], cotangents, 0).astype(logits.dtype)


def valid_lengths(
    frames_lengths: jax.Array, labels_lengths: jax.Array, T: int, U: int
) -> jax.Array:
    """Whether a sequence with these lengths fits in (T, U) cells."""
    return (
        (frames_lengths >= 1) & (frames_lengths <= T) & (labels_lengths >= 0) & (labels_lengths < U)
    )


def lattice_cost(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
) -> jax.Array:
    """-log P(labels | frames) of each sequence, by a scan over anti-diagonals.

    Args:
        blank_log_probs, label_log_probs: (..., T, U) nats.
        frames_lengths, labels_lengths: (...) int32.

    Returns:
        (...) nats; +inf where no alignment is possible, NaN where a length makes no sense or an arc
        is NaN or +inf: such costs have zero gradients.
    """
    *_, T, U = blank_log_probs.shape
    valid = valid_lengths(frames_lengths, labels_lengths, T, U)
    last_frame = jnp.where(valid, frames_lengths, 1) - 1
    last_label = jnp.where(valid, labels_lengths, 0)
    column = jnp.arange(U, dtype=jnp.int32)
    frame = jnp.arange(T, dtype=jnp.int32)[:, None]
    inside = valid[..., None, None] & (frame <= last_frame[..., None, None])
    senseless, arcs = False, []
    # Neither the last column's label arcs nor the last frame's blank arcs before it stay inside.
    column_left = last_label[..., None, None] - column
    blank_stays = (column_left == 0) | (frame < last_frame[..., None, None])
    for log_probs, stays in ((blank_log_probs, blank_stays), (label_log_probs, column_left > 0)):
        used = jnp.where(inside & stays & (column_left >= 0), log_probs, -jnp.inf)
        # Arcs of NaN and +inf are taken out, so that no derivative meets them.
        wrong = ~(used < jnp.inf)
        senseless |= wrong.any((-2, -1))
        arcs.append(split(_skew(jnp.where(wrong, -jnp.inf, used))))
    blank, label = arcs
    first = (column == 0) & jnp.ones_like(blank.mantissa[0], bool)
    dtype = blank.mantissa.dtype
    alpha = Scaled(first.astype(dtype), jnp.where(first, 0, ZERO_EXPONENT).astype(dtype))
    total = Scaled(jnp.zeros_like(alpha.mantissa[..., 0]), jnp.zeros_like(alpha.exponent[..., 0]))
    last_diagonal = last_frame + last_label

    def step(carry, diagonal):
        alpha, total = carry
        index, blank, label = diagonal
        leave = multiply(alpha, blank)
        emit = multiply(alpha, label)
        ends = (last_diagonal == index)[..., None] & (column == last_label[..., None])
        total = Scaled(*(jnp.where(ends, x, 0).sum(-1) + y for x, y in zip(leave, total)))
        return (add(leave, Scaled(*map(_shift_right, emit, (0.0, ZERO_EXPONENT)))), total), None

    diagonals = jnp.arange(T + U - 1, dtype=jnp.int32)
    (_, total), _ = lax.scan(step, (alpha, total), (diagonals, blank, label))
    return jnp.where(valid & ~senseless, -log(normalize(total)), jnp.nan)


def lattice_forward(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """lattice_cost and what lattice_backward needs; see keep_posteriors."""
    costs, vjp = jax.vjp(
        lambda blank, label: lattice_cost(blank, label, frames_lengths, labels_lengths),
        blank_log_probs,
        label_log_probs,
    )
    blank_gradients, label_gradients = vjp(jnp.ones_like(costs))
    return costs, *keep_posteriors(costs, -blank_gradients, -label_gradients)


def lattice_backward(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    kept_posteriors: jax.Array,
    unused: jax.Array,
    cotangents: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The arcs' cotangents (..., T, U) from those of the costs (...)."""
    del blank_log_probs, label_log_probs, frames_lengths, labels_lengths, unused
    return arc_cotangents(kept_posteriors, cotangents[..., None, None])


def keep_posteriors(
    costs: jax.Array, blank_posteriors: jax.Array, label_posteriors: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What a forward here leaves for its backward in place of the kernels' values and totals.

    Both arcs' posteriors (..., 2), and a pair for each sequence that nobody reads.
    """
    bits = bits_dtype(costs.dtype)
    posteriors = jnp.stack((blank_posteriors, label_posteriors), -1)
    unused = jnp.zeros((*costs.shape, 2), bits)
    return lax.bitcast_convert_type(posteriors, bits), unused


def arc_cotangents(
    kept_posteriors: jax.Array, cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """-posterior x cotangent, zero where either is: inf and NaN cotangents go no further."""
    posteriors = lax.bitcast_convert_type(kept_posteriors, cotangents.dtype)
    cotangents = cotangents[..., None]
    used = (posteriors != 0) & (cotangents != 0)
    products = jnp.where(used, -posteriors * jnp.where(used, cotangents, 0), 0)
    return products[..., 0], products[..., 1]


def _shift_right(x, fill):
    pad = [(0, 0)] * (x.ndim - 1) + [(1, 0)]
    return jnp.pad(x[..., :-1], pad, constant_values=fill)


def _skew(x: jax.Array) -> jax.Array:
    """(..., T, U) to (T + U - 1, ..., U): entry [s, ..., u] is x[..., s - u, u], -inf outside."""
    *batch, T, U = x.shape
    x = jnp.swapaxes(x, -1, -2)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, U)], constant_values=-jnp.inf)
    x = x.reshape(*batch, U * (T + U))[..., : U * (T + U - 1)]
    return jnp.moveaxis(x.reshape(*batch, U, T + U - 1), -1, 0)
