"""The pruned RNN-T: a cheap joint that finds a band of columns, and the real joint on the band."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt.lattice import ranges
from jax_rnnt.lattice.posteriors import padded_cost_and_posteriors
from jax_rnnt.losses import checked, layouts, topologies
from jax_rnnt.losses.joint_arguments import make_joint
from jax_rnnt.losses.joint_bands import band_picks, traced_band
from jax_rnnt.losses.simple import check_batch, make_simple
from jax_rnnt.rows import simple


class PrunedLosses(NamedTuple):
    """What :func:`pruned_rnnt_loss` returns: two losses to be weighed and added."""

    simple: jax.Array
    """(...) nats, () after a reduction; of the simple joint, over all columns."""
    pruned: jax.Array
    """The same of the real joint, over the columns of the band."""


def pruned_rnnt_loss(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    simple_encoder: ArrayLike,
    simple_predictor: ArrayLike,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    width: int = 5,
    lm_scale: float = 0.25,
    activation: str | Callable[[jax.Array], jax.Array] | None = "tanh",
    average_frames: bool = False,
    reduction: str | None = None,
    blank: int = 0,
    fastemit_lambda: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    rnnt_type: str = "regular",
    normalize: str = "softmax",
    label_bias: ArrayLike | None = None,
    blank_bias: ArrayLike | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    clamp: float | None = None,
    implementation: str | None = None,
) -> PrunedLosses:
    r"""k2's pruned recipe: the loss of a simple joint, and that of the real one where it matters.

    .. math::
        simple_n &= lattice\_cost(simple\_arcs(simple\_encoder, simple\_predictor)), \\
        columns &= prune\_ranges(\text{posteriors of the simple arcs}), \\
        logits_{n,t,i} &= activation(encoder_{n,t} + predictor_{n, columns_{n,t} + i}) \, kernel
            + bias, \quad 0 \le i < S, \\
        pruned_n &= \text{the RNN-T loss of } logits \text{, with nothing leaving the band}

    An approximation of `rnnt_loss_from_joint`, from above, for a part of its time: of each frame
    the joint sees S = min(width, U) columns. Its two losses are added with weights, as in icefall's
    recipes ``0.5 * losses.simple + losses.pruned`` after a warm-up; without the simple loss, of
    which the columns know what they know, it does not train.

    Matrix products of the real joint take the promoted dtype of encoder, predictor, kernel and
    bias, and so do the logits, an array (..., T, S, V); those of the simple joint are as precise as
    float32's. Columns have no gradient. All sums are taken in one order.

    Args:
        encoder: (..., T, H), float32, bfloat16, float16 or float64.
        predictor: (..., U, H), U = longest label sequence + 1.
        kernel: (H, V).
        bias: (V,), or None for none.
        simple_encoder: (..., T, V) nats, the encoder's output projected to symbols.
        simple_predictor: (..., U, V), the predictor's; best in float32, as `simple_arcs` says.
        labels: (..., U - 1) integers, padded with anything.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        width: how many columns a frame has, at least 2, or 1 for "modified". An utterance that
            needs more ("regular", more than (width - 1) T_n labels; see `least_prune_width`) has a
            pruned loss of +inf with a gradient of zero.
        lm_scale: in [0, 1), of the simple joint; see `simple_arcs`.
        activation: as in `rnnt_loss_from_joint`.
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        blank: index of the blank; negative counts from the end.
        fastemit_lambda: FastEmit, of both losses; may be traced.
        where: (...) booleans, None for all true: sequences for which it is false are left out of
            value, gradient and mean of both.
        rnnt_type: "regular", "modified" or "constrained", of both losses.
        normalize: "softmax" or "hat", of the real joint; the simple one has a softmax.
        label_bias: floats that broadcast to (..., T, U), added to the labels' log-probabilities of
            both losses; `delay_penalty` is one.
        blank_bias: the same of the blanks.
        dropout_rate: of the real joint's activations, as in `rnnt_loss_from_joint`: the same mask.
        dropout_key: its key.
        clamp: of the real joint's logits, as in `rnnt_loss_from_joint`.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX, with the simple joint's logits as an array.

    Returns:
        :class:`PrunedLosses`, each (...) nats or, after a reduction, (); float32 (float64 for
        float64 operands). +inf and NaN, each with zero gradients, as in `rnnt_loss_from_joint`.
        What stands beyond a sequence's lengths has no effect, and its gradient is zero.

    Raises:
        TypeError: If operands or biases are not floats, labels or lengths not integers, or
            activation not hashable.
        ValueError: If shapes do not fit, concrete lengths or labels are out of range, an option is
            none of its values, or activation closes over arrays.
        NotImplementedError: If implementation="native" and the platform has no kernels, if a size
            is symbolic, or if there are several hypotheses of one encoder.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> encoder, predictor = jnp.ones((1, 4, 6)), jnp.ones((1, 4, 6))  # four frames, 3 labels
        >>> kernel, bias = jnp.ones((6, 5)), jnp.zeros(5)  # six hidden units, five symbols
        >>> am, lm = jnp.zeros((1, 4, 5)), jnp.zeros((1, 4, 5))
        >>> labels, frames, lengths = jnp.array([[1, 2, 3]]), jnp.array([4]), jnp.array([3])
        >>> losses = jax_rnnt.pruned_rnnt_loss(
        ...     encoder, predictor, kernel, bias, am, lm, labels, frames, lengths, width=2)
        >>> print(losses.simple, losses.pruned)  # of 20 alignments two are within the band
        [8.270333] [10.572918]

    See Kuang et al. (2022), "Pruned RNN-T for fast, memory-efficient ASR training",
    arXiv:2206.13236.
    """
    joint = make_joint(
        encoder,
        predictor,
        kernel,
        bias,
        activation,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
        clamp=clamp,
    )
    if joint.has_hypotheses:
        raise NotImplementedError(
            "pruned_rnnt_loss takes no hypotheses, predictors (..., K, U, H) of one encoder, got "
            f"predictor {joint.predictor.shape}: repeat the encoder, or give columns (..., K, T) "
            "to rnnt_loss_from_joint."
        )
    simple_joint = make_simple(
        "simple_encoder", simple_encoder, "simple_predictor", simple_predictor
    )
    if simple_joint.shape != joint.shape:
        *batch, T, U, V = joint.shape
        raise ValueError(
            "simple_encoder and simple_predictor must have shapes (..., T, V) and (..., U, V) = "
            f"{(*batch, T, V)} and {(*batch, U, V)}, got {simple_joint.encoder.shape} and "
            f"{simple_joint.predictor.shape}."
        )
    rows_to_picks = band_picks(normalize)
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    checked.check_reduction(reduction)
    width = ranges.check_width(width, rnnt_type)
    where = None if where is None else _checks.mask("where", where)
    arrays = check_batch(joint, labels, frames_lengths, labels_lengths, where)
    cells = layouts.cells_axes(compact=False), tuple(joint.shape[:-1])
    biases = {"label_bias": label_bias, "blank_bias": blank_bias}
    options = {name: checked.optional_bias(name, x, *cells) for name, x in biases.items()}
    options["fastemit_lambda"] = checked.optional_number("fastemit_lambda", fastemit_lambda)
    return _losses(
        joint,
        simple_joint,
        *arrays,
        where,
        options,
        width=width,
        lm_scale=_checks.number_below("lm_scale", lm_scale, 1),
        blank=_checks.blank_index(blank, joint.shape[-1]),
        average_frames=_checks.flag("average_frames", average_frames),
        reduction=reduction,
        rnnt_type=rnnt_type,
        rows_to_picks=rows_to_picks,
        implementation=implementation,
    )


@functools.partial(
    one_program,
    static_argnames=(
        "width",
        "lm_scale",
        "blank",
        "average_frames",
        "reduction",
        "rnnt_type",
        "rows_to_picks",
        "implementation",
    ),
)
def _losses(
    joint,
    simple_joint,
    labels,
    frames_lengths,
    labels_lengths,
    where,
    options,
    *,
    width,
    lm_scale,
    blank,
    average_frames,
    reduction,
    rnnt_type,
    rows_to_picks,
    implementation,
):
    batch = labels, frames_lengths, labels_lengths
    row_labels, sensible, _ = layouts.of_padded(simple_joint, *batch, where, 0)
    blanks, own = simple.joint_to_arcs(
        simple_joint, row_labels, lm_scale=lm_scale, blank=blank, implementation=implementation
    )
    own = checked.emitted_fast(own, options["fastemit_lambda"])
    arcs = topologies.arcs_of(rnnt_type, (blanks, own), options)
    lengths = jnp.where(sensible, frames_lengths, 0), jnp.asarray(labels_lengths)
    costs, posteriors = padded_cost_and_posteriors(
        arcs, *lengths, last=None, implementation=implementation
    )
    both_posteriors = (posteriors[arc] for arc in arcs)  # the blank's, then the label's
    columns = ranges.first_columns(*both_posteriors, *lengths, width=width, rnnt_type=rnnt_type)
    pruned = checked.loss(
        traced_band(joint, columns, width),
        *batch,
        where,
        options,
        rows_to_picks=rows_to_picks,
        picks_to_costs=topologies.costs_of(rnnt_type),
        clamped=True,
        durations=0,
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        compact=False,
        implementation=implementation,
    )
    return PrunedLosses(
        checked.reduced(costs, lengths[0], where, average_frames, reduction), pruned
    )
