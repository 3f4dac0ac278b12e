"""The losses under load: `python -m tools.load steps | threads | processes [--json FILE]`.

    steps      a training of changing shapes and lengths, twice: does memory grow, and are losses
               and parameters the same bits?
    threads    jitted losses and gradients called by several threads at once, the first calls
               included: are they what one thread gets?
    processes  the training alone and in several processes at once on one device: are they the same
               bits, and how much slower is it?

Runs on a GPU or a CPU with jax, numpy and jax_rnnt alone. The exit status is 1 where an answer is
not as it should be.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.printing.markdown import grid, number
from benchmarks.printing.results import write

MIB = 2**20
# Bounds of the growth over the second half: of the host's memory in 1000 steps (262 bytes a step)
# and in all; of the device's, whose smallest buffer has 256 bytes, in all.
GROWTH, LEAPS, DEVICE_GROWTH = MIB / 4, 16 * MIB, 1 << 16
_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # Without this flag every process chooses a GPU's matrix products by timing them itself.
    "XLA_FLAGS": f"--xla_gpu_autotune_level=0 {os.environ.get('XLA_FLAGS', '')}".strip(),
}

Results = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    results = {"steps": steps, "threads": threads, "processes": processes}[options.command](options)
    if options.json:
        write(options.json, results)
    print(f"{results['device']}, JAX {results['jax']}\n\n{results['table']}\n")
    for text, is_so in results["verdicts"].items():
        print(f"{'yes' if is_so else 'NO '} {text}")
    if not all(results["verdicts"].values()):
        sys.exit(1)


def steps(options: argparse.Namespace) -> Results:
    training = {"steps": options.steps, "seed": options.seed, "cases": options.cases}
    runs = [run_at_once("train", [training])[0] for _ in range(2)]
    columns = (
        *("run", "s", "compiled before", "during", "memory, MiB", "warm", "half-time"),
        *("largest", "last", "in 1000 steps, fitted", "median"),
    )
    rows, growths = [], []
    for i, run in enumerate(runs):
        for j, name in enumerate(("host", "device", "device, peak"), 1):
            found = growth(run["samples"], j)
            growths.append({"run": i, "memory": name, **found})
            sizes = (f"{value / MIB:.3f}" for value in found.values())
            rows.append((i + 1, number(run["seconds"]), *run["compilations"], name, *sizes))
    host = [x for x in growths if x["memory"] == "host"]
    device = [x for x in growths if x["memory"] != "host"]
    return {
        "device": runs[0]["device"],
        "jax": runs[0]["jax"],
        "options": training,
        "runs": runs,
        "growths": growths,
        "table": grid(columns, rows),
        "verdicts": {
            "every loss is finite": all(run["finite"] for run in runs),
            "nothing was compiled after the warm-up": not any(x["compilations"][1] for x in runs),
            f"the host's memory grows by less than {GROWTH / MIB:g} MiB in 1000 steps": all(
                x["median_per_1000_steps"] < GROWTH for x in host
            ),
            f"nor by {LEAPS // MIB} MiB over the second half": all(
                x["last"] - x["half"] < LEAPS for x in host
            ),
            f"the device's, nor its peak, by {DEVICE_GROWTH} bytes over the second half": all(
                x["last"] - x["half"] < DEVICE_GROWTH for x in device
            ),
            "the second run has the same bits": len({run["digest"] for run in runs}) == 1,
        },
    }


def growth(samples: Sequence[Sequence[int]], column: int) -> dict[str, float]:
    """Bytes after the warm-up, at half-time, at most and at the end; slopes of the second half.

    An allocator grows by leaps until it has what it needs, and a fitted line takes a leap for a
    slope. The median of the slopes from sample to sample shows a leak alone.
    """
    table = np.array(samples, float)
    half = table[len(table) // 2 :]
    step, values = half[:, 0], half[:, column]
    return {
        "first": table[0, column],
        "half": values[0],
        "largest": table[:, column].max(),
        "last": values[-1],
        "fitted_per_1000_steps": 1000 * np.polyfit(step, values, 1)[0],
        "median_per_1000_steps": 1000 * float(np.median(np.diff(values) / np.diff(step))),
    }


def threads(options: argparse.Namespace) -> Results:
    calls = {"rounds": options.rounds, "cases": options.cases}
    (alone,) = run_at_once("call", [{**calls, "threads": 1, "rounds": 1, "alike": True}])
    runs = []
    for i in range(options.runs):
        alike = i % 2 == 1
        (run,) = run_at_once("call", [{**calls, "threads": options.threads, "alike": alike}])
        runs.append({"alike": alike, "same": run["digests"] == alone["digests"], **run})
    rows = [
        (
            i + 1,
            "the same" if run["alike"] else "each another",
            run["calls"],
            number(run["seconds"]),
            "yes" if run["same"] else "no",
        )
        for i, run in enumerate(runs)
    ]
    return {
        "device": alone["device"],
        "jax": alone["jax"],
        "options": {**calls, "threads": options.threads},
        "alone": alone,
        "runs": runs,
        "table": grid(("process", "first call", "calls", "s", "bits as alone"), rows),
        "verdicts": {
            f"{options.threads} threads get the bits that one gets": all(x["same"] for x in runs)
        },
    }


def processes(options: argparse.Namespace) -> Results:
    training = {"steps": options.steps, "seed": options.seed, "cases": options.cases}
    (alone,) = run_at_once("train", [training])
    together = run_at_once("train", [training] * options.processes)
    ratios = [run["seconds"] / alone["seconds"] for run in together]
    rows = [("alone", number(alone["seconds"]), "", "")]
    rows += [
        (
            f"{i + 1} of {options.processes} at once",
            number(run["seconds"]),
            number(ratio),
            "yes" if run["digest"] == alone["digest"] else "no",
        )
        for i, (run, ratio) in enumerate(zip(together, ratios))
    ]
    return {
        "device": alone["device"],
        "jax": alone["jax"],
        "options": training,
        "alone": alone,
        "together": together,
        "ratios": ratios,
        "table": grid(("process", "s", "over alone", "bits as alone"), rows),
        "verdicts": {
            f"{options.processes} processes at once get the bits that one gets": all(
                run["digest"] == alone["digest"] for run in together
            )
        },
    }


def run_at_once(name: str, tasks: Sequence[Results]) -> list[Results]:
    """The results of workers that run at the same time, started when all of them are ready."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(name, task)) for task in tasks]
        for worker in workers:
            if worker.stdout.readline() != "ready\n":
                sys.exit(f"tools.load_worker {name} did not start")
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        answers = [worker.stdout.read() for worker in workers]
        if any(worker.wait() for worker in workers):
            sys.exit(f"tools.load_worker {name} failed")
    return [json.loads(answer) for answer in answers]


@contextlib.contextmanager
def _worker(name: str, task: Results) -> Iterator[Any]:
    environment = {**os.environ, **_ENVIRONMENT}
    # The worker imports from the same paths as this process, in the same order.
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, "-P", "-m", "tools.load_worker", name, json.dumps(task)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", metavar="FILE", help="where to write the results")
    common.add_argument("--cases", type=int, default=12, help="the first so many of 12")
    training = argparse.ArgumentParser(add_help=False)
    training.add_argument("--seed", type=int, default=0)
    parser = argparse.ArgumentParser(prog="python -m tools.load", description="See the file.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("steps", parents=[common, training])
    command.add_argument("--steps", type=int, default=10_000)
    command = commands.add_parser("threads", parents=[common])
    command.add_argument("--threads", type=int, default=8)
    command.add_argument("--rounds", type=int, default=20, help="calls of each case by each thread")
    command.add_argument("--runs", type=int, default=4, help="processes, one after the other")
    command = commands.add_parser("processes", parents=[common, training])
    command.add_argument("--processes", type=int, default=2)
    command.add_argument("--steps", type=int, default=1000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
