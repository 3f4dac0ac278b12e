"""Contenders' processes, one at a time: two allocators on one device would fight."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

START_SECONDS = 300  # for a contender to import what it needs
BROKEN = 3  # a worker's exit status after a failure that leaves the device unusable
# What the user has set stays.
_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
Tasks = list[dict[str, Any]]


class MissingError(Exception):
    """The contender does not run here."""


def run(
    name: str,
    make_tasks: Callable[[dict], Tasks],
    *,
    dtype: str,
    plugins: Sequence[str] = (),
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[dict, Tasks, Tasks]:
    """What the contender says of itself, its tasks, and the answer to each.

    A crash costs the task in progress, and a new process takes the rest.

    Args:
        make_tasks: from what the contender says of itself to its tasks.
        seconds: of the whole, from the first start on; tasks that come too late are answered with
            an error.
        environment: variables that the process has besides this one's.

    Raises:
        MissingError: If the contender does not import or start.
    """
    deadline = float("inf")
    description: dict = {}
    tasks: Tasks | None = None
    answers: Tasks = []
    while tasks is None or len(answers) < len(tasks):
        with _worker(name, plugins, environment or {}) as (process, limit):
            assert process.stdout is not None
            description = json.loads(process.stdout.readline() or '{"missing": "crashed"}')
            # Importing a framework from a cold disk may take minutes; that is not the contender's.
            deadline = min(deadline, time.monotonic() + seconds)
            limit(deadline - time.monotonic())
            if tasks is None:
                if "missing" in description:
                    raise MissingError(description["missing"])
                tasks = make_tasks(description)
            _send(process, {"dtype": dtype, "tasks": tasks[len(answers) :]})
            for line in process.stdout:
                answers.append(json.loads(line))
                _progress(f"{name}: {len(answers)}/{len(tasks)}")
        if time.monotonic() >= deadline:
            late = {"error": f"not within {seconds:.0f} s"}
            answers += [late] * (len(tasks) - len(answers))
        elif process.returncode not in (0, BROKEN) or "missing" in description:
            answers.append({"error": f"crashed (exit status {process.returncode})"})
    _progress("\n")
    return description, tasks, answers


@contextlib.contextmanager
def _worker(
    name: str, plugins: Sequence[str], more: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen, Callable[[float], None]]]:
    """A contender's process, and a function that sets the seconds after which it is killed."""
    environment = {**_ENVIRONMENT, **os.environ, **more}
    # It finds what this process finds, in the same order.
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, "-P", "-m", "benchmarks.running.worker", name, *plugins]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        timers: list[threading.Timer] = []

        def limit(seconds: float) -> None:
            for timer in timers:
                timer.cancel()
            timers.append(threading.Timer(max(0.0, seconds), process.kill))
            timers[-1].start()

        limit(START_SECONDS)
        try:
            yield process, limit
            process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            timers[-1].cancel()
            with contextlib.suppress(BrokenPipeError):  # of a request that nobody lived to read
                process.stdin.close()


def _send(process: subprocess.Popen, request: dict) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)
