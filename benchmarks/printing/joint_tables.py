"""The tables of `benchmarks.joint`."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from benchmarks.contenders.joint_paths import JOINT, MATERIALISED, PATHS
from benchmarks.printing import joint_options_tables, pruned_tables
from benchmarks.printing.markdown import grid, heading, number
from benchmarks.problems import shapes

# The aims: at most these parts of the time and of the temporary memory that materialised logits
# take. The keys are (N, T, U, H, V) and the model.
TARGETS = {
    ((32, 400, 100, 640, 1024), "random"): (0.9, 1 / 15),
    ((32, 400, 100, 640, 1024), "confident"): (0.45, 1 / 15),
    ((16, 400, 100, 640, 4096), "confident"): (0.4, 1 / 30),
}
LIBRISPEECH_TARGET, CPU_TARGET = (0.5, 1 / 15), (1.0, 1.0)
KINDS = ("fused", "products", "sums", "rows", "lattice", "copies", "other")


def markdown(results: dict) -> str:
    groups: dict[tuple, list[tuple[dict, dict, dict]]] = {}
    for i, case in enumerate(results["cases"]):
        both = results["rows"][2 * i : 2 * i + 2]
        own = (case["N"], case["T"], case["U"], case["H"], case["V"], case["model"])
        key = own if case["group"] == shapes.SYNTHETIC else (case["group"],)
        groups.setdefault(key, []).append((case, *both))
    sums = [_Sum(list(group), results) for group in groups.values()]
    more = []
    if rows := results.get("options_rows"):
        more.append(f"## Options\n\n{joint_options_tables.markdown(rows)}")
    if rows := results.get("pruned"):
        more.append(f"## Pruned\n\n{pruned_tables.markdown(rows, results['platform'])}")
    if not groups:
        return "\n\n".join([_header(results), *more])
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
            "Cells are counted within the lengths, a tile whole. The forward takes "
            "all tiles that hold one within; the backward's are found from the float32 gradient "
            "by the rule that the loss documents.",
            _cells(sums),
            "## Precision",
            "Largest relative error among the four gradients; costs in nats.",
            _precision(sums),
            *more,
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
    products = ", ".join(
        f"({rate['rows']}, {rate['inner']}) x ({rate['inner']}, {rate['columns']}) "
        + (rate.get("error") or number(rate["tflops"], " TFLOP/s"))
        for rate in results["products"]
    )
    given = ", ".join(f"{name} = {value}" for name, value in results["options"].items())
    return "\n".join(
        [
            *heading(results),
            f"- matrix products: {products}",
            f"- options: {given or 'defaults'}",
        ]
    )


def _table(columns: Sequence[str], sums: Iterable[_Sum], cells: Callable[[_Sum], Sequence]) -> str:
    """A line for each sum: its name, its model and these cells."""
    columns = ("(N, T, U, H, V)", "model", *columns)
    return grid(columns, [(line.name, line.model, *cells(line)) for line in sums])


def _table_of_ways(
    columns: Sequence[str],
    sums: Iterable[_Sum],
    cells: Callable[[_Sum, str], Sequence | None],
) -> str:
    """The same with a line for each way; one whose cells are None is left out."""
    lines = []
    for line in sums:
        for path in PATHS:
            if (own := cells(line, path)) is not None:
                lines.append((line.name, line.model, path, *own))
    if not lines:
        return "Not measured."
    return grid(("(N, T, U, H, V)", "model", "way", *columns), lines)


def _beside(sums: Iterable[_Sum]) -> str:
    columns = (
        "joint, ms",
        "materialised, ms",
        "time over materialised",
        "joint, MiB",
        "materialised, MiB",
        "memory over materialised",
        "allocator's peak, MiB: joint",
        "materialised",
    )

    def cells(line: _Sum) -> Sequence:
        times = [line.sum(path, "forward_backward_ms") for path in PATHS]
        memory = [line.most(path, "temporary_mib") for path in PATHS]
        time_target, memory_target = line.target or (None, None)
        return (
            *(line.failure(path) or number(x) for path, x in zip(PATHS, times)),
            _ratio(*times, time_target),
            *map(number, memory),
            _ratio(*memory, memory_target),
            *(number(line.most(path, "allocated_mib")) for path in PATHS),
        )

    return _table(columns, sums, cells)


def _products(sums: Iterable[_Sum]) -> str:
    columns = (
        *("forward, ms", "products, ms", "share"),
        *("backward, ms", "products, ms", "share"),
        "rest of both, ms",
    )

    def cells(line: _Sum, path: str) -> Sequence:
        figures, rest = [], 0.0
        for what in ("forward", "backward"):
            total = line.sum(path, f"{what}_ms")
            products = line.sum(path, f"{what}_products_ms")
            if total is None or products is None:
                figures += ["", "", ""]
                continue
            rest += total - products
            share = f"{products / total:.0%}" if total > 0 else ""
            figures += [number(total), number(products), share]
        return *figures, f"{rest:.3g}" if all(figures) else line.failure(path) or ""

    return _table_of_ways(columns, sums, cells)


def _profiles(sums: Iterable[_Sum]) -> str:
    def cells(line: _Sum, path: str) -> Sequence | None:
        profiles = [row["profile"] for row in line.rows[path]]
        if not all(profile.get("device_ms") for profile in profiles):
            return None
        times = [sum(profile["device_ms"][kind] for profile in profiles) for kind in KINDS]
        total = line.sum(path, "forward_backward_ms")
        return *map(number, times), "" if total is None else f"{total - sum(times):.3g}"

    return _table_of_ways((*KINDS, "idle"), sums, cells)


def _cells(sums: Iterable[_Sum]) -> str:
    columns = (
        "cells",
        "of padded ones",
        "hold 99.9 % of the posterior",
        "tile",
        "in the forward's tiles",
        "in the backward's",
        "which hold, of the posterior",
        "of the gradient's L1 norm",
    )

    def cells(line: _Sum) -> Sequence:
        inside, padded = line.of_cases("cells"), line.of_cases("padded_cells")
        forward = line.of_cases("forward_tiles_cells")
        backward = line.of_cases("backward_tiles_cells")
        if inside is None or padded is None or forward is None or backward is None:
            failed = next((case["error"] for case in line.cases if "error" in case), "")
            return failed, *[""] * (len(columns) - 1)
        tiles = dict.fromkeys(" x ".join(map(str, case["tile"])) for case in line.cases)
        return (
            inside,
            f"{inside / padded:.1%}",
            f"{line.mean('holding_cells', 'cells'):.1%}",
            ", ".join(tiles),
            f"{forward / inside:.1%}",
            f"{backward / inside:.1%}",
            f"{line.mean('kept_posterior', 'cells'):.5f}",
            f"{line.mean('kept_gradient', 'cells'):.5f}",
        )

    return _table(columns, sums, cells)


def _precision(sums: Iterable[_Sum]) -> str:
    columns = (
        "cost in float32",
        "joint - materialised",
        "joint - float32",
        "materialised - float32",
        "gradients: joint from materialised",
        "joint from float32",
        "materialised from float32",
    )

    def cells(line: _Sum) -> Sequence:
        costs, gradients = (
            [
                [case.get(f"{what}_between") for case in line.cases],
                *([row.get(f"{what}_from_truth") for row in line.rows[path]] for path in PATHS),
            ]
            for what in ("cost", "relative")
        )
        return (
            number(line.mean("cost", "N")),
            *("" if None in x else f"{max(x, key=abs):.1e}" for x in costs),
            *("" if None in x else f"{max(max(e.values()) for e in x):.1e}" for x in gradients),
        )

    return _table(columns, sums, cells)


def _ratio(ours: float | None, theirs: float | None, target: float | None) -> str:
    if not ours or not theirs:
        return ""
    text = number(ours / theirs)
    return f"{text} (target at most {number(target)})" if target else text
