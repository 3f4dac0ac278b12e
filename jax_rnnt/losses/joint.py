"""The loss of a joint network whose logits never exist: one more source of rows."""

from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from jax_rnnt.losses import topologies
from jax_rnnt.losses.checked import checked_loss
from jax_rnnt.losses.joint_arguments import JointPicks, make_joint, of_each_hypothesis
from jax_rnnt.losses.joint_bands import band_of_joint, band_picks


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
    normalize: str = "softmax",
    label_bias: ArrayLike | None = None,
    blank_bias: ArrayLike | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    clamp: float | None = None,
    columns: ArrayLike | None = None,
    width: int | None = None,
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
        predictor: (..., U, H), U = longest label sequence + 1. Of K hypotheses of what was said
            in the same frames: (..., K, U, H); no copies of the encoder are made, and its gradient
            is the sum over them.
        kernel: (H, V).
        bias: (V,), or None for none.
        labels: (..., U - 1) integers, padded with anything; (..., K, U - 1) of hypotheses.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1]; (..., K) of hypotheses.
        activation: "tanh", "relu", "silu", "gelu" (by tanh), "sigmoid", None for none, or an
            elementwise JAX function of one array that closes over no array; hashable, and every new
            function object is compiled anew.
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        blank: index of the blank; negative counts from the end.
        fastemit_lambda: FastEmit; gradients of label arcs are multiplied by (1 + lambda), the value
            and the blank arcs' gradients stay. May be traced.
        where: (...) booleans, (..., K) of hypotheses, None for all true: sequences for which it is
            false are left out of value, gradient and mean, as in `jnp.mean(costs, where=where)`.
            Their costs are 0, and their lengths and labels may be anything.
        rnnt_type: "regular"; "modified": each frame takes one arc, the blank's or a label's, and is
            left by it (RNA, the monotonic RNN-T); "constrained": at most one label a frame, and
            each frame ends with a blank.
        normalize: "softmax" of all symbols, or "hat": a sigmoid of the blank's own logit, and a
            softmax among the others for the rest.
        label_bias: floats that broadcast to (..., T, U), of hypotheses to (..., K, T, U), added to
            the labels' log-probabilities; -inf forbids. Minus its gradient is the posterior
            probability that the label is written there, without FastEmit's factor.
        blank_bias: the same of the blanks.
        dropout_rate: in [0, 1), rounded to a multiple of 2^-16: that part of the activations is
            zero, and the others are divided by what is left. A number known in advance.
        dropout_key: a key of `jax.random`, for a rate above 0. The mask is a function of the key,
            the sequence's place in the batch, frame, column and hidden unit alone: it is never
            stored, and the same in forward and backward, whatever the tiles and the device.
        clamp: each entry of the gradient of a cost with respect to the logits is clamped to
            [-clamp, clamp], before it is weighed by the cost's own cotangent; None for not.
        columns: (..., T) integers, (..., K, T) of hypotheses: the first of the columns that each
            frame's band holds, as `prune_ranges` gives them. The joint computes no others, and
            nothing leaves a cell outside of the band. Its logits (..., T, S, V) are an array, in
            the dtype of the matrix products; nothing is left out of its gradients.
        width: with `columns`, how many columns a band holds: S = min(width, U). `columns` are in
            [0, U - S].
        min_posterior: instead of the rule above, the backward visits the tiles that hold a cell
            whose posterior probability is higher than this, label arcs counted 1 + fastemit_lambda
            times; 0 means every cell that has one. With "hat", of its derivative with respect to
            the entries' logits.
        tile: (frames, labels, tiles at once) of the walk, by default from the shapes. A step holds
            frames x labels x tiles rows of logits, on several devices for each part of the batch.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX on logits as an array (differentiable twice; with a
            clamp not by plain `jax.jvp`).

    Returns:
        (...) nats, (..., K) of hypotheses, or () after a reduction; float32 (float64 for float64).
        +inf with zero gradients where no alignment is possible. NaN with zero gradients where NaN
        or +inf stands in the logits within a sequence's lengths and, under jit, where its lengths
        or labels make no sense; the other sequences are untouched. What stands beyond a sequence's
        lengths has no effect, and its gradient is zero.

    Raises:
        TypeError: If encoder, predictor, kernel, bias or biases are not floats, labels or lengths
            not integers, activation not hashable, or dropout_key no key.
        ValueError: If shapes do not fit, concrete lengths, labels or columns are out of range,
            activation closes over arrays, a rate is out of range or lacks its key, columns come
            without a width or with an option of tiles, or dtypes differ under
            jax_numpy_dtype_promotion="strict" (JAX's own TypePromotionError).
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

    See Graves (2012), arXiv:1211.3711; FastEmit: Yu et al. (2020), arXiv:2010.11148; HAT: Variani
    et al. (2020), arXiv:2003.07705; the dropout's generator, Philox4x32-7: Salmon et al. (2011).
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
        min_posterior=min_posterior,
        tile=tile,
    )
    lengths = of_each_hypothesis(joint, frames_lengths)
    rows, picks = joint, JointPicks(normalize)
    if columns is not None or width is not None:
        rows, picks = (
            band_of_joint(joint, columns, width, lengths, where),
            band_picks(normalize),
        )
    return checked_loss(
        "logits",
        rows,
        labels,
        lengths,
        labels_lengths,
        rows_to_picks=picks,
        picks_to_costs=topologies.costs_of(rnnt_type),
        clamped=True,
        numbers={"fastemit_lambda": fastemit_lambda},
        biases={"label_bias": label_bias, "blank_bias": blank_bias},
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        where=where,
        compact=False,
        implementation=implementation,
    )
