"""The rows of a joint network, for any loss over them."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt.losses import layouts
from jax_rnnt.losses.joint_arguments import make_joint, of_each_hypothesis
from jax_rnnt.rows.joint_arcs import joint_rows
from jax_rnnt.rows.pick_rows import Rows, durations_count, make_picking, stacked


def pick_rows_from_joint(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    activation: str | Callable[[jax.Array], jax.Array] | None = "tanh",
    blank: int = 0,
    others: Iterable[int] = (),
    rest: bool = False,
    normalize: str = "softmax",
    durations: int = 0,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    min_posterior: float | None = None,
    tile: tuple[int, int, int] | None = None,
    implementation: str | None = None,
) -> Rows:
    r"""Log-probabilities of a joint network's rows, whose logits never exist as an array.

    .. math::
        logits_{n,t,u} = activation(encoder_{n,t} + predictor_{n,u}) \, kernel + bias

    and `pick_rows` of these, where each cell's own label is the next one of its sequence. With
    `arcs_cost` or `lattice_cost` behind it, it is any loss of a joint. Differentiable with respect
    to encoder, predictor, kernel and bias, in the way of `rnnt_loss_from_joint`: whatever loss the
    cotangents come from, the backward leaves out the tiles whose logits' gradients are smallest,
    within the bound that is written there.

    Args:
        encoder: (..., T, H), float32, bfloat16, float16 or float64.
        predictor: (..., U, H), U = longest label sequence + 1; (..., K, U, H) of K hypotheses.
        kernel: (H, V + D): V symbols, then D durations.
        bias: (V + D,), or None for none.
        labels: (..., U - 1) integers, padded with anything; (..., K, U - 1) of hypotheses.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1]; (..., K) of hypotheses.
        blank, others, rest, normalize, durations: as in `pick_rows`.
        activation, dropout_rate, dropout_key, tile, implementation: as in `rnnt_loss_from_joint`.
            With more than 16 others and durations together the logits are an array.
        min_posterior: as in `rnnt_loss_from_joint`, of the cotangents, relative to the largest of a
            blank in the sequence.

    Returns:
        :class:`Rows` of (..., T, U), or (..., K, T, U) of hypotheses, float32 (float64 for
        float64), as `pick_rows` gives them. Cells beyond a sequence's lengths are padding, and so
        are those of a sequence whose traced lengths or labels make no sense.

    Raises:
        TypeError: If encoder, predictor, kernel or bias are not floats, labels, lengths or indices
            not integers, activation not hashable, or dropout_key no key.
        ValueError: If shapes do not fit, concrete lengths or labels are out of range, or an option
            is none of its values.
        NotImplementedError: If implementation="native" and the platform has no kernel for it, or if
            a size is symbolic.

    Example:
        A multi-blank transducer, whose last symbol is a blank of two frames:

        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> encoder, predictor = jnp.ones((1, 2, 4)), jnp.ones((1, 3, 4))  # two frames, two labels
        >>> kernel, bias = jnp.ones((4, 5)), jnp.zeros(5)
        >>> labels, frames, lengths = jnp.array([[1, 2]]), jnp.array([2]), jnp.array([2])
        >>> rows = jax_rnnt.pick_rows_from_joint(
        ...     encoder, predictor, kernel, bias, labels, frames, lengths, others=(-1,))
        >>> arcs = {(1, 0): rows.blank, (2, 0): rows.others[..., 0], (0, 1): rows.label}
        >>> print(f"{jax_rnnt.arcs_cost(arcs, frames, lengths)[0]:.4f}")
        4.3583

    See Graves (2012), arXiv:1211.3711, and `pick_rows` for the options.
    """
    durations = durations_count(durations)
    joint = make_joint(
        encoder,
        predictor,
        kernel,
        bias,
        activation,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
        min_posterior=min_posterior,
        tile=tile,
        durations=durations,
    )
    labels = _checks.integers("labels", labels)
    frames_lengths = of_each_hypothesis(joint, frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    lengths = frames_lengths, labels_lengths
    layouts.check_padded("logits", joint, labels, *lengths, None, durations)
    picking = make_picking(blank, others, rest, normalize, durations, joint.shape[-1])
    return _rows(joint, labels, *lengths, picking=picking, implementation=implementation)


@functools.partial(one_program, static_argnames=("picking", "implementation"))
def _rows(joint, labels, frames_lengths, labels_lengths, *, picking, implementation):
    labels, *lengths = (jnp.asarray(x) for x in (labels, frames_lengths, labels_lengths))
    column_labels, _, _ = layouts.of_padded(joint, labels, *lengths, None, picking.durations)
    return stacked(joint_rows(joint, column_labels, picking, implementation)[0])
