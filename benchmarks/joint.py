"""The loss of a joint network beside that of its materialised logits: `python -m benchmarks.joint`.

Forward and backward of the mean cost with respect to encoder, predictor, kernel and bias; the same
with each option, and by the kernels of other GPUs that this one can run; and the pruned recipe by
its parts, of the summed costs.
"""

import argparse
import collections
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from benchmarks.contenders.joint_paths import JOINT, OPTION_WAYS, OWN, PATHS
from benchmarks.printing import joint_tables
from benchmarks.printing.results import in_mib, write
from benchmarks.problems import shapes
from benchmarks.problems.floor import ITEM_BYTES
from benchmarks.problems.shapes import JointCase
from benchmarks.running import joint_rows, processes
from jax_rnnt.rows.joint_capability import SWITCH

H, V, BATCH = 640, 1024, 32
# (N, T, U, H, V), model
CASES = (
    ((32, 400, 100, H, V), "random"),
    ((32, 400, 100, H, V), "confident"),
    ((16, 400, 100, H, 4096), "confident"),
    ((64, 700, 150, H, 4096), "confident"),
)
CPU_CASES = (((4, 100, 30, 128, 512), "random"), ((4, 100, 30, 128, 512), "confident"))
PRUNED_CASES = {
    "gpu": (
        (32, 400, 100, H, V),
        (16, 400, 100, H, 4096),
        (64, 700, 150, H, 4096),
    ),
    "cpu": ((4, 200, 50, 320, 512),),
}
# The matrix products whose rates are measured: a square one of this size, and for each H and V
# one of this many rows of logits.
SQUARE = {"gpu": 8192, "cpu": 1024}
ROWS = {"gpu": 1 << 16, "cpu": 1 << 12}
OPTIONS_CASES = {
    "gpu": ((32, 400, 100, H, V), (16, 400, 100, H, 4096)),
    "cpu": ((4, 100, 30, 128, 512),),
}
PRUNED, OPTIONS = "pruned", "options"
# Besides the GPU's own: those of other compute capabilities, and the plain tiles.
OTHER_KERNELS = {"gpu": ("8.0", "8.6", "none"), "cpu": ()}
WITH_OTHER_KERNELS = ("standard", "dropout 0.2")
# Its parts, as `running.on_pruned` describes them.
PARTS = ("joint", "whole", "simple", "ranges", "pruned", "band lattice", "full lattice")
PLUGINS = ("benchmarks.contenders.joint_paths",)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.platform:
        os.environ["JAX_PLATFORMS"] = options.platform
    utterances = None
    if options.librispeech:
        utterances = shapes.read_librispeech(options.librispeech)
    try:
        results, cases = _start(options, utterances)
        for group in _groups(cases):
            _measure(group, results, options)
            write(options.json, results)
        for kind, measure in ((OPTIONS, _measure_options), (PRUNED, _measure_pruned)):
            if kind in options.cases:
                measure(results, options)
                write(options.json, results)
    except processes.MissingError as error:
        raise SystemExit(f"The joint's loss does not run here: {error}") from None
    print(joint_tables.markdown(results))


def _start(
    options: argparse.Namespace, utterances: np.ndarray | None
) -> tuple[dict, list[JointCase]]:
    """The results without cases: the device and its rates of matrix products; and the cases."""
    cases: list[JointCase] = []

    def make_tasks(description: dict) -> processes.Tasks:
        platform = description["platform"]
        cases.extend(_cases(options, utterances, platform))
        rows = {(SQUARE[platform],) * 3, *((ROWS[platform], case.H, case.V) for case in cases)}
        return [
            {
                "kind": "product_rate",
                "arguments": dict(zip(("rows", "inner", "columns"), row), dtype=options.dtype),
            }
            for row in sorted(rows)
        ]

    description, tasks, answers = _run(JOINT, make_tasks, options)
    rates = [
        {**task["arguments"], "tflops": answer.get("flops_per_second", 0) / 1e12, **answer}
        for task, answer in zip(tasks, answers, strict=True)
    ]
    square = next(rate for rate in rates if rate["rows"] == rate["inner"] == rate["columns"])
    results = {
        "device": description["device"],
        "platform": description["platform"],
        "versions": {"python": sys.version.split()[0], **description["versions"]},
        "dtype": options.dtype,
        "options": _loss_options(options),
        "tflops": square["tflops"],
        "products": rates,
        "rows": [],
        "cases": [],
        "options_rows": [],
        "pruned": [],
    }
    return results, cases


