"""The clock and the progress bar of a run."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .result import CurvePoint


class Clock:
    """Seconds of this run alone, and of this run and the runs before it together."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._user_start = os.times().user
        self._earlier = (0.0, 0.0)

    def go_on_from(self, seconds: float, user_cpu_seconds: float) -> None:
        self._earlier = (seconds, user_cpu_seconds)

    def run_seconds(self) -> float:
        return time.perf_counter() - self._start

    def seconds(self) -> float:
        return self._earlier[0] + self.run_seconds()

    def user_cpu_seconds(self) -> float:
        return self._earlier[1] + os.times().user - self._user_start


class ProgressBar:
    """The progress bar, with a line for each evaluation above it."""

    def __init__(self, progress: Progress, batch_size: int, steps: int, first_step: int) -> None:
        self._progress = progress
        self._batch_size = batch_size
        self._recent: list[tuple[float, float]] = []  # (time, loss) of the last steps
        self._task = progress.add_task(
            "training",
            total=steps,
            completed=first_step,
            loss="-",
            error_rate="-",
            speed="-",
        )

    def step(self, loss: float) -> None:
        self._recent = [*self._recent[-20:], (time.perf_counter(), loss)]
        elapsed = self._recent[-1][0] - self._recent[0][0]
        utterances = (len(self._recent) - 1) * self._batch_size
        self._progress.update(
            self._task,
            advance=1,
            loss=f"{np.mean([loss for _, loss in self._recent]):.3f}",
            speed=f"{utterances / elapsed:.0f}" if elapsed else "-",
        )

    def evaluated(self, point: CurvePoint) -> None:
        error_rate = f"{100 * point.digit_error_rate:.2f} %"
        self._progress.update(self._task, error_rate=error_rate)
        self._progress.console.print(
            f"step {point.step:5d}  {point.seconds:6.1f} s  loss {point.loss:7.3f}  "
            f"digit errors {error_rate}",
            highlight=False,
        )
        self._recent = []  # the next speed is one without the evaluation


@contextmanager
def progress_bar(
    batch_size: int, steps: int, first_step: int, enabled: bool
) -> Iterator[ProgressBar]:
    """Shows a bar while the block runs, or nothing at all if it is not enabled."""
    columns = (
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("digit errors {task.fields[error_rate]}"),
        TextColumn("{task.fields[speed]} utterances/s"),
        TimeElapsedColumn(),
    )
    console = Console(quiet=not enabled)
    with Progress(*columns, console=console, disable=not enabled) as progress:
        yield ProgressBar(progress, batch_size, steps, first_step)
