"""The padded lattice in jax.numpy: alpha over T frames and U columns of one sequence.

alpha(0, 0) = 1
alpha(t, u) = alpha(t - 1, u) P_blank(t - 1, u) + alpha(t, u - 1) P_label(t, u - 1)
cost = -log(alpha(T - 1, U - 1) P_blank(T - 1, U - 1))
"""

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt._xla.program import one_program
from jax_rnnt.reference.axes import positions, skew
from jax_rnnt.reference.kept import arc_cotangents, keep_posteriors
from jax_rnnt.reference.scaled import (
    ZERO_EXPONENT,
    Scaled,
    add,
    log,
    multiply,
    normalize,
    split,
)


def valid_lengths(
    frames_lengths: jax.Array, labels_lengths: jax.Array, T: int, U: int
) -> jax.Array:
    """Whether a sequence with these lengths fits in (T, U) cells."""
    return (
        (frames_lengths >= 1) & (frames_lengths <= T) & (labels_lengths >= 0) & (labels_lengths < U)
    )


@one_program
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
    column = positions(U, blank_log_probs.ndim, -1)
    frame = positions(T, blank_log_probs.ndim, -2)
    inside = valid[..., None, None] & (frame <= last_frame[..., None, None])
    senseless, arcs = False, []
    # Label arcs of the last column lead out of the lattice, and so do blank arcs of the last frame
    # from any other column.
    column_left = last_label[..., None, None] - column
    blank_stays = (column_left == 0) | (frame < last_frame[..., None, None])
    for log_probs, stays in ((blank_log_probs, blank_stays), (label_log_probs, column_left > 0)):
        used = jnp.where(inside & stays & (column_left >= 0), log_probs, -jnp.inf)
        # Arcs of NaN and +inf are taken out, so that no derivative meets them.
        wrong = ~(used < jnp.inf)
        senseless |= wrong.any((-2, -1))
        arcs.append(split(skew(jnp.where(wrong, -jnp.inf, used))))
    blank, label = arcs
    column = column[..., 0, :]
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
) -> tuple[jax.Array, ...]:
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
    unused_totals: jax.Array,
    cotangents: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The arcs' cotangents (..., T, U) from those of the costs (...)."""
    del (
        blank_log_probs,
        label_log_probs,
        frames_lengths,
        labels_lengths,
        unused_totals,
    )
    return arc_cotangents(kept_posteriors, cotangents[..., None, None])


def _shift_right(x, fill):
    pad = [(0, 0)] * (x.ndim - 1) + [(1, 0)]
    return jnp.pad(x[..., :-1], pad, constant_values=fill)