def _cases(
    options: argparse.Namespace, utterances: np.ndarray | None, platform: str
) -> list[JointCase]:
    sizes = CPU_CASES if platform == "cpu" else CASES
    if options.shapes:
        sizes = itertools.product(options.shapes, ("random", "confident"))
    cases = []
    for (N, T, U, units, symbols), model in sizes:
        cases.append(
            JointCase.of(shapes.full(N, T, U, symbols), units, symbols, model, options.scale)
        )
    if utterances is not None:
        real = shapes.file_order(utterances, options.librispeech_batches, BATCH)
        cases += [JointCase.of(case, H, V, "random", options.scale) for case in real]
    return [case for case in cases if _kind(case) in options.cases]


def _kind(case: JointCase) -> str:
    return case.model if case.group == shapes.SYNTHETIC else "librispeech"


def _groups(cases: Sequence[JointCase]) -> list[list[JointCase]]:
    """Groups of cases, each for one process, smallest first: of one shape, or of one data set."""
    groups: dict[tuple, list[JointCase]] = {}
    for case in sorted(cases, key=lambda case: case.elements):
        own = case.group == shapes.SYNTHETIC and (case.N, case.T, case.U, case.V, case.H)
        groups.setdefault((case.group, own), []).append(case)
    return list(groups.values())


def _measure(group: Sequence[JointCase], results: dict, options: argparse.Namespace) -> None:
    """Enters both ways' figures, and what is common to them, for each case of the group."""
    keywords = _loss_options(options)
    with tempfile.TemporaryDirectory() as directory:

        def file(name: str, i: int) -> str:
            return str(pathlib.Path(directory) / f"{name}{i}.npz")

        def make_tasks(path: str) -> processes.Tasks:
            tasks = []

            def add(kind: str, i: int, **more) -> None:
                arguments = {"case": vars(group[i]), "options": keywords, **more}
                tasks.append({"kind": kind, "arguments": arguments})

            for i in range(len(group)):
                add("analyse", i)
                add("measure", i, gradients=file(path, i))
            # Last, because their peak of memory would hide that of the others.
            if results["platform"] == "gpu":
                for i in range(len(group)):
                    add("profile", i)
            if path == JOINT:
                for i in range(len(group)):
                    add("describe_posterior", i, gradients=file("truth", i))
            return tasks

        answers = {path: _answers(path, make_tasks(path), options) for path in PATHS}
        for i, case in enumerate(group):
            known = answers[JOINT]["describe_posterior"][i]
            rows = {
                path: {
                    "path": path,
                    **case.key,
                    **answers[path]["analyse"][i],
                    **answers[path]["measure"][i],
                    "profile": answers[path]["profile"][i] if answers[path]["profile"] else {},
                }
                for path in PATHS
            }
            for row in rows.values():
                joint_rows.add_products(row, known, results["tflops"])
                row.update(joint_rows.errors(file(row["path"], i), file("truth", i), "from_truth"))
                if "cost" in row and "cost" in known:
                    row["cost_from_truth"] = row["cost"] - known["cost"]
                results["rows"].append(in_mib(row))
            common = {**case.key, **known}
            common.update(joint_rows.errors(*(file(path, i) for path in PATHS), "between"))
            costs = [rows[path].get("cost") for path in PATHS]
            if None not in costs:
                common["cost_between"] = costs[0] - costs[1]
            results["cases"].append(common)


