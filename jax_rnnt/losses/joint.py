"""The loss of a joint network whose logits never exist: one more source of rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.losses import topologies
from jax_rnnt.losses.checked import checked_loss
from jax_rnnt.rows import joint_arcs
from jax_rnnt.rows.activations import resolve_activation
from jax_rnnt.rows.joint_grid import Tile


def rnnt_loss_from_joint(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    activation: str | Callable[[jax.Array], jax.Array] | None = "tanh",
    average_frames: bool = False,
    reduction: str | None = None,
    blank: int = 0,
    fastemit_lambda: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    rnnt_type: str = "regular",
    label_bias: ArrayLike | None = None,
    blank_bias: ArrayLike | None = None,
    min_posterior: float | None = None,
    tile: tuple[int, int, int] | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""RNN-Transducer loss of a joint network, whose logits never exist as an array.

    .. math::
        logits_{n,t,u} &= activation(encoder_{n,t} + predictor_{n,u}) \, kernel + bias, \\
        cost_n &= -\log \sum_{alignments} \prod_{arcs} softmax(logits)_{arc}

    The loss and the gradients of `rnnt_loss_from_logits` of these logits, in memory that does not
    grow with T U V. Forward and backward walk over tiles of (frames x labels) cells: the forward
    over those within the lengths, the backward, which computes them again, over those alone that
    the alignments go through. Where V is small (28, say), logits as an array may be faster. Batch
    dimensions are faster than `vmap`, under which gradients are taken entry by entry.

    What the backward leaves out: the gradient D with respect to the logits of a cell with arc
    cotangents c_blank and c_label is D_v = c_v - (c_blank + c_label) P_v, whose L1 norm follows
    from the two arcs alone, without logits. Of each block of frames and of each block of labels
    (16 and 8 wide, or as `tile` says), the tiles of the smallest norms are left out as long as
    their sum stays within 2^-10 of the block's for bfloat16, 2^-13 for float16, 1e-6 for float32
    and 1e-13 for float64. All four gradients are sums of D times something that does not depend on
    D. So in the L1 norm, with p that part and ‖D‖ the sum of all norms: the bias' gradient is off
    by at most p ‖D‖, each row of the kernel's by p ‖D‖ times the largest activation, and each of
    the H columns of a block's encoder or predictor by p times that block's ‖D‖, the largest slope
    of the activation and the largest entry of the kernel. Every term of these sums is rounded to
    the dtype of the products on its way, to 2^-8 of itself for bfloat16: four times as much as p.
    Probabilities within 6e-8 of one are one.

    Matrix products take the promoted dtype of encoder, predictor, kernel and bias, accumulate in
    float32, and follow `jax.default_matmul_precision`. All sums are taken in one order: the same
    inputs give the same bits.

    Args:
        encoder: (..., T, H), float32, bfloat16, float16 or float64.
        predictor: (..., U, H), U = longest label sequence + 1.
        kernel: (H, V).
        bias: (V,), or None for none.
        labels: (..., U - 1) integers, padded with anything.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        activation: "tanh", "relu", "silu", "gelu" (by tanh), None for none, or an elementwise JAX
            function of one array that closes over no array; hashable, and every new function
            object is compiled anew.
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        blank: index of the blank; negative counts from the end.
        fastemit_lambda: FastEmit; gradients of label arcs are multiplied by (1 + lambda), the value
            and the blank arcs' gradients stay. May be traced.
        where: (...) booleans, None for all true: sequences for which it is false are left out of
            value, gradient and mean, as in `jnp.mean(costs, where=where)`. Their costs are 0, and
            their lengths and labels may be anything.
        rnnt_type: "regular"; "modified": each frame takes one arc, the blank's or a label's, and is
            left by it (RNA, the monotonic RNN-T); "constrained": at most one label a frame, and
            each frame ends with a blank.
        label_bias: floats that broadcast to (..., T, U), added to the labels'
            log-probabilities; -inf forbids. Minus its gradient is the posterior probability that
            the label is written there, without FastEmit's factor.
        blank_bias: the same of the blanks.
        min_posterior: instead of the rule above, the backward visits the tiles that hold a cell
            whose posterior probability is higher than this, label arcs counted 1 + fastemit_lambda
            times; 0 means every cell that has one.
        tile: (frames, labels, tiles at once) of the walk, by default from the shapes. A step holds
            frames x labels x tiles rows of logits, on several devices for each part of the batch.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX on logits as an array (differentiable twice).

    Returns:
        (...) nats, or () after a reduction; float32 (float64 for float64). +inf with zero gradients
        where no alignment is possible. NaN with zero gradients where NaN or +inf stands in the
        logits within a sequence's lengths and, under jit, where its lengths or labels make no
        sense; the other sequences are untouched. What stands beyond a sequence's lengths has no
        effect, and its gradient is zero.

    Raises:
        TypeError: If encoder, predictor, kernel, bias or biases are not floats, labels or lengths
            not integers, or activation not hashable.
        ValueError: If shapes do not fit, concrete lengths or labels are out of range, activation
            closes over arrays, or dtypes differ under jax_numpy_dtype_promotion="strict" (JAX's own
            TypePromotionError).
        NotImplementedError: If implementation="native" and the platform has no kernels, or if a
            size is symbolic.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> encoder, predictor = jnp.ones((1, 2, 4)), jnp.ones((1, 3, 4))  # two frames, two labels
        >>> kernel, bias = jnp.ones((4, 5)), jnp.zeros(5)  # four hidden units, five symbols
        >>> labels, frames, lengths = jnp.array([[1, 2]]), jnp.array([2]), jnp.array([2])
        >>> loss = lambda *joint: jax_rnnt.rnnt_loss_from_joint(
        ...     *joint, labels, frames, lengths, reduction="mean")
        >>> print(f"{loss(encoder, predictor, kernel, bias):.4f}")
        5.3391
        >>> print(jax.grad(loss, argnums=2)(encoder, predictor, kernel, bias).shape)
        (4, 5)

    See Graves (2012), arXiv:1211.3711; FastEmit: Yu et al. (2020), arXiv:2010.11148.
    """
    joint = make_joint(
        encoder, predictor, kernel, bias, activation, min_posterior=min_posterior, tile=tile
    )
    return checked_loss(
        "logits",
        joint,
        labels,
        frames_lengths,
        labels_lengths,
        rows_to_picks=joint_arcs.joint_to_arcs,
        picks_to_costs=topologies.costs_of(rnnt_type),
        numbers={"fastemit_lambda": fastemit_lambda},
        biases={"label_bias": label_bias, "blank_bias": blank_bias},
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        where=where,
        compact=False,
        implementation=implementation,
    )


