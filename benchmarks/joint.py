"""The loss of a joint network beside that of its materialised logits: `python -m benchmarks.joint`.

Forward and backward of the mean cost with respect to encoder, predictor, kernel and bias.
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

from benchmarks.contenders.joint_paths import JOINT, MATERIALISED
from benchmarks.printing import table
from benchmarks.printing.results import ITEM_BYTES, in_mib, write
from benchmarks.problems import shapes
from benchmarks.problems.shapes import JointCase
from benchmarks.running import processes

H, V, BATCH = 640, 1024, 32
# (N, T, U, H, V), model
CASES = (
    ((32, 400, 100, H, V), "random"),
    ((32, 400, 100, H, V), "confident"),
    ((16, 400, 100, H, 4096), "confident"),
    ((64, 700, 150, H, 4096), "confident"),
)
CPU_CASES = (((4, 100, 30, 128, 512), "random"), ((4, 100, 30, 128, 512), "confident"))
# Of the time and of the temporary memory of the materialised logits' way, at most.
TARGETS = {
    ((32, 400, 100, H, V), "random"): (0.9, 1 / 15),
    ((32, 400, 100, H, V), "confident"): (0.45, 1 / 15),
    ((16, 400, 100, H, 4096), "confident"): (0.4, 1 / 30),
}
LIBRISPEECH_TARGET, CPU_TARGET = (0.5, 1 / 15), (1.0, 1.0)
SQUARE = {"gpu": 8192, "cpu": 1024}  # of the matrix product whose rate is measured
ROWS = {"gpu": 1 << 16, "cpu": 1 << 12}  # of the other: rows of logits
PATHS = JOINT, MATERIALISED
PLUGINS = ("benchmarks.contenders.joint_paths",)
# Matrix products of H x V a cell: forward; backward, on the cells that it takes.
PRODUCTS = {JOINT: (1, 3), MATERIALISED: (1, 2)}


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
    except processes.MissingError as error:
        raise SystemExit(f"The joint's loss does not run here: {error}") from None
    print(markdown(results))


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
    """Cases that one process measures, smallest first: what compiles alike, or one data set."""
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
            # Behind the others, whose peak of memory these would hide.
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
                _add_products(row, known, results["tflops"])
                row.update(_errors(file(row["path"], i), file("truth", i), "from_truth"))
                if "cost" in row and "cost" in known:
                    row["cost_from_truth"] = row["cost"] - known["cost"]
                results["rows"].append(in_mib(row))
            common = {**case.key, **known}
            common.update(_errors(file(JOINT, i), file(MATERIALISED, i), "between"))
            costs = [rows[path].get("cost") for path in PATHS]
            if None not in costs:
                common["cost_between"] = costs[0] - costs[1]
            results["cases"].append(common)


def _answers(
    path: str, tasks: processes.Tasks, options: argparse.Namespace
) -> dict[str, processes.Tasks]:
    """The answers to each kind of tasks, in order."""
    _, _, answers = _run(path, lambda _: tasks, options)
    by_kind: dict[str, processes.Tasks] = collections.defaultdict(list)
    for task, answer in zip(tasks, answers, strict=True):
        by_kind[task["kind"]].append(answer)
    return by_kind


def _run(path: str, make_tasks, options: argparse.Namespace):
    return processes.run(
        path, make_tasks, dtype=options.dtype, plugins=PLUGINS, seconds=options.seconds
    )


def _loss_options(options: argparse.Namespace) -> dict:
    """Those of `rnnt_loss_from_joint` that were given."""
    given = {"min_posterior": options.min_posterior, "tile": options.tile}
    return {name: value for name, value in given.items() if value is not None}


def _add_products(row: dict, known: dict, tflops: float) -> None:
    """The time that the needed matrix products alone take at the measured rate."""
    if "cells" not in known or "forward_backward_ms" not in row or not tflops:
        return
    forward, backward = PRODUCTS[row["path"]]
    cells = known["kept_cells"] if row["path"] == JOINT else known["cells"]
    a_cell = 2 * row["H"] * row["V"] / tflops / 1e9
    row["backward_ms"] = row["forward_backward_ms"] - row["forward_ms"]
    row["forward_products_ms"] = forward * known["cells"] * a_cell
    row["backward_products_ms"] = backward * cells * a_cell


def _errors(file: str, reference: str, name: str) -> dict:
    """Norms of the gradients' differences over the reference's norms, if both files exist."""
    if not (pathlib.Path(file).exists() and pathlib.Path(reference).exists()):
        return {}
    with np.load(file) as ours, np.load(reference) as theirs:
        errors = {
            key: float(np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(theirs[key]))
            for key in theirs.files
        }
    return {f"relative_{name}": errors}


def markdown(results: dict) -> str:
    groups: dict[tuple, list[tuple[dict, dict, dict]]] = {}
    for i, case in enumerate(results["cases"]):
        both = results["rows"][2 * i : 2 * i + 2]
        own = (case["N"], case["T"], case["U"], case["H"], case["V"], case["model"])
        key = own if case["group"] == shapes.SYNTHETIC else (case["group"],)
        groups.setdefault(key, []).append((case, *both))
    sums = [_Sum(list(group), results) for group in groups.values()]
    return "\n\n".join(
        [
            _header(results),
            "## Time and temporary memory",
            _beside(sums),
            "## Matrix products",
            "Share: what the products that are needed take at the rate of the square one, over "
            "the time.",
            _products(sums),
            "## On the device",
            "Forward and backward under the profiler, ms. Fused: products with the activations "
            "before and the log-softmax or its gradient behind them. Sums: the gradients of the "
            "activations and what becomes of them. Rows: the log-softmax and its gradient alone. "
            "Other: what XLA makes of the rest. Idle: what remains of the time above.",
            _profiles(sums),
            "## Cells",
            "Within the lengths, but those of tiles, which are counted whole. The forward takes "
            "all tiles that hold one within; the backward's are found from the float32 gradient "
            "by the rule that the loss documents.",
            _cells(sums),
            "## Precision",
            "Largest relative error among the four gradients; costs in nats.",
            _precision(sums),
        ]
    )


class _Sum:
    """The figures of one line: of one case, or of the batches of a data set."""

    def __init__(self, group: Sequence[tuple[dict, dict, dict]], results: dict):
        self.cases = [case for case, _, _ in group]
        self.rows = {
            JOINT: [row for _, row, _ in group],
            MATERIALISED: [row for _, _, row in group],
        }
        first = self.cases[0]
        own = tuple(first[name] for name in ("N", "T", "U", "H", "V"))
        self.target = TARGETS.get((own, first["model"]))
        self.name = f"({', '.join(map(str, own))})"
        self.model = first["model"]
        if first["group"] != shapes.SYNTHETIC:
            self.name = f"LibriSpeech, {len(self.cases)} x {first['N']} in file order"
            self.target = LIBRISPEECH_TARGET
        if results["platform"] == "cpu":
            self.target = CPU_TARGET
        elif results["dtype"] != "bfloat16":
            self.target = None

    def failure(self, path: str) -> str | None:
        return next((row["error"] for row in self.rows[path] if "error" in row), None)

    def sum(self, path: str, name: str) -> float | None:
        values = [row.get(name) for row in self.rows[path]]
        return None if None in values else sum(values)

    def most(self, path: str, name: str) -> float | None:
        values = [row[name] for row in self.rows[path] if name in row]
        return max(values, default=None)

    def of_cases(self, name: str) -> float | None:
        values = [case.get(name) for case in self.cases]
        return None if None in values else sum(values)

    def mean(self, name: str, weight: str) -> float | None:
        values = [case.get(name) for case in self.cases]
        if None in values:
            return None
        return float(np.average(values, weights=[case[weight] for case in self.cases]))


def _header(results: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    products = ", ".join(
        f"({rate['rows']}, {rate['inner']}) x ({rate['inner']}, {rate['columns']}) "
        + (rate.get("error") or table.number(rate["tflops"], " TFLOP/s"))
        for rate in results["products"]
    )
    given = ", ".join(f"{name} = {value}" for name, value in results["options"].items())
    return "\n".join(
        [
            f"# {results['device']}, {results['dtype']}",
            f"- {versions}",
            f"- matrix products: {products}",
            f"- options: {given or 'defaults'}",
        ]
    )


def _beside(sums: Sequence[_Sum]) -> str:
    columns = (
        "(N, T, U, H, V)",
        "model",
        "joint, ms",
        "materialised, ms",
        "time over materialised",
        "joint, MiB",
        "materialised, MiB",
        "memory over materialised",
        "allocator's peak, MiB: joint",
        "materialised",
    )
    lines = []
    for line in sums:
        times = [line.sum(path, "forward_backward_ms") for path in PATHS]
        memory = [line.most(path, "temporary_mib") for path in PATHS]
        time_target, memory_target = line.target or (None, None)
        lines.append(
            (
                line.name,
                line.model,
                *(line.failure(path) or table.number(x) for path, x in zip(PATHS, times)),
                _ratio(*times, time_target),
                *map(table.number, memory),
                _ratio(*memory, memory_target),
                *(table.number(line.most(path, "allocated_mib")) for path in PATHS),
            )
        )
    return table.grid(columns, lines)


def _products(sums: Sequence[_Sum]) -> str:
    columns = (
        "(N, T, U, H, V)",
        "model",
        "way",
        "forward, ms",
        "products, ms",
        "share",
        "backward, ms",
        "products, ms",
        "share",
        "rest of both, ms",
    )
    lines = []
    for line, path in itertools.product(sums, PATHS):
        figures, rest = [], 0.0
        for what in ("forward", "backward"):
            total = line.sum(path, f"{what}_ms")
            products = line.sum(path, f"{what}_products_ms")
            if total is None or products is None:
                figures += ["", "", ""]
                continue
            rest += total - products
            share = f"{products / total:.0%}" if total > 0 else ""
            figures += [table.number(total), table.number(products), share]
        rest_cell = f"{rest:.3g}" if all(figures) else line.failure(path) or ""
        lines.append((line.name, line.model, path, *figures, rest_cell))
    return table.grid(columns, lines)


def _profiles(sums: Sequence[_Sum]) -> str:
    kinds = ("fused", "products", "sums", "rows", "lattice", "copies", "other")
    lines = []
    for line, path in itertools.product(sums, PATHS):
        profiles = [row["profile"] for row in line.rows[path]]
        if all(profile.get("device_ms") for profile in profiles):
            times = [sum(profile["device_ms"][kind] for profile in profiles) for kind in kinds]
            total = line.sum(path, "forward_backward_ms")
            idle = "" if total is None else f"{total - sum(times):.3g}"
            lines.append((line.name, line.model, path, *map(table.number, times), idle))
    if not lines:
        return "Not measured."
    return table.grid(("(N, T, U, H, V)", "model", "way", *kinds, "idle"), lines)


def _cells(sums: Sequence[_Sum]) -> str:
    columns = (
        "(N, T, U, H, V)",
        "model",
        "cells",
        "of padded ones",
        "hold 99.9 % of the posterior",
        "tile",
        "in the forward's tiles",
        "in the backward's",
        "which hold, of the posterior",
        "of the gradient's L1 norm",
    )
    lines = []
    for line in sums:
        cells, padded = line.of_cases("cells"), line.of_cases("padded_cells")
        forward = line.of_cases("forward_tiles_cells")
        backward = line.of_cases("backward_tiles_cells")
        if cells is None or padded is None or forward is None or backward is None:
            failed = next((case["error"] for case in line.cases if "error" in case), "")
            lines.append((line.name, line.model, failed, *[""] * 7))
            continue
        tiles = dict.fromkeys(" x ".join(map(str, case["tile"])) for case in line.cases)
        lines.append(
            (
                line.name,
                line.model,
                cells,
                f"{cells / padded:.1%}",
                f"{line.mean('holding_cells', 'cells'):.1%}",
                ", ".join(tiles),
                f"{forward / cells:.1%}",
                f"{backward / cells:.1%}",
                f"{line.mean('kept_posterior', 'cells'):.5f}",
                f"{line.mean('kept_gradient', 'cells'):.5f}",
            )
        )
    return table.grid(columns, lines)


def _precision(sums: Sequence[_Sum]) -> str:
    columns = (
        "(N, T, U, H, V)",
        "model",
        "cost in float32",
        "joint - materialised",
        "joint - float32",
        "materialised - float32",
        "gradients: joint from materialised",
        "joint from float32",
        "materialised from float32",
    )
    lines = []
    for line in sums:
        costs = [
            [case.get("cost_between") for case in line.cases],
            *([row.get("cost_from_truth") for row in line.rows[path]] for path in PATHS),
        ]
        gradients = [
            [case.get("relative_between") for case in line.cases],
            *([row.get("relative_from_truth") for row in line.rows[path]] for path in PATHS),
        ]
        lines.append(
            (
                line.name,
                line.model,
                table.number(line.mean("cost", "N")),
                *("" if None in x else f"{max(x, key=abs):.1e}" for x in costs),
                *("" if None in x else f"{max(max(e.values()) for e in x):.1e}" for x in gradients),
            )
        )
    return table.grid(columns, lines)


def _ratio(ours: float | None, theirs: float | None, target: float | None) -> str:
    if not ours or not theirs:
        return ""
    text = table.number(ours / theirs)
    return f"{text} (target at most {table.number(target)})" if target else text


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 5 or min(sizes) < 1 or min(sizes[2], sizes[4]) < 2:
        raise argparse.ArgumentTypeError(f"a shape is N,T,U,H,V; U, V at least 2, got {text}")
    return sizes


def _tile(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    kinds = ("random", "confident", "librispeech")
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