def _measure_options(results: dict, options: argparse.Namespace) -> None:
    """Enters the figures of the loss with each of its options, and on other GPUs' kernels."""
    for kernels in (OWN, *OTHER_KERNELS[results["platform"]]):
        own = kernels == OWN
        ways = OPTION_WAYS if own else WITH_OTHER_KERNELS
        rows = _each(
            "measure_option",
            "way",
            ways,
            OPTIONS_CASES,
            results,
            options,
            environment={} if own else {SWITCH: kernels},
        )
        results["options_rows"] += [{**row, "kernels": kernels} for row in rows]


def _measure_pruned(results: dict, options: argparse.Namespace) -> None:
    """Enters the figures of each part of the pruned recipe."""
    results["pruned"] = _each("measure_pruned", "part", PARTS, PRUNED_CASES, results, options)


def _each(
    kind: str, what: str, names: Sequence[str], cases: dict, results: dict, options, **more
) -> list[dict]:
    """The rows of a kind of tasks: of every shape one for each name of what is measured."""
    rows = []
    for N, T, U, units, symbols in options.shapes or cases[results["platform"]]:
        case = JointCase.of(shapes.full(N, T, U, symbols), units, symbols, "random", options.scale)
        tasks = [{"kind": kind, "arguments": {"case": vars(case), what: name}} for name in names]
        _, _, answers = _run(JOINT, lambda _, tasks=tasks: tasks, options, **more)
        rows += [
            in_mib({**case.key, what: name, **answer})
            for name, answer in zip(names, answers, strict=True)
        ]
    return rows


def _answers(
    path: str, tasks: processes.Tasks, options: argparse.Namespace
) -> dict[str, processes.Tasks]:
    """The answers to each kind of tasks, in order."""
    _, _, answers = _run(path, lambda _: tasks, options)
    by_kind: dict[str, processes.Tasks] = collections.defaultdict(list)
    for task, answer in zip(tasks, answers, strict=True):
        by_kind[task["kind"]].append(answer)
    return by_kind


def _run(path: str, make_tasks, options: argparse.Namespace, **more):
    return processes.run(
        path, make_tasks, dtype=options.dtype, plugins=PLUGINS, seconds=options.seconds, **more
    )


def _loss_options(options: argparse.Namespace) -> dict:
    """Those of `rnnt_loss_from_joint` that were given."""
    given = {"min_posterior": options.min_posterior, "tile": options.tile}
    return {name: value for name, value in given.items() if value is not None}


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 5 or min(sizes) < 1 or min(sizes[2], sizes[4]) < 2:
        raise argparse.ArgumentTypeError(f"a shape is N,T,U,H,V; U, V at least 2, got {text}")
    return sizes


def _tile(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    kinds = ("random", "confident", "librispeech", OPTIONS, PRUNED)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joint", description=__doc__)
    parser.add_argument("--json", default="benchmark_joint.json", help="file (%(default)s)")
    parser.add_argument("--dtype", default="bfloat16", choices=ITEM_BYTES)
    parser.add_argument("--shapes", nargs="+", type=_sizes, metavar="N,T,U,H,V")
    parser.add_argument("--cases", nargs="+", choices=kinds, default=kinds, help="these alone")
    parser.add_argument(
        "--scale", type=float, default=0.25, help="of a random encoder and predictor (%(default)s)"
    )
    parser.add_argument("--platform", help='"cpu" or "cuda", as JAX_PLATFORMS')
    parser.add_argument(
        "--librispeech", metavar="FILE", help=".npy (utterances, 2): frames, labels"
    )
    parser.add_argument("--librispeech-batches", type=int, default=3, metavar="COUNT")
    parser.add_argument("--tile", type=_tile, metavar="FRAMES,LABELS,TILES")
    parser.add_argument("--min-posterior", type=float)
    parser.add_argument("--seconds", type=float, default=300, help="for each process (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
