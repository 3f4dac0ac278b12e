"""The family's members: lattices, each a choice of arcs, and losses from logits."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax

import jax_rnnt

DURATIONS = (0, 1, 2, 3, 4)
Arcs = Mapping[tuple[int, int], jax.Array]


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Costs (N,) from {(dt, du): log-weights (N, T, U)}, lengths (N,) and an implementation."""

    arcs: tuple[tuple[int, int], ...]
    cost: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Loss:
    """Costs (N,) from logits (N, T, U, V), labels (N, U - 1) and lengths (N,)."""

    function: Callable[..., jax.Array]
    durations: int = 0  # how many of the V logits are no tokens' but durations'
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def costs(self) -> Callable[..., jax.Array]:
        return functools.partial(self.function, **self.options, implementation="native")


def _lattice_cost(arcs: Arcs, frames_lengths, labels_lengths, implementation: str) -> jax.Array:
    lengths = frames_lengths, labels_lengths
    return jax_rnnt.lattice_cost(arcs[1, 0], arcs[0, 1], *lengths, implementation=implementation)


def _by_arcs_cost(*arcs: tuple[int, int], labels_end: bool = False) -> Lattice:
    """labels_end: whether a label may be an alignment's last arc; a blank may."""

    def cost(weights: Arcs, frames_lengths, labels_lengths, implementation: str) -> jax.Array:
        last = [arc for arc in arcs if arc[0] and (labels_end or not arc[1])]
        return jax_rnnt.arcs_cost(
            weights, frames_lengths, labels_lengths, last=last, implementation=implementation
        )

    return Lattice(arcs, cost)


LATTICES = {
    "lattice_cost": Lattice(((1, 0), (0, 1)), _lattice_cost),
    "RNN-T": _by_arcs_cost((1, 0), (0, 1)),
    "one symbol a frame": _by_arcs_cost((1, 0), (1, 1), labels_end=True),
    "multi-blank 1, 2, 4, 8": _by_arcs_cost((1, 0), (2, 0), (4, 0), (8, 0), (0, 1)),
    "TDT 0..4": _by_arcs_cost(*((d, 0) for d in DURATIONS if d), *((d, 1) for d in DURATIONS)),
}

RNNT, TDT = "RNN-T", "TDT 0..4"
LOSSES = {
    RNNT: Loss(jax_rnnt.rnnt_loss_from_logits),
    "modified": Loss(jax_rnnt.rnnt_loss_from_logits, options={"rnnt_type": "modified"}),
    "constrained": Loss(jax_rnnt.rnnt_loss_from_logits, options={"rnnt_type": "constrained"}),
    "HAT": Loss(jax_rnnt.rnnt_loss_from_logits, options={"normalize": "hat"}),
    TDT: Loss(
        functools.partial(jax_rnnt.tdt_loss_from_logits, durations=DURATIONS), len(DURATIONS)
    ),
}
