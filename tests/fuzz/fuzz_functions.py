"""The public functions that are called by fuzz_cases, each in each of its layouts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax_rnnt

# Arcs (frames, labels) by the names of their arrays.
ARCS = {"blank_log_probs": (1, 0), "skip_log_probs": (3, 0), "label_log_probs": (1, 1)}


def arcs_cost(
    blank_log_probs, skip_log_probs, label_log_probs, frames_lengths, labels_lengths, **options
):
    """One symbol a frame, and blanks of three frames, whose arrays have a name each."""
    arrays = blank_log_probs, skip_log_probs, label_log_probs
    arcs = dict(zip(ARCS.values(), arrays))
    return jax_rnnt.arcs_cost(arcs, frames_lengths, labels_lengths, **options)


def lattice_align(blank_log_probs, label_log_probs, frames_lengths, labels_lengths, **options):
    """The best path's log-probability as a cost."""
    arguments = blank_log_probs, label_log_probs, frames_lengths, labels_lengths
    return -jax_rnnt.lattice_align(*arguments, **options).log_probs


def pick_rows(logits, labels, **options):
    """What log_softmax_pick gives, by the kernel that gives the mass of the rest, too."""
    rows = jax_rnnt.pick_rows(logits, labels, rest=True, **options)
    return rows.blank, rows.label


@dataclasses.dataclass(frozen=True)
class Function:
    """A public function in one layout. Arrays are passed by name."""

    call: Callable[..., Any]
    rows: tuple[str, ...]  # differentiable; the shape of the first one is what others must fit
    integers: tuple[str, ...]
    compact: bool = False
    hypotheses: bool = False  # whether several share an encoder
    implementations: tuple[str | None, ...] = ("native", "reference")

    @property
    def arrays(self) -> tuple[str, ...]:
        return self.rows + self.integers

    @property
    def is_loss(self) -> bool:
        return "labels" in self.integers and "frames_lengths" in self.integers

    @property
    def takes_logits(self) -> bool:
        return "logits" in self.rows or "encoder" in self.rows

    @property
    def is_lattice(self) -> bool:
        return self.call in (jax_rnnt.lattice_cost, arcs_cost, lattice_align)

    def names(self, array: str) -> set[str]:
        """What an error that is about an array names."""
        is_arc = self.call is arcs_cost and array in self.rows
        return {"arcs"} if is_arc else {array}

    @property
    def is_pick(self) -> bool:
        return self.call in (jax_rnnt.log_softmax_pick, pick_rows)

    @property
    def is_timed(self) -> bool:
        return self.call in (jax_rnnt.tdt_loss_from_logits, jax_rnnt.tdt_loss_from_joint)

    @property
    def is_joint(self) -> bool:
        return self.call in (jax_rnnt.rnnt_loss_from_joint, jax_rnnt.tdt_loss_from_joint)

    @property
    def takes_normalize(self) -> bool:
        return self.call in (jax_rnnt.rnnt_loss_from_logits, jax_rnnt.rnnt_loss_from_joint)

    def __str__(self) -> str:
        biased = ", biased" if BIASES[0] in self.rows else ""
        layout = ", compact" * self.compact + ", hypotheses" * self.hypotheses
        return self.call.__name__ + biased + layout


LENGTHS = "frames_lengths", "labels_lengths"
STANDARD_ARCS = "blank_log_probs", "label_log_probs"
BIASES = "label_bias", "blank_bias"
JOINT = "encoder", "predictor", "kernel", "bias"
FUNCTIONS = [
    Function(jax_rnnt.rnnt_loss, ("log_probs",), ("labels", *LENGTHS), implementations=(None,)),
    Function(jax_rnnt.rnnt_loss_from_logits, ("logits",), ("labels", *LENGTHS)),
    Function(
        jax_rnnt.rnnt_loss,
        ("log_probs",),
        ("labels", *LENGTHS),
        compact=True,
        implementations=(None,),
    ),
    Function(jax_rnnt.rnnt_loss_from_logits, ("logits",), ("labels", *LENGTHS), compact=True),
    Function(
        jax_rnnt.rnnt_loss_from_joint,
        JOINT,
        ("labels", *LENGTHS),
    ),
    Function(jax_rnnt.rnnt_loss_from_logits, ("logits", *BIASES), ("labels", *LENGTHS)),
    Function(
        jax_rnnt.rnnt_loss_from_logits, ("logits", *BIASES), ("labels", *LENGTHS), compact=True
    ),
    Function(
        jax_rnnt.rnnt_loss,
        ("log_probs", *BIASES),
        ("labels", *LENGTHS),
        implementations=(None,),
    ),
    Function(
        jax_rnnt.rnnt_loss_from_joint,
        (*JOINT, *BIASES),
        ("labels", *LENGTHS),
    ),
    Function(
        jax_rnnt.rnnt_loss_from_joint,
        (*JOINT, *BIASES),
        ("labels", *LENGTHS),
        hypotheses=True,
    ),
    Function(jax_rnnt.tdt_loss_from_joint, JOINT, ("labels", *LENGTHS)),
    Function(jax_rnnt.tdt_loss_from_joint, JOINT, ("labels", *LENGTHS), hypotheses=True),
    Function(jax_rnnt.tdt_loss_from_logits, ("logits",), ("labels", *LENGTHS)),
    Function(jax_rnnt.tdt_loss_from_logits, ("logits",), ("labels", *LENGTHS), compact=True),
    Function(jax_rnnt.log_softmax_pick, ("logits",), ("labels",)),
    Function(pick_rows, ("logits",), ("labels",)),
    Function(jax_rnnt.lattice_cost, STANDARD_ARCS, LENGTHS),
    Function(jax_rnnt.lattice_cost, STANDARD_ARCS, LENGTHS, compact=True),
    Function(arcs_cost, tuple(ARCS), LENGTHS),
    Function(arcs_cost, tuple(ARCS), LENGTHS, compact=True),
    Function(lattice_align, STANDARD_ARCS, LENGTHS),
]
