"""One contender in a process of its own: `python -m benchmarks.running.worker NAME [PLUGIN ...]`.

The first line written is what runs where. Then one line of JSON is read, {"dtype": ..., "tasks":
[...]}, and one is written for each task, in order, so that a crash loses one task alone.
"""

import functools
import gc
import importlib
import json
import os
import sys
from collections.abc import Callable

from benchmarks.contenders.peers import CONTENDERS
from benchmarks.measuring import timing
from benchmarks.problems import precision
from benchmarks.problems.shapes import Case
from benchmarks.running.processes import BROKEN


def main() -> None:
    replies = _take_stdout()
    name, *plugins = sys.argv[1:]
    for plugin in plugins:
        importlib.import_module(plugin)
    contender = CONTENDERS[name]
    try:
        loss = contender.make()
        framework = importlib.import_module(
            f"benchmarks.running.on_{contender.framework}"
        ).Framework
        description = framework(loss, "float32").describe()
        module = sys.modules.get(contender.requires)
        version = getattr(module, "__version__", "unknown")
        description["versions"].setdefault(contender.requires, version)
        print(json.dumps(description), file=replies, flush=True)
    except Exception as error:
        print(json.dumps({"missing": _first_line(error)}), file=replies, flush=True)
        return
    request = json.loads(sys.stdin.readline())
    side = framework(loss, request["dtype"])
    for task in request["tasks"]:
        result, broken = _attempt(side, task)
        print(json.dumps(result), file=replies, flush=True)
        if broken:
            os._exit(BROKEN)


def _take_stdout():
    """The process's standard output; what libraries print goes to standard error instead."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _attempt(side, task: dict) -> tuple[dict, bool]:
    try:
        return _task(side, task["kind"])(**task.get("arguments", {})), False
    except Exception as error:
        message = _first_line(error)
    gc.collect()  # the failed call's arrays went with the traceback
    return {"error": message}, not side.healthy()


def _task(side, kind: str) -> Callable[..., dict]:
    """What all frameworks are asked, or the framework's own method of that name."""
    if kind in _TASKS:
        return functools.partial(_TASKS[kind], side)
    return getattr(side, kind)


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return "out of memory"
    return text.splitlines()[0][:200]


def _bandwidth(side) -> dict:
    return {"bytes_per_second": side.copy_bandwidth()}


def _time(side, case: dict, forward: bool) -> dict:
    problem = side.prepare(Case(**case))
    figures = {"forward_backward_ms": 1e3 * timing.measure(problem.both, problem.wait)}
    if forward:
        figures["forward_ms"] = 1e3 * timing.measure(problem.forward, problem.wait)
    return {**figures, **problem.analyse(), "input_sets": len(problem.inputs)}


def _precision(side, case: dict, dtype: str) -> dict:
    problem = Case(**case)
    logits = precision.rounded_logits(problem, dtype)
    costs, gradient = side.gradient(logits, problem)
    return precision.errors(costs, gradient, logits, problem)


def _train_step(side, case: dict) -> dict:
    return side.train_step(Case(**case))


_TASKS = {
    "bandwidth": _bandwidth,
    "time": _time,
    "precision": _precision,
    "train_step": _train_step,
}


if __name__ == "__main__":
    main()
