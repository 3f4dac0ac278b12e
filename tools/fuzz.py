"""Calls the public functions with many legal and illegal arguments, and checks how each call ends.

    python -m tools.fuzz --cases 100000 --seed 0 --processes 2 [--seconds S] [--json FILE]
    python -m tools.fuzz --seed 0 --only INDEX      one case again, with its arguments

Runs on the default backend and needs what the tests need. tests/fuzz/fuzz_cases.py draws the cases;
tests/fuzz/fuzz_answers.py judges the answers and says what counts as right. A finding is printed
with its index, and so is a case that killed its process. Exits with 1 if there were any.
"""

import argparse
import collections
import json
import multiprocessing.connection
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# XLA's compilation takes most of the time; the kernels are compiled already.
_FLAG = "--xla_llvm_disable_expensive_passes"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=true".strip()
_TESTS = pathlib.Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "fuzz")]

_BATCH = 50  # cases in each report of a worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--signatures", type=int, default=48, help="compiled for by each process")
    parser.add_argument("--only", type=int, metavar="INDEX", help="one case, in this process")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.only is not None:
        sys.exit(show(options.seed, options.signatures, options.only))
    started = time.monotonic()
    summary = Summary()
    for report in reports(options, started + options.seconds):
        summary.add(report)
    summary.seconds = time.monotonic() - started
    print(summary.table())
    if options.json:
        results = summary.as_dict() | {"seed": options.seed, "signatures": options.signatures}
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(bool(summary.findings))


def show(seed: int, signatures: int, index: int) -> int:
    """One case in full; 1 if it is a finding."""
    import fuzz_answers

    case = draw(seed, signatures, index)
    print(case)
    verdict = fuzz_answers.judge(case)
    print("\n".join([verdict.outcome, *verdict.findings]))
    return int(bool(verdict.findings))


def draw(seed: int, signatures: int, index: int):
    import fuzz_cases
    import fuzz_signatures

    source = fuzz_signatures.RandomSource(seed, index)
    return fuzz_cases.draw_case(source, fuzz_signatures.pool(seed, signatures))


class Summary:
    """The number of cases by how they ended, and the findings."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.findings: list[dict] = []
        self.device = "no device"
        self.counts: collections.Counter = collections.Counter()

    def add(self, report: dict) -> None:
        self.device = report.get("device", self.device)
        self.counts.update({tuple(key): count for key, count in report["counts"]})
        for finding in report["findings"]:
            self.findings.append(finding)
            print(f"case {finding['index']}: {finding['what']}", flush=True)

    def as_dict(self) -> dict:
        keys = ("function", "kind", "subject", "mode", "outcome", "precision")
        counts = [{**dict(zip(keys, k)), "cases": n} for k, n in sorted(self.counts.items())]
        return {
            "device": self.device,
            "seconds": self.seconds,
            "cases": self.counts.total(),
            "findings": self.findings,
            "counts": counts,
        }

    def table(self) -> str:
        parts = [
            f"{self.counts.total()} cases on {self.device} in {self.seconds:.0f} s, "
            f"{len(self.findings)} findings",
            self._by("function", (0,)),
            self._by("dtype and mode", (5, 3)),
            self._by("kind and outcome", (1, 4)),
            self._by("illegal argument and error", (2, 4), lambda key: "Error" in key[4]),
            self._by("values", (2,), lambda key: key[1] == "values"),
            self._by("container", (2,), lambda key: key[1] == "containers"),
        ]
        return "\n\n".join(parts)

    def _by(self, title: str, columns: Iterable[int], wanted=lambda key: True) -> str:
        columns = tuple(columns)
        found: collections.Counter = collections.Counter()
        for key, count in self.counts.items():
            if wanted(key):
                found[tuple(key[i] for i in columns)] += count
        lines = [f"| {' | '.join(key)} | {count} |" for key, count in sorted(found.items())]
        return "\n".join(
            [f"| {title}{' |' * len(columns)} cases |", "|---" * (len(columns) + 1) + "|", *lines]
        )


# ---- Processes


def reports(options: argparse.Namespace, deadline: float) -> Iterator[dict]:
    """The workers' reports, and a report with a finding for each case that killed a worker."""
    context = multiprocessing.get_context("spawn")
    workers = [_Worker(context, options, i) for i in range(options.processes)]
    while workers:
        ready = multiprocessing.connection.wait([w.pipe for w in workers], timeout=1)
        for worker in [w for w in workers if w.pipe in ready]:
            try:
                report = worker.pipe.recv()
            except EOFError:
                yield worker.killed()
                worker.start()
                continue
            yield report
            worker.done = report["done"]
            if report["finished"] or time.monotonic() > deadline:
                worker.stop()
                workers.remove(worker)


class _Worker:
    """A process that runs one of every `processes` cases; started again when a case kills it."""

    def __init__(self, context, options: argparse.Namespace, first: int):
        self._context, self._options = context, options
        self._current = context.Value("q", -1)
        self._skipped: list[int] = []
        self.done = first  # the index to go on from
        self.start()

    def start(self) -> None:
        self.pipe, far = self._context.Pipe(duplex=False)
        o = self._options
        arguments = (far, self._current, o.seed, o.signatures, self.done, o.cases, o.processes)
        self._process = self._context.Process(target=_work, args=(*arguments, self._skipped))
        self._process.start()
        far.close()

    def killed(self) -> dict:
        self._process.join()
        index = self._current.value
        if index < 0 or index in self._skipped:
            raise RuntimeError(f"a worker ended with {self._process.exitcode} outside of a case")
        self._skipped.append(index)
        what = f"killed its process (exit status {self._process.exitcode})"
        key = ("?", "?", "?", "?", "killed", "?")
        return {"counts": [(key, 1)], "findings": [{"index": index, "what": what}]}

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


def _work(pipe, current, seed, signatures, first, cases, step, skipped) -> None:
    import fuzz_answers
    import jax

    device = f"{jax.devices()[0].device_kind} ({jax.default_backend()}), JAX {jax.__version__}"
    counts: collections.Counter = collections.Counter()
    findings: list[dict] = []
    for index in range(first, cases, step):
        if index not in skipped:
            current.value = index
            case = draw(seed, signatures, index)
            verdict = fuzz_answers.judge(case)
            mode = "jitted" if case.jitted else "eager"
            function = str(case.signature.function)
            precision = case.signature.dtype + ", x64" * case.signature.x64
            counts[function, case.kind, case.subject, mode, verdict.outcome, precision] += 1
            for what in verdict.findings:
                findings.append({"index": index, "what": f"{function}: {what}", "case": str(case)})
        following = index + step
        if counts.total() >= _BATCH or following >= cases:
            report = {"counts": list(counts.items()), "findings": findings, "device": device}
            pipe.send(report | {"done": following, "finished": following >= cases})
            counts, findings = collections.Counter(), []
    if first >= cases:
        pipe.send({"counts": [], "findings": [], "done": first, "finished": True})


if __name__ == "__main__":
    main()
