"""Time, memory and precision of the loss beside its peers: `python -m benchmarks.loss`."""

import argparse
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.contenders import quoted
from benchmarks.contenders.peers import CONTENDERS, OURS
from benchmarks.printing import loss_tables
from benchmarks.printing.results import in_mib, write
from benchmarks.problems import shapes
from benchmarks.problems.floor import ITEM_BYTES, with_floor
from benchmarks.problems.shapes import Case
from benchmarks.running import processes

OUR_SECONDS = 1800


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    for plugin in options.plugin:
        importlib.import_module(plugin)
    unknown = set(options.peers or ()) - set(CONTENDERS)
    if unknown:
        raise SystemExit(f"--peers must be among {sorted(CONTENDERS)}, got {sorted(unknown)}.")
    utterances = None
    if options.librispeech:
        utterances = shapes.read_librispeech(options.librispeech)
    try:
        results = _measure_ours(options, utterances)
    except processes.MissingError as error:
        raise SystemExit(f"{OURS} does not run here: {error}") from None
    write(options.json, results)
    for name in options.peers if options.peers is not None else CONTENDERS:
        if name != OURS:
            _measure_peer(name, results, options, utterances)
            write(options.json, results)
    if results["platform"] == "gpu" and options.dtype == "float32":
        _quote(results, all_of_them=options.peers is None)
        write(options.json, results)
    print(loss_tables.markdown(results))
    if options.plot is not None:
        from benchmarks import plot

        plot.save(results, options.plot or str(pathlib.Path(options.json).with_suffix("")))


def _measure_ours(options: argparse.Namespace, utterances: np.ndarray | None) -> dict:
    def make_tasks(description: dict) -> processes.Tasks:
        synthetic, librispeech = _cases(options, utterances, description["platform"])
        filled = [case.filled() for case in librispeech if case.group == shapes.FILE_ORDER]
        return [
            {"kind": "bandwidth"},
            *_smallest_first("time", synthetic, forward=True),
            *_smallest_first("time", [*librispeech, *filled], forward=False),
            *_precision_tasks(options),
            *_smallest_first("train_step", _train_steps(synthetic, description["platform"])),
        ]

    description, tasks, answers = _run(OURS, options, make_tasks, OUR_SECONDS)
    bandwidth = answers[0].get("bytes_per_second")
    results = {
        "device": description["device"],
        "platform": description["platform"],
        "versions": {"python": sys.version.split()[0], **description["versions"]},
        "dtype": options.dtype,
        "copy_gb_per_second": bandwidth and bandwidth / 1e9,
        "librispeech": bool(options.librispeech),
        "contenders": {},
        "rows": [],
        "precision": [],
        "train_step": [],
    }
    _enter(results, OURS, description, tasks, answers)
    return results


def _measure_peer(
    name: str, results: dict, options: argparse.Namespace, utterances: np.ndarray | None
) -> None:
    contender = CONTENDERS[name]
    platform = results["platform"]

    def make_tasks(description: dict) -> processes.Tasks:
        if description["platform"] != platform:
            raise processes.MissingError(f"runs on {description['platform']} here")
        synthetic, librispeech = _cases(options, utterances, platform)
        cases = [*synthetic, *librispeech]
        if contender.slow:
            cases = [case for case in synthetic if case.lengths == "full"]
        return [*_precision_tasks(options), *_smallest_first("time", cases, forward=False)]

    try:
        if importlib.util.find_spec(contender.requires) is None:
            raise processes.MissingError(f"no module named {contender.requires}")
        answered = _run(name, options, make_tasks, options.peer_seconds)
    except processes.MissingError as error:
        results["contenders"][name] = {"missing": str(error)}
    else:
        _enter(results, name, *answered)


def _run(name: str, options: argparse.Namespace, make_tasks, seconds: float):
    return processes.run(
        name, make_tasks, dtype=options.dtype, plugins=options.plugin, seconds=seconds
    )


def _cases(
    options: argparse.Namespace, utterances: np.ndarray | None, platform: str
) -> tuple[list[Case], list[Case]]:
    synthetic = list(shapes.synthetic(options.shapes, options.batches, options.lengths, platform))
    if utterances is None:
        return synthetic, []
    count = options.librispeech_batches
    return synthetic, [
        *shapes.file_order(utterances, count),
        *shapes.sorted_by_frames(utterances, count),
    ]


