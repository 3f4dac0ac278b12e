"""Checkpoints of a run: what is needed to go on as if it had never stopped."""

from pathlib import Path
from typing import Any, NamedTuple

import optax
import orbax.checkpoint as ocp
from flax import nnx

Json = dict[str, Any]


class TrainingState(NamedTuple):
    """The arrays that training changes."""

    params: nnx.State
    optimizer_state: optax.OptState


class Checkpoints:
    """The newest two checkpoints of a run in a directory; keeps none if the directory is None."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._manager = None
        if directory is not None:
            options = ocp.CheckpointManagerOptions(max_to_keep=2)
            self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def save(self, step: int, state: TrainingState, history: Json, settings: Json) -> None:
        """Stores the state after `step` steps; the writing goes on in the background."""
        if self._manager is None:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                history=ocp.args.JsonSave(history),
                settings=ocp.args.JsonSave(settings),
            ),
        )

    def restore(
        self, like: TrainingState, settings: Json
    ) -> tuple[int, TrainingState, Json] | None:
        """(steps done, state, history) of the newest checkpoint, or None if there is none."""
        step = None if self._manager is None else self._manager.latest_step()
        if self._manager is None or step is None:
            return None
        stored = self._manager.restore(
            step, args=ocp.args.Composite(settings=ocp.args.JsonRestore())
        )
        self._check_settings(stored["settings"], settings)
        stored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like._asdict()), history=ocp.args.JsonRestore()
            ),
        )
        return step, TrainingState(**stored["state"]), stored["history"]

    def close(self) -> None:
        """Waits until everything is written."""
        if self._manager is not None:
            self._manager.close()

    def _check_settings(self, stored: Json, wanted: Json) -> None:
        different = [
            f"{name} {stored.get(name)!r} (now {value!r})"
            for name, value in wanted.items()
            if stored.get(name) != value
        ]
        if different:
            raise ValueError(
                f"The run in {self.directory} was started with {', '.join(different)}: "
                "go on with the same settings, or give another checkpoint directory."
            )
