"""What a run prints and writes down while it goes on."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from .checkpoint import History
from .evaluate import Evaluation
from .optimizer import MOST_BAD_BATCHES
from .settings import ExplainedError
from .step import Totals


class Compilations:
    """How many programs this process has compiled, and when the last of them was done."""

    def __init__(self) -> None:
        self.count, self.last = 0, time.perf_counter()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count, self.last = self.count + 1, time.perf_counter()


COMPILATIONS = Compilations()


class Progress:
    """Lines of loss, speed and waiting on the console, and the same in the history.

    Args:
        history: of the run.
        every: steps between two lines.
        quiet: print nothing; all processes but one do not.
    """

    def __init__(self, history: History, every: int, *, quiet: bool = False) -> None:
        self._history, self._every = history, every
        self.console = Console(quiet=quiet or jax.process_index() > 0, highlight=False)
        self._start = time.perf_counter() - history.seconds
        self._last: Totals | None = None
        self._bad_in_a_row = 0
        self.begin()

    def begin(self) -> None:
        """What came before is no part of the next line's speed."""
        self._cost = self._utterances = self._waited = 0.0
        self._steps, self._since = 0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of this run, and of those that it goes on from."""
        return time.perf_counter() - self._start

    def batch(self, totals: Totals, waited: float) -> None:
        """After a batch is under way, for whose rows the loader was waited for so many seconds."""
        self._waited += waited
        self._add(self._last)
        self._last = totals

    def _add(self, totals: Totals | None) -> None:
        """Waits for the batch before: the device always has one to compute, never many."""
        if totals is None:
            return
        if math.isfinite(cost := float(totals.cost)):
            self._bad_in_a_row = 0
            self._cost += cost
            self._utterances += float(totals.utterances)
            return
        self._bad_in_a_row += 1
        if self._bad_in_a_row > MOST_BAD_BATCHES:
            raise ExplainedError(
                f"The loss of {self._bad_in_a_row} batches on end is not finite. The same command "
                "goes on from the last checkpoint; a lower --learning-rate may help."
            )

    def step(self, step: int, steps: int, bad_batches: Callable[[], int]) -> None:
        """After a step; a line each `every` steps, which alone asks for the bad batches."""
        self._steps += 1
        if step % self._every and step != steps:
            return
        self._add(self._last)
        self._last = None
        elapsed = time.perf_counter() - self._since
        loss = self._cost / self._utterances if self._utterances else math.nan
        seconds = self.seconds
        steps_a_second, utterances_a_second, waiting = (
            x / elapsed for x in (self._steps, self._utterances, self._waited)
        )
        self._history.append(
            step=step,
            seconds=round(seconds, 2),
            loss=loss,
            steps_a_second=steps_a_second,
            utterances_a_second=utterances_a_second,
            waiting=waiting,
            compiled=COMPILATIONS.count,
            compiled_after=round(self._compiled_after, 2),
        )
        self.console.print(
            f"{seconds:6.0f} s  step {step} of {steps}  loss {loss:.3f}  "
            f"{steps_a_second:.2f} steps/s  {utterances_a_second:.0f} utterances/s  "
            f"waiting {waiting:.1%}  bad batches {bad_batches()}",
            soft_wrap=True,
        )
        self.begin()

    @property
    def _compiled_after(self) -> float:
        """Seconds of the run until the newest program was there."""
        return COMPILATIONS.last - self._start

    def trained(self) -> None:
        """After the last step: a program that came late is a shape that changed on the way."""
        self.console.print(
            f"{COMPILATIONS.count} programs compiled, the last after {self._compiled_after:.0f} s"
        )

    def evaluated(self, step: int, evaluation: Evaluation, **more: Any) -> None:
        """After an evaluation; its time is no step's."""
        rate, samples = evaluation
        seconds = self.seconds
        self._history.append(
            step=step, seconds=round(seconds, 2), word_error_rate=rate, samples=samples, **more
        )
        notes = "".join(f"  {name.replace('_', ' ')} {value:.4g}" for name, value in more.items())
        table = Table(title=f"step {step}: word error rate {rate:.2%}{notes}", expand=True)
        table.add_column("said")
        table.add_column("heard")
        for pair in samples:
            table.add_row(*pair)
        self.console.print(table)
        self.begin()
