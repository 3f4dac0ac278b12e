"""The token-and-duration transducer: two heads in one row, a lattice whose arcs skip frames."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.losses.checked import checked_loss
from jax_rnnt.rows import pick_rows
from jax_rnnt.rows.normalise import Picking


def tdt_loss_from_logits(
    logits: ArrayLike,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    durations: tuple[int, ...],
    sigma: ArrayLike = 0.0,
    omega: ArrayLike = 0.0,
    blank: int = 0,
    fastemit_lambda: ArrayLike = 0.0,
    average_frames: bool = False,
    reduction: str | None = None,
    where: ArrayLike | None = None,
    compact: bool = False,
    implementation: str | None = None,
) -> jax.Array:
    r"""Loss of a token-and-duration transducer's logits (TDT), both log-softmaxes inside.

    .. math::
        P(v, d \mid t, u) &= softmax(logits_{n,t,u,:V})_v \, softmax(logits_{n,t,u,V:})_d, \\
        cost_n &= -\log \sum_{alignments} \prod_{arcs} e^{-\sigma} P(arc)

    A symbol of duration d moves d frames on; a label may have duration 0, a blank not. An alignment
    ends with a blank that moves to T_n exactly; no arc moves past it. The gradient is written over
    the logits as that of `rnnt_loss_from_logits` is, and neither head is ever copied.

    Args:
        logits: (..., T, U, V + D), float32, bfloat16, float16 or float64, not normalised: the
            tokens' V logits, then those of the D durations; U = longest label sequence + 1.
            Compact: (S, V + D), the rows of one sequence after the other, T_n (U_n + 1) each, frame
            by frame.
        labels: (..., U - 1) integers, padded with anything. Compact: (L,), one sequence's labels
            after the other's, L >= sum U_n.
        frames_lengths: (...) integers T_n in [1, T]. Compact: (N,).
        labels_lengths: (...) integers U_n in [0, U - 1]. Compact: (N,).
        durations: D different integers, in the order of their logits; at least one is not 0.
        sigma: logit under-normalisation, taken off the log-probability of each token, blank or
            label; NeMo's recipes take 0.05. May be traced.
        omega: in [0, 1], how much of the RNN-T loss of the tokens there is in the loss:
            (1 - omega) TDT + omega RNN-T, of which the latter knows no sigma and no durations.
            NeMo's recipes take 0.1. May be traced; with the number 0 there is one lattice, not two.
        blank: index of the blank among the V tokens; negative counts from their end.
        fastemit_lambda: FastEmit; the tokens' gradients of label arcs are multiplied by
            (1 + lambda); the durations' gradients, the blanks' and the value stay. May be traced.
        average_frames: divide each cost by its number of frames.
        reduction: None or "none", "sum" or "mean" over the batch.
        where: (...) booleans, None for all true: sequences for which it is false are left out of
            value, gradient and mean, as in `rnnt_loss_from_logits`.
        compact: whether logits and labels are packed; lengths may be traced all the same.
        implementation: None for the native kernels where there are some, "native" to insist on
            them (durations up to 8), "reference" for plain JAX (differentiable twice where not
            compact).

    Returns:
        (...) nats, or () after a reduction; float32 (float64 for float64). +inf with zero gradients
        where no alignment is possible: one has U_n labels and at least one blank, whose durations
        sum to T_n. NaN with zero gradients as in `rnnt_loss_from_logits`, and where a traced omega
        is not in [0, 1]. What stands beyond a sequence's lengths has no effect.

    Raises:
        TypeError: If logits are not floats, or durations, labels or lengths not integers.
        ValueError: If shapes do not fit, concrete lengths or labels are out of range, durations
            repeat or are negative, or omega is not in [0, 1].
        NotImplementedError: If implementation="native" and the platform has no kernels, or a
            duration is above 8.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> logits = jnp.zeros((1, 3, 2, 4 + 3))  # three frames, one label, four tokens
        >>> labels, frames, lengths = jnp.array([[0]]), jnp.array([3]), jnp.array([1])
        >>> loss = lambda x: jax_rnnt.tdt_loss_from_logits(
        ...     x, labels, frames, lengths, durations=(0, 1, 2), sigma=0.05, blank=-1).sum()
        >>> print(f"{loss(logits):.4f}", jax.grad(loss)(logits).shape)
        4.1557 (1, 3, 2, 7)

    See Xu et al. (2023), arXiv:2304.06795; FastEmit: Yu et al. (2020), arXiv:2010.11148.
    """
    durations = _checks.durations("durations", durations)
    check_omega(omega)
    return checked_loss(
        "logits",
        _checks.floats("logits", logits),
        labels,
        frames_lengths,
        labels_lengths,
        rows_to_picks=_TwoHeads(len(durations)),
        picks_to_costs=TdtCosts(durations),
        durations=len(durations),
        numbers={"fastemit_lambda": fastemit_lambda, "sigma": sigma, "omega": omega},
        average_frames=average_frames,
        reduction=reduction,
        blank=blank,
        where=where,
        compact=compact,
        implementation=implementation,
    )


@dataclasses.dataclass(frozen=True)
class _TwoHeads:
    """From rows of V + D logits to log-probabilities: the blank's, the label's, the durations'."""

    durations: int

    def __call__(self, logits, labels, *, blank, implementation):
        picking = Picking(blank, durations=self.durations)
        rows = pick_rows.row_arcs(logits, labels, picking, implementation)
        return rows.blank, rows.label, rows.durations


