"""The simple joint, a sum of two projections to symbols, as a source of arcs."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt.losses import layouts
from jax_rnnt.rows import simple


def simple_arcs(
    encoder: ArrayLike,
    predictor: ArrayLike,
    labels: ArrayLike,
    frames_lengths: ArrayLike | None = None,
    labels_lengths: ArrayLike | None = None,
    *,
    blank: int = 0,
    lm_scale: float = 0.25,
) -> tuple[jax.Array, jax.Array]:
    r"""Both arcs of a joint network that is no more than a sum, without an array of T U V.

    .. math::
        joint(t, u, v) &= \log softmax_v(encoder_t + predictor_u), \\
        arc(t, u, v) &= (1 - lm\_scale) \, joint(t, u, v) + lm\_scale \log softmax_v(predictor_u)

    k2's `rnnt_loss_smoothed` without its `am_scale`; with lm_scale 0 `rnnt_loss_simple`. A lattice
    of these arcs tells cheaply where the alignments of the real joint will be: see
    `prune_ranges`. Arcs of lm_scale above 0 are no distribution.

    Matrix products take the place of the array, one in the forward and two in the gradient. They
    are exact to float32, but on CUDA of two bfloat16 halves of each factor: posteriors are within
    1e-5. Cells in which encoder and predictor have no likely symbol in common, of which a product
    loses all terms, are computed by themselves. Sums have a fixed order: the same inputs give the
    same bits.

    Args:
        encoder: (..., T, V) nats, the encoder's output projected to symbols ("am"); float32,
            bfloat16, float16 or float64.
        predictor: (..., U, V), the predictor's ("lm"), U = longest label sequence + 1. Projections
            are best not rounded to 16 bits: that alone moves posteriors by 0.2.
        labels: (..., U - 1) integers, padded with anything.
        frames_lengths: (...) integers T_n in [1, T]; None: all T.
        labels_lengths: (...) integers U_n in [0, U - 1]; None: all U - 1.
        blank: index of the blank; negative counts from the end.
        lm_scale: in [0, 1), known in advance; how much of the weights is the predictor's alone.

    Returns:
        (blank, label), each (..., T, U) nats, float32 (float64 if any input is), as
        `log_softmax_pick` gives them: -inf where there is no such arc, NaN where NaN or +inf stands
        within the lengths, or where traced lengths or labels make no sense. Differentiable once
        with respect to encoder and predictor.

    Raises:
        TypeError: If encoder or predictor are not floats, or labels or lengths not integers.
        ValueError: If shapes do not fit, lm_scale is not in [0, 1), or concrete lengths or labels
            are out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> am, lm = jnp.zeros((2, 5)), jnp.zeros((3, 5))  # two frames, two labels, five symbols
        >>> blank, label = jax_rnnt.simple_arcs(am, lm, jnp.array([1, 2]))
        >>> print(label[0], f"{jax_rnnt.lattice_cost(blank, label, 2, 2):.4f}")
        [-1.609438 -1.609438      -inf] 5.3391

    See Kuang et al. (2022), "Pruned RNN-T for fast, memory-efficient ASR training",
    arXiv:2206.13236.
    """
    joint = make_simple("encoder", encoder, "predictor", predictor)
    *batch, T, U, V = joint.shape
    if frames_lengths is None:
        frames_lengths = jnp.full(tuple(batch), T, jnp.int32)
    if labels_lengths is None:
        labels_lengths = jnp.full(tuple(batch), U - 1, jnp.int32)
    arrays = check_batch(joint, labels, frames_lengths, labels_lengths, None)
    return _simple_arcs(
        joint,
        *arrays,
        lm_scale=_checks.number_below("lm_scale", lm_scale, 1),
        blank=_checks.blank_index(blank, V),
    )


@functools.partial(one_program, static_argnames=("lm_scale", "blank"))
def _simple_arcs(joint, labels, frames_lengths, labels_lengths, *, lm_scale, blank):
    row_labels, sensible, _ = layouts.of_padded(
        joint, labels, frames_lengths, labels_lengths, None, 0
    )
    arcs = simple.joint_to_arcs(
        joint, row_labels, lm_scale=lm_scale, blank=blank, implementation=None
    )
    return tuple(jnp.where(sensible[..., None, None], x, jnp.nan) for x in arcs)


def make_simple(encoder_name, encoder, predictor_name, predictor) -> simple.SimpleJoint:
    """The simple joint of a caller's arguments; TypeError or ValueError if they do not make one."""
    encoder = _checks.floats(encoder_name, encoder)
    predictor = _checks.floats(predictor_name, predictor)
    if encoder.ndim < 2 or 0 in encoder.shape[-2:]:
        raise ValueError(
            f"{encoder_name} must have shape (..., T, V) with T and V at least 1, "
            f"got {encoder.shape}."
        )
    *batch, _, V = encoder.shape
    U = predictor.shape[-2] if predictor.ndim >= 2 else 0
    if predictor.shape != (*batch, U, V) or not U:
        raise ValueError(
            f"{predictor_name} must have shape (..., U, V) = "
            f"({', '.join(map(str, (*batch, 'U', V)))}) with U at least 1 for {encoder_name} "
            f"{encoder.shape}, got {predictor.shape}."
        )
    jnp.promote_types(encoder.dtype, predictor.dtype)  # TypePromotionError where it is strict
    return simple.SimpleJoint(encoder, predictor)


def check_batch(rows, labels, frames_lengths, labels_lengths, where) -> list[_checks.Integers]:
    """labels, frames_lengths and labels_lengths of rows (..., T, U, V); TypeError, ValueError."""
    labels = _checks.integers("labels", labels)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    layouts.check_padded("logits", rows, labels, frames_lengths, labels_lengths, where, 0)
    return [labels, frames_lengths, labels_lengths]
