"""Alignment posteriors, and the picture of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt

from .data import BLANK
from .features import HOP_SECONDS


@dataclass(frozen=True)
class Posterior:
    """Where the alignment of one string is, after `step` training steps.

    `blank[t, u]` is the probability that the alignment leaves frame t with u labels written: every
    row sums to one. `label[t, u]` is the probability that it writes label u at frame t: every
    column but the last, which has no label, sums to one.
    """

    step: int
    blank: np.ndarray  # (T, U)
    label: np.ndarray  # (T, U)

    @property
    def occupancy(self) -> np.ndarray:
        """Probability that the alignment passes through (t, u): (T, U)."""
        return self.blank + self.label


def alignment_posterior(logits: jax.Array, labels: jax.Array, step: int) -> Posterior:
    """The posterior of one string, unpadded: logits (T, U, symbols), labels (U - 1,).

    The derivative of -log P(labels) with respect to the log-probability of an arc is minus the
    probability that the alignment takes this arc.
    """
    frames, columns, _ = logits.shape
    no_label = jnp.full((1,), -1, labels.dtype)
    row_labels = jnp.broadcast_to(jnp.concatenate([labels, no_label]), (frames, columns))
    arcs = jax_rnnt.log_softmax_pick(logits, row_labels, blank=BLANK)

    def cost(arcs: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax_rnnt.lattice_cost(*arcs, jnp.int32(frames), jnp.int32(columns - 1))

    blank, label = jax.grad(cost)(arcs)
    return Posterior(step, np.asarray(-blank), np.asarray(-label))


def require_matplotlib() -> None:
    """Raises a ModuleNotFoundError that says what to install if there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The picture needs matplotlib: pip install matplotlib (or the extra `plot`), or say "
            "--no-plot."
        ) from None


def save_picture(
    path: Path,
    log_mel: np.ndarray,
    digits: Sequence[int],
    posteriors: Sequence[Posterior],
    stack: int,
) -> None:
    """A PNG: the log-mel (frames, bands) above the posteriors, all over the same seconds.

    A frame of the posteriors is `stack` frames of the log-mel.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    seconds = len(log_mel) * HOP_SECONDS
    rows = 1 + len(posteriors)
    figure = Figure(figsize=(8.0, 1.9 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)

    axes[0].imshow(
        log_mel.T, origin="lower", aspect="auto", extent=(0, seconds, 0, log_mel.shape[1])
    )
    axes[0].set_title("log-mel of a held-out string: " + " ".join(map(str, digits)), fontsize=10)
    axes[0].set_ylabel("band")

    ticks = ["start", *map(str, digits)]
    image = None
    for axis, posterior in zip(axes[1:], posteriors, strict=True):
        image = axis.imshow(
            posterior.occupancy.T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, len(posterior.blank) * stack * HOP_SECONDS, -0.5, len(digits) + 0.5),
            vmin=0.0,
            vmax=1.0,
            cmap="magma",
        )
        axis.set_yticks(range(len(ticks)), ticks)
        axis.set_ylabel("written last")
        axis.set_title(f"alignment posterior after {posterior.step} steps", fontsize=10)
    if image is not None:
        figure.colorbar(image, ax=axes[1:], label="probability", pad=0.01)
    axes[-1].set_xlabel("seconds")
    axes[-1].set_xlim(0, seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
