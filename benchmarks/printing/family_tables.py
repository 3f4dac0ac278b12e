"""The tables of `benchmarks.family`."""

from collections.abc import Sequence

from benchmarks.contenders.family import LATTICES, RNNT, TDT
from benchmarks.printing.markdown import grid, heading, number

# The aims. Of a lattice: at most so many microseconds on an H100, by (T, U), N and name.
LATTICE_TARGETS = {
    ((400, 100), 1): (89, 55, 113, 143),
    ((400, 100), 16): (91, 57, 120, 157),
    ((400, 100), 64): (121, 87, 177, 299),
    ((1500, 300), 1): (279, 173, 356, 468),
    ((1500, 300), 16): (366, 262, 526, 911),
    ((1500, 300), 64): (746, 730, 1747, 3201),
}
MOST_BYTES_A_CELL = 160  # of the two-headed loss, beside one array of logits
LEAST_CPU_RATIO = 4


def markdown(results: dict) -> str:
    parts = ["\n".join(heading(results))]
    for section, (title, table) in _TABLES.items():
        if section in results:
            parts += [f"## {title}", table(results)]
    return "\n\n".join(parts)


def _lattices(results: dict) -> str:
    rows = results["lattice"]
    is_traced = all(row["device_ms"] for row in rows)
    what = "device_ms" if is_traced else "call_ms"
    times = {((row["T"], row["U"]), row["N"], row["lattice"]): 1e3 * row[what] for row in rows}
    text = (
        "From arcs to costs and all gradients, microseconds"
        + (" of the kernels" if is_traced else " of a call")
        + ("; in brackets what is aimed at on an H100" if is_traced else "")
    )
    names = list(LATTICES)

    def cells(shape: tuple[int, int], N: int) -> Sequence:
        targets = LATTICE_TARGETS.get((shape, N), ()) if is_traced else ()
        limits = ("", *(f" ({target})" for target in targets)) if targets else [""] * len(names)
        return [number(times[shape, N, name]) + limit for name, limit in zip(names, limits)]

    sizes = dict.fromkeys(key[:2] for key in times)
    lines = [(str(shape), N, *cells(shape, N)) for shape, N in sizes]
    return f"{text}.\n\n" + grid(("(T, U)", "N", *names), lines)


def _losses(results: dict) -> str:
    rows = results["loss"]
    times = {(row["loss"], _shape(row), row["dtype"]): row["forward_backward_ms"] for row in rows}

    def over(row: dict, loss: str, dtype: str) -> str:
        other = times.get((loss, _shape(row), dtype))
        same = (loss, dtype) == (row["loss"], row["dtype"])
        return "" if same else number(other and row["forward_backward_ms"] / other)

    columns = (
        *("(N, T, U, V)", "dtype", "loss", "forward + backward, ms", "floor, ms", "over floor"),
        *(f"over {RNNT}", "over float32"),
    )
    lines = [
        (
            *(_shape(row), row["dtype"], row["loss"], number(row["forward_backward_ms"])),
            *(number(row[f"forward_backward_{name}"]) for name in ("floor_ms", "over_floor")),
            *(over(row, RNNT, row["dtype"]), over(row, row["loss"], "float32")),
        )
        for row in rows
    ]
    bandwidth = number(results["copy_gb_per_second"], " GB/s")
    text = (
        f"The floor is moving the logits' bytes three times at the speed of a copy, {bandwidth}. "
        f"{TDT} is aimed at 1.15 of the floor in float32 at N = 16, at 1.3 of {RNNT} at N = 1, and "
        "at 0.6 of float32 in bfloat16."
    )
    return f"{text}\n\n" + grid(columns, lines)


def _memory(results: dict) -> str:
    text = (
        "What XLA says that forward and backward need beyond arguments, results and one array of "
        "logits, bytes a cell. Donated: the gradient is written over the given logits. Made "
        "inside: logits are the sum of an encoder's and a predictor's, gradients are those of "
        "both; XLA on a CPU has two arrays of logits there. At most "
        f"{MOST_BYTES_A_CELL} are aimed at for {TDT}."
    )
    columns = "(N, T, U, V)", "dtype", "loss", "logits, MiB", "donated", "made inside"
    lines = [
        (
            *(_shape(row), row["dtype"], row["loss"], number(row["logits_mib"])),
            *(number(row.get(name)) for name in ("donated_bytes_a_cell", "made_bytes_a_cell")),
        )
        for row in results["memory"]
    ]
    return f"{text}\n\n" + grid(columns, lines)


def _cpu(results: dict) -> str:
    lines = [
        (
            f"({row['N']}, {row['T']}, {row['U']})",
            row["lattice"],
            number(row["native_ms"]),
            number(row["reference_ms"]),
            f"{number(row['ratio'])} (at least {LEAST_CPU_RATIO})",
        )
        for row in results["cpu"]
    ]
    columns = "(N, T, U)", "lattice", "kernel, ms", "plain JAX, ms", "plain JAX / kernel"
    return "From arcs to costs and all gradients.\n\n" + grid(columns, lines)


def _shape(row: dict) -> str:
    return f"({row['N']}, {row['T']}, {row['U']}, {row['V']})"


_TABLES = {
    "lattice": ("Lattices", _lattices),
    "loss": ("Losses from logits", _losses),
    "memory": ("Memory in a train step", _memory),
    "cpu": ("The kernel beside plain JAX", _cpu),
}