def _train_steps(synthetic: Sequence[Case], platform: str) -> list[Case]:
    """Each shape with its largest N that is at most 16 (4 on a CPU)."""
    limit = 4 if platform == "cpu" else 16
    chosen: dict[tuple[int, int, int], Case] = {}
    for case in synthetic:
        if case.lengths == "full" and limit >= case.N:
            chosen[case.T, case.U, case.V] = case
    return list(chosen.values())


def _smallest_first(kind: str, cases: Sequence[Case], **arguments) -> processes.Tasks:
    """A task for each case. In this order a limit of time cuts off the fewest."""
    return [
        {"kind": kind, "arguments": {"case": vars(case), **arguments}}
        for case in sorted(cases, key=lambda case: case.elements)
    ]


def _precision_tasks(options: argparse.Namespace) -> processes.Tasks:
    cases = shapes.precision(options.shapes)[: 2 if options.quick else None]
    return _smallest_first("precision", cases, dtype=options.dtype)


def _enter(
    results: dict, name: str, description: dict, tasks: processes.Tasks, answers: processes.Tasks
) -> None:
    results["contenders"][name] = description
    for task, answer in zip(tasks, answers, strict=True):
        if task["kind"] == "bandwidth":
            continue
        case = Case(**task["arguments"]["case"])
        row = {"contender": name, **case.key, "dtype": results["dtype"]}
        if task["kind"] == "time":
            row = {**row, **in_mib(answer)}
            results["rows"].append(with_floor(row, results["copy_gb_per_second"]))
        elif task["kind"] == "precision":
            results["precision"].append({**row, **answer})
        else:
            logits = case.elements * ITEM_BYTES[results["dtype"]] / 2**20
            results["train_step"].append({**row, "logits_mib": logits, **in_mib(answer)})
    for rows in (results["rows"], results["precision"], results["train_step"]):
        rows.sort(key=_order)


def _order(row: dict) -> tuple:
    """By group, then by shape as `shapes` lists them, N, lengths and scale of the logits."""
    shape = row["T"], row["U"], row["V"]
    known = shapes.SHAPES.index(shape) if shape in shapes.SHAPES else len(shapes.SHAPES)
    if row["group"] != shapes.SYNTHETIC:
        known, shape = 0, ()
    first = row["group"] != shapes.SYNTHETIC, row["group"], known, shape
    return *first, row["N"], row["lengths"], row["scale"]


def _quote(results: dict, all_of_them: bool) -> None:
    """Enters the figures of peers that do not run here, for the cases that were measured.

    All of them: those too that have no function in `peers`.
    """
    missing = {name for name, value in results["contenders"].items() if "missing" in value}
    if all_of_them:
        missing |= quoted.names() - set(CONTENDERS)
    quoted.enter(results, missing)
    results["rows"].sort(key=_order)
    # Whatever their N: quoted ones stand behind what was measured of the shape.
    results["precision"].sort(key=lambda row: _order({**row, "N": 0}))


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if len(sizes) != 3 or min(sizes) < 2:
        raise argparse.ArgumentTypeError(f"a shape is T,U,V, each at least 2, got {text}")
    return sizes


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss", description=__doc__)
    parser.add_argument("--json", default="benchmark.json", help="file to write (%(default)s)")
    parser.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="PREFIX",
        help="save PREFIX_time.png, PREFIX_memory.png",
    )
    parser.add_argument("--dtype", default="float32", choices=ITEM_BYTES)
    parser.add_argument("--quick", action="store_true", help="a few cases: N = 1, 16, full lengths")
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="T,U,V")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N")
    parser.add_argument("--lengths", nargs="+", choices=("full", "random"))
    parser.add_argument(
        "--librispeech", metavar="FILE", help=".npy (utterances, 2): frames, labels"
    )
    parser.add_argument("--librispeech-batches", type=int, metavar="COUNT", help="of each order")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="these alone; none: no peers")
    parser.add_argument("--peer-seconds", type=float, default=150, help="for each (%(default)s)")
    parser.add_argument("--plugin", action="append", default=[], help="module that enters a peer")
    options = parser.parse_args(arguments)
    options.batches = options.batches or ((1, 16) if options.quick else None)
    options.lengths = options.lengths or (("full",) if options.quick else ("full", "random"))
    options.librispeech_batches = options.librispeech_batches or (2 if options.quick else 8)
    return options


if __name__ == "__main__":
    main()
