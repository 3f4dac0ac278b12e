"""The records and the result of a run."""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .checkpoint import Json
from .plot import Posterior


@dataclass(frozen=True)
class CurvePoint:
    """How far a run was at an evaluation; times include data, compilation and evaluations."""

    step: int
    seconds: float
    user_cpu_seconds: float
    loss: float  # mean since the last evaluation, nats a string
    digit_error_rate: float


@dataclass(frozen=True)
class Result:
    """The result of `train.run`."""

    losses: list[float]  # mean over the batch, one for each step, from the first step of all
    digit_error_rate: float  # on the held-out strings
    curve: list[CurvePoint]
    posteriors: list[Posterior]  # of one held-out string: at the start, in the middle, at the end
    shown_features: np.ndarray  # (frames, bands) of that string
    shown_digits: list[int]
    resumed_from: int  # steps done before by an earlier run


@dataclass
class History:
    """The records of a run so far, as they go into its checkpoints."""

    losses: list[float] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    posteriors: list[Posterior] = field(default_factory=list)
    seconds: float = 0.0
    user_cpu_seconds: float = 0.0

    def to_json(self) -> Json:
        posteriors = [
            {"step": p.step, "blank": p.blank.tolist(), "label": p.label.tolist()}
            for p in self.posteriors
        ]
        curve = [dataclasses.asdict(point) for point in self.curve]
        return {**vars(self), "losses": list(self.losses), "curve": curve, "posteriors": posteriors}

    @classmethod
    def from_json(cls, stored: Json) -> "History":
        posteriors = [
            Posterior(p["step"], np.asarray(p["blank"]), np.asarray(p["label"]))
            for p in stored["posteriors"]
        ]
        curve = [CurvePoint(**point) for point in stored["curve"]]
        return cls(**{**stored, "curve": curve, "posteriors": posteriors})


def write_curve(path: Path, curve: Sequence[CurvePoint]) -> None:
    """The curve as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "user_cpu_seconds", "loss", "digit_error_rate"])
        for p in curve:
            writer.writerow(
                [
                    p.step,
                    f"{p.seconds:.1f}",
                    f"{p.user_cpu_seconds:.1f}",
                    f"{p.loss:.4f}",
                    f"{p.digit_error_rate:.5f}",
                ]
            )
