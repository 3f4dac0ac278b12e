"""The token-and-duration transducer of a joint network whose logits never exist."""

from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.losses.checked import checked_loss
from jax_rnnt.losses.joint_arguments import JointPicks, make_joint, of_each_hypothesis
from jax_rnnt.losses.tdt import TdtCosts, check_omega


def tdt_loss_from_joint(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    durations: tuple[int, ...],
    sigma: ArrayLike = 0.0,
    omega: ArrayLike = 0.0,
    activation: str | Callable[[jax.Array], jax.Array] | None = "tanh",
    average_frames: bool = False,
    reduction: str | None = None,
    blank: int = 0,
    fastemit_lambda: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    clamp: float | None = None,
    min_posterior: float | None = None,
    tile: tuple[int, int, int] | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""TDT loss of a joint network with two heads, whose logits never exist as an array.

    .. math::
        logits_{n,t,u} &= activation(encoder_{n,t} + predictor_{n,u}) \, kernel + bias, \\
        P(v, d \mid t, u) &= softmax(logits_{n,t,u,:V})_v \, softmax(logits_{n,t,u,V:})_d, \\
        cost_n &= -\log \sum_{alignments} \prod_{arcs} e^{-\sigma} P(arc)

    The loss and the gradients of `tdt_loss_from_logits` of these logits, in the way, and within the
    bounds, of `rnnt_loss_from_joint`. Both heads are columns of one kernel, and come out of one
    matrix product.

    Args:
        encoder: (..., T, H), float32, bfloat16, float16 or float64.
        predictor: (..., U, H), U = longest label sequence + 1; (..., K, U, H) of K hypotheses.
        kernel: (H, V + D): the tokens' V columns, then those of the D durations.
        bias: (V + D,), or None for none.
        labels: (..., U - 1) integers, padded with anything; (..., K, U - 1) of hypotheses.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1]; (..., K) of hypotheses.
        durations: D different integers, in the order of their columns; at least one is not 0.
        sigma: logit under-normalisation, as in `tdt_loss_from_logits`. May be traced.
        omega: in [0, 1], how much of the RNN-T loss of the tokens there is. May be traced.
        blank: index of the blank among the V tokens; negative counts from their end.
        activation: as in `rnnt_loss_from_joint`.
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        fastemit_lambda: FastEmit; the tokens' gradients of label arcs are multiplied by
            (1 + lambda); the durations' gradients, the blanks' and the value stay. May be traced.
        where: (...) booleans, (..., K) of hypotheses, None for all true: sequences for which it is
            false are left out, as in `rnnt_loss_from_joint`.
        dropout_rate: as in `rnnt_loss_from_joint`, as are the following.
        dropout_key: a key of `jax.random`, for a rate above 0.
        clamp: of the logits' gradient; None for none.
        min_posterior: which cells the backward visits.
        tile: (frames, labels, tiles at once) of the walk.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX on logits as an array, which more than 16 durations
            take in any case.

    Returns:
        (...) nats, (..., K) of hypotheses, or () after a reduction; float32 (float64 for float64),
        with infinities and NaN as in `tdt_loss_from_logits`.

    Raises:
        TypeError: If encoder, predictor, kernel or bias are not floats, durations, labels or
            lengths not integers, activation not hashable, or dropout_key no key.
        ValueError: If shapes do not fit, concrete lengths or labels are out of range, durations
            repeat or are negative, or an option is none of its values.
        NotImplementedError: If implementation="native" and the platform has no kernels, a duration
            is above 8 or there are more than 16, or if a size is symbolic.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> encoder, predictor = jnp.ones((1, 3, 6)), jnp.ones((1, 2, 6))  # three frames, one label
        >>> kernel, bias = jnp.ones((6, 4 + 3)), jnp.zeros(4 + 3)  # four tokens, three durations
        >>> labels, frames, lengths = jnp.array([[0]]), jnp.array([3]), jnp.array([1])
        >>> loss = lambda kernel: jax_rnnt.tdt_loss_from_joint(
        ...     encoder, predictor, kernel, bias, labels, frames, lengths,
        ...     durations=(0, 1, 2), sigma=0.05, blank=-1).sum()
        >>> print(f"{loss(kernel):.4f}", jax.grad(loss)(kernel).shape)
        4.1557 (6, 7)

    See Xu et al. (2023), arXiv:2304.06795; FastEmit: Yu et al. (2020), arXiv:2010.11148.
    """
    durations = _checks.durations("durations", durations)
    check_omega(omega)
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
        durations=len(durations),
    )
    return checked_loss(
        "logits",
        joint,
        labels,
        of_each_hypothesis(joint, frames_lengths),
        labels_lengths,
        rows_to_picks=JointPicks(durations=len(durations)),
        picks_to_costs=TdtCosts(durations),
        durations=len(durations),
        clamped=True,
        numbers={"fastemit_lambda": fastemit_lambda, "sigma": sigma, "omega": omega},
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        where=where,
        compact=False,
        implementation=implementation,
    )
