"""The tables of `benchmarks.loss`."""

from collections.abc import Iterable

from benchmarks.contenders.peers import OURS
from benchmarks.printing.markdown import grid, heading, milliseconds, number, versions
from benchmarks.problems import shapes

TARGET_RATIO = 0.65  # of real lengths to full ones, file order


def markdown(results: dict) -> str:
    parts = [
        _header(results),
        "## Time and memory",
        _times(row for row in results["rows"] if row["group"] == shapes.SYNTHETIC),
        "## LibriSpeech",
        _librispeech(results),
        "## Gradient against float64",
        _precision(results["precision"]),
        "## In a train step",
        _train_step(results["train_step"]),
    ]
    return "\n\n".join(parts)


def _header(results: dict) -> str:
    bandwidth = number(results["copy_gb_per_second"], " GB/s")
    lines = [*heading(results), f"- copy, reads and writes counted: {bandwidth}"]
    for name, contender in results["contenders"].items():
        if "missing" in contender:
            lines.append(f"- {name}: not measured ({contender['missing']})")
        elif name != OURS:
            lines.append(f"- {name}: {versions(contender['versions'])}")
    for run in results.get("quoted", ()):
        lines.append(
            f"- \\* quoted, not measured in this run: {run['date']}, {run['device']}, "
            f"{versions(run['versions'])}; {run['source']}"
        )
        lines += [f"- \\* known to be wrong: {what}" for what in run["known_wrong"]]
    return "\n".join(lines)


def _times(rows: Iterable[dict]) -> str:
    columns = (
        "(T, U, V)",
        "N",
        "lengths",
        "loss",
        "forward, ms",
        "over floor",
        "forward + backward, ms",
        "over floor",
        "temporary, MiB",
        "beyond logits, MiB",
        "thunks",
    )
    return grid(
        columns,
        [
            (
                _shape(row),
                row["N"],
                row["lengths"],
                _name(row),
                milliseconds(row.get("forward_ms")),
                number(row.get("forward_over_floor")),
                row.get("error") or milliseconds(row.get("forward_backward_ms")),
                number(row.get("forward_backward_over_floor")),
                number(row.get("temporary_mib")),
                number(row.get("beyond_logits_mib")),
                row.get("thunks", ""),
            )
            for row in rows
        ],
    )


def _librispeech(results: dict) -> str:
    if not results["librispeech"]:
        return "Not measured: `--librispeech FILE` gives the utterances' lengths."
    lines = []
    for group in (shapes.FILE_ORDER, shapes.SORTED):
        rows = [row for row in results["rows"] if row["group"] == group]
        for name in dict.fromkeys(row["contender"] for row in rows):
            sums = {
                lengths: _sum(
                    row for row in rows if (row["contender"], row["lengths"]) == (name, lengths)
                )
                for lengths in ("real", "full")
            }
            count, real, floor = sums["real"]
            _, full, _ = sums["full"]
            ratio = isinstance(real, float) and isinstance(full, float) and real / full
            lines.append(
                (
                    group,
                    count,
                    name,
                    milliseconds(real),
                    number(isinstance(real, float) and floor and real / floor),
                    milliseconds(full),
                    f"{ratio:.2f} (target at most {TARGET_RATIO})" if ratio else "",
                )
            )
    columns = (
        "order",
        "batches",
        "loss",
        "real lengths, ms",
        "over floor",
        "the same filled, ms",
        "real / filled",
    )
    return f"Forward and backward, summed over the batches, V = {shapes.LIBRISPEECH_V}.\n\n" + (
        grid(columns, lines)
    )


def _sum(rows: Iterable[dict]) -> tuple[int, float | str | None, float]:
    rows = list(rows)
    failed = [row["error"] for row in rows if "error" in row]
    floor = sum(row.get("forward_backward_floor_ms", 0) for row in rows)
    if failed:
        return len(rows), f"{len(failed)} failed: {failed[0]}", floor
    return len(rows), sum(row["forward_backward_ms"] for row in rows) if rows else None, floor


def _precision(rows: Iterable[dict]) -> str:
    columns = (
        "(T, U, V)",
        "N",
        "logits times",
        "loss",
        "relative error",
        "largest error",
        "error of the cost, nats",
    )
    return grid(
        columns,
        [
            (
                _shape(row),
                row["N"],
                f"{row['scale']:g}",
                _name(row),
                row.get("error") or f"{row['relative']:.1e}",
                "" if "error" in row else f"{row['largest']:.1e}",
                "" if "error" in row else f"{row['cost']:.1e}",
            )
            for row in rows
        ],
    )


def _train_step(rows: Iterable[dict]) -> str:
    text = (
        "Logits made inside the compiled function (encoder + predictor), gradients of both: what "
        "XLA says it needs beyond arguments and results.\n\n"
    )
    columns = ("(T, U, V)", "N", "logits, MiB", "temporary, MiB", "temporary / logits")
    return text + grid(
        columns,
        [
            (
                _shape(row),
                row["N"],
                number(row["logits_mib"]),
                row.get("error") or number(row.get("temporary_mib")),
                number("temporary_mib" in row and row["temporary_mib"] / row["logits_mib"]),
            )
            for row in rows
        ],
    )


def _shape(row: dict) -> str:
    return f"({row['T']}, {row['U']}, {row['V']})"


def _name(row: dict) -> str:
    name = f"**{row['contender']}**" if row["contender"] == OURS else row["contender"]
    return f"{name} \\*" if row.get("quoted") else name