def make_joint(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    activation: str | Callable[[jax.Array], jax.Array] | None,
    *,
    min_posterior: float | None = None,
    tile: tuple[int, int, int] | None = None,
) -> joint_arcs.Joint:
    """The joint of a caller's arguments; TypeError or ValueError if they do not make one."""
    joint = joint_arcs.Joint(
        encoder=_checks.floats("encoder", encoder),
        predictor=_checks.floats("predictor", predictor),
        kernel=_checks.floats("kernel", kernel),
        bias=None if bias is None else _checks.floats("bias", bias),
        activation=resolve_activation(activation),
        min_posterior=_check_min_posterior(min_posterior),
        tile=None if tile is None else _check_tile(tile),
    )
    _check_shapes(joint.encoder, joint.predictor, joint.kernel, joint.bias)
    operands = joint.encoder, joint.predictor, joint.kernel, joint.bias
    # An error where jax_numpy_dtype_promotion does not let them be promoted.
    jnp.result_type(*(x.dtype for x in operands if x is not None))
    return joint


def _check_shapes(encoder, predictor, kernel, bias):
    sizes = *encoder.shape, *predictor.shape, *kernel.shape
    if not all(isinstance(size, int) for size in sizes):
        raise NotImplementedError(
            "rnnt_loss_from_joint takes no symbolic sizes, got encoder "
            f"{encoder.shape}, predictor {predictor.shape} and kernel {kernel.shape}."
        )
    if encoder.ndim < 2 or 0 in encoder.shape[-2:]:
        raise ValueError(
            f"encoder must have shape (..., T, H) with T and H at least 1, got {encoder.shape}."
        )
    *batch, _, H = encoder.shape
    if predictor.ndim != encoder.ndim or (*predictor.shape[:-2], predictor.shape[-1]) != (
        *batch,
        H,
    ):
        raise ValueError(
            f"predictor must have shape (..., U, H) = ({', '.join(map(str, (*batch, 'U', H)))}) "
            f"for encoder {encoder.shape}, got {predictor.shape}."
        )
    if kernel.ndim != 2 or kernel.shape[0] != H or not kernel.shape[1]:
        raise ValueError(
            f"kernel must have shape (H, V) = ({H}, V) with V at least 1, got {kernel.shape}."
        )
    if not predictor.shape[-2]:
        raise ValueError(f"predictor must have U at least 1, got {predictor.shape}.")
    if bias is not None:
        _checks.shape("bias", bias, kernel.shape[1:], "(V,) of the kernel")


def _check_min_posterior(value) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"min_posterior must be a number known in advance, got {value!r}.")
    if not 0 <= value < 1:
        raise ValueError(f"min_posterior must be in [0, 1), got {value!r}.")
    return float(value)


def _check_tile(value) -> Tile:
    try:
        sizes = [_checks.index("tile", size) for size in value]
    except TypeError:
        sizes = []
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"tile must be three positive integers (frames, labels, tiles at once), got {value!r}."
        )
    return Tile(*sizes)
