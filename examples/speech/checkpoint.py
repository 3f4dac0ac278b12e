"""A run's folder: settings, tokenizer, history and Orbax checkpoints.

settings.json  tokenizer.model  history.jsonl  lock  checkpoints/STEP/{training,average,loader}
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from .files import read_records, replace
from .settings import ExplainedError, Settings
from .step import TrainingState

# What may change between two runs of one training: where things lie, and what is looked at.
FREE = ("path", "cache", "loader_workers", "evaluate_every", "keep", "beam")
# And how it goes on: a run may become longer, and one that diverges may learn more slowly. The
# optimizer's state knows nothing of these but the number of its updates.
SCHEDULE = ("steps", "warmup_steps", "learning_rate")


def settings_before(run_dir: Path, settings: Settings) -> Settings:
    """Those that the run goes on from, which may differ in FREE and SCHEDULE alone.

    Without a checkpoint there is nothing to go on from, and all may change, the tokenizer, too.
    """
    if not any(path.name.isdigit() for path in (run_dir / "checkpoints").glob("*")):
        if jax.process_index() == 0:
            (run_dir / "tokenizer.model").unlink(missing_ok=True)
        return settings
    before = Settings.from_json((run_dir / "settings.json").read_text())
    other = differences(before, settings, [x for x in vars(settings) if x not in FREE + SCHEDULE])
    if other:
        raise ExplainedError(
            f"The run in {run_dir} was started with {other}: go on with the same settings, or "
            f"give another folder. What may change is {', '.join(FREE + SCHEDULE)}."
        )
    return before


def keep_settings(run_dir: Path, settings: Settings) -> None:
    """Stores them, for whoever reads the run or goes on with it."""
    if jax.process_index() == 0:
        replace(run_dir / "settings.json", settings.to_json().encode())


def differences(before: Settings, now: Settings, names: Iterable[str]) -> str:
    """Those of the named settings that are not the same, in words."""
    values = [(name, getattr(before, name), getattr(now, name)) for name in names]
    return ", ".join(f"{name} {old!r} (now {new!r})" for name, old, new in values if old != new)


class Checkpoints:
    """The newest checkpoint, to go on from, and those of the lowest word error rates.

    Args:
        run_dir: the run's folder.
        keep: how many of the lowest word error rates stay; None to read alone.
    """

    def __init__(self, run_dir: Path, keep: int | None = None) -> None:
        def error_rate(metrics: Any) -> float:
            return metrics["word_error_rate"]

        directory, reads_alone = run_dir.resolve() / "checkpoints", keep is None
        if reads_alone and not directory.exists():
            raise FileNotFoundError(f"There is no checkpoint in {run_dir}.")
        processes = ocp.options.MultiprocessingOptions()
        if reads_alone:  # one process may read while others do not
            this = jax.process_index()
            processes = ocp.options.MultiprocessingOptions(this, {this}, f"reads-{this}")
        options = ocp.CheckpointManagerOptions(
            best_fn=error_rate,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(1),
                    checkpoint_managers.BestN(get_metric_fn=error_rate, reverse=True, n=keep),
                ]
            ),
            create=not reads_alone,
            cleanup_tmp_directories=not reads_alone,  # of a run that was killed while it saved
            multiprocessing_options=processes,
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(
        self, step: int, state: TrainingState, loader: dict[str, Any], word_error_rate: float
    ) -> None:
        """Stores the state after so many steps; the writing goes on in the background."""
        # Of arrays on several devices, Orbax would have each device write a slice, and what cuts
        # the slices would be compiled at the first checkpoint.
        training = jax.device_get(state)._asdict()
        average = training.pop("average")
        self._manager.save(
            step,
            args=ocp.args.Composite(
                training=ocp.args.StandardSave(training),
                average=ocp.args.StandardSave(average),
                loader=ocp.args.JsonSave(loader),
            ),
            metrics={"word_error_rate": word_error_rate},
        )

    def restore(self, like: TrainingState) -> tuple[int, TrainingState, dict[str, Any]] | None:
        """(steps done, state, loader's state) of the newest checkpoint, None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        training = like._asdict()
        average = training.pop("average")
        stored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                training=ocp.args.StandardRestore(training),
                average=ocp.args.StandardRestore(average),
                loader=ocp.args.JsonRestore(),
            ),
        )
        return (
            step,
            TrainingState(**stored["training"], average=stored["average"]),
            stored["loader"],
        )

    def best_average(self, like: nnx.State) -> nnx.State:
        """The averaged weights of the lowest word error rate."""
        step = self._manager.best_step()
        if step is None:
            raise FileNotFoundError(f"There is no checkpoint in {self._manager.directory}.")
        args = ocp.args.Composite(average=ocp.args.StandardRestore(like))
        return self._manager.restore(step, args=args)["average"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()


class History:
    """history.jsonl: a JSON object a line, for each report and each evaluation."""

    def __init__(self, run_dir: Path, step: int) -> None:
        """Of a run that goes on from a step: what came after it did not happen."""
        self._path = run_dir / "history.jsonl"
        is_first = jax.process_index() == 0
        has_past = is_first and self._path.exists()
        past = read_records(self._path) if has_past else []
        records = [record for record in past if record["step"] <= step]
        self.seconds = records[-1]["seconds"] if records else 0.0  # that it took so far
        if is_first:
            lines = "".join(json.dumps(record) + "\n" for record in records)
            replace(self._path, lines.encode())

    def append(self, **record: Any) -> None:
        if jax.process_index() == 0:
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
