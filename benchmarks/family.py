"""The family's lattices and losses, one beside the other: `python -m benchmarks.family`.

All is measured in this process, on the default backend, forward and backward, full lengths. On a
GPU a lattice's time is that of its kernels under JAX's profiler, the median over calls: neither the
launches of a call, which may take as long, are in it, nor what lies between two kernels. All other
times are by the clock, of calls that are enqueued together.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.family import LATTICES, LOSSES, RNNT, TDT
from benchmarks.measuring import timing
from benchmarks.printing import family_tables
from benchmarks.printing.results import write
from benchmarks.problems import family_cases
from benchmarks.problems.family_cases import FamilyCase, Sizes
from benchmarks.problems.floor import with_floor
from benchmarks.running import on_arcs, on_jax

DTYPES = "float32", "bfloat16"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    description = on_jax.Device().describe()
    sections = options.sections or DEFAULT_SECTIONS[description["platform"]]
    if "cpu" in sections and description["platform"] != "cpu":
        raise SystemExit("The section cpu is for a CPU: set JAX_PLATFORMS=cpu.")
    sizes = family_cases.SMALL if options.small else family_cases.DEFAULT
    results: dict[str, Any] = {
        **description,
        "versions": {"python": sys.version.split()[0], **description["versions"]},
        "dtype": "float32",
    }
    for section in sections:
        SECTIONS[section](results, sizes)
        write(options.json, results)
    print(family_tables.markdown(results))


def _lattice(results: dict, sizes: Sizes) -> None:
    rows = results["lattice"] = []
    for size in family_cases.lattice_sizes(sizes):
        for name, lattice in LATTICES.items():
            problem = on_arcs.Problem(lattice, size, "native")
            row = {"lattice": name, **size._asdict(), "arcs": len(lattice.arcs)}
            rows.append({**row, "call_ms": problem.call_ms(), "device_ms": problem.device_ms()})


def _cpu(results: dict, sizes: Sizes) -> None:
    rows = results["cpu"] = []
    size = sizes.on_a_cpu
    for name, lattice in LATTICES.items():
        native, reference = (
            on_arcs.Problem(lattice, size, implementation).call_ms()
            for implementation in ("native", "reference")
        )
        row = {"lattice": name, **size._asdict(), "native_ms": native, "reference_ms": reference}
        rows.append({**row, "ratio": reference / native})


def _loss(results: dict, sizes: Sizes) -> None:
    bandwidth = on_jax.Device().copy_bandwidth()
    results["copy_gb_per_second"] = bandwidth / 1e9
    rows = results["loss"] = []
    for name, case, dtype in _losses(sizes):
        problem = on_jax.Framework(LOSSES[name].costs, dtype).prepare(case)
        seconds = timing.measure(problem.both, problem.wait)
        row = {"loss": name, **case.key, "dtype": dtype, "forward_backward_ms": 1e3 * seconds}
        rows.append(with_floor(row, results["copy_gb_per_second"]))
        del problem  # or the next one's logits would stand beside its own


def _losses(sizes: Sizes) -> list[tuple[str, FamilyCase, str]]:
    """Two heads beside one of as many logits; one head in all its ways."""
    one_head = [
        (name, family_cases.full(shape), "float32")
        for shape in sizes.one_head
        for name, loss in LOSSES.items()
        if not loss.durations
    ]
    return [*_two_heads(sizes), *one_head]


def _two_heads(sizes: Sizes) -> list[tuple[str, FamilyCase, str]]:
    return [
        (name, family_cases.full(shape, LOSSES[name].durations), dtype)
        for shape in sizes.two_heads
        for dtype in DTYPES
        for name in (TDT, RNNT)
    ]


def _memory(results: dict, sizes: Sizes) -> None:
    rows = results["memory"] = []
    for name, case, dtype in _two_heads(sizes):
        framework = on_jax.Framework(LOSSES[name].costs, dtype)
        row = with_floor({"loss": name, **case.key, "dtype": dtype}, None)
        logits_bytes = row["logits_mib"] * 2**20
        for way, analyse, there in (
            ("donated", framework.donating, 0),
            ("made", framework.train_step, logits_bytes),
        ):
            if memory := analyse(case):
                beside = memory["temporary_bytes"] - there
                row[f"{way}_bytes_a_cell"] = beside / (case.N * case.T * case.U)
        rows.append(row)


SECTIONS = {"lattice": _lattice, "loss": _loss, "memory": _memory, "cpu": _cpu}
DEFAULT_SECTIONS = {"cpu": ("memory", "cpu"), "gpu": ("lattice", "loss", "memory")}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family", description=__doc__)
    parser.add_argument(
        "--json", default="benchmark_family.json", help="file to write (%(default)s)"
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="these alone")
    parser.add_argument("--small", action="store_true", help="sizes that only show that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