@dataclasses.dataclass(frozen=True)
class TdtCosts:
    """From both heads' log-probabilities to the costs of the lattice that skips frames."""

    durations: tuple[int, ...]

    def __call__(self, picks, options, solve):
        blank, label, duration_log_probs = picks
        sigma, omega = options["sigma"], options["omega"]
        without_durations = None if omega is None else solve({(1, 0): blank, (0, 1): label})
        if sigma is not None:
            sigma = jnp.expand_dims(sigma.astype(blank.dtype), range(blank.ndim))
            blank, label = blank - sigma, label - sigma
        by_frames = dict(zip(self.durations, duration_log_probs, strict=True))
        blanks = {(d, 0): blank + x for d, x in by_frames.items() if d}
        labels = {(d, 1): label + x for d, x in by_frames.items()}
        costs = solve(blanks | labels, last=tuple(blanks))
        return costs if omega is None else _expectation(costs, without_durations, omega)


def _expectation(first, second, omega):
    """(1 - omega) first + omega second, in which a cost of weight 0 counts for nothing.

    Where one that counts is infinite or NaN, or omega is not in [0, 1], neither has a gradient.
    """
    weight = jnp.expand_dims(omega.astype(first.dtype), range(first.ndim))
    senseless = ~((weight >= 0) & (weight <= 1))
    weight = jnp.where(senseless, 0, weight)
    finite = [jnp.where(jnp.isfinite(x), x, 0) for x in (first, second)]
    mixed = (1 - weight) * finite[0] + weight * finite[1]
    bad_first = ~jnp.isfinite(first) & (weight != 1)
    bad_second = ~jnp.isfinite(second) & (weight != 0)
    worst = jnp.where(bad_first, first, 0) + jnp.where(bad_second, second, 0)
    worst = jnp.where(senseless, jnp.nan, worst)
    bad = bad_first | bad_second | senseless
    return jnp.where(bad, jax.lax.stop_gradient(worst), mixed)


def check_omega(omega) -> None:
    """ValueError if the value of omega is known and not in [0, 1]."""
    _checks.number("omega", omega)
    # A number is known under jit, too, where an array made of it is not.
    value = _checks.concrete(omega if isinstance(omega, jax.Array) else np.asarray(omega))
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"omega must be in [0, 1], got {omega!r}.")
