"""The table of `benchmarks.joint` on the loss with its options."""

from collections.abc import Sequence

from benchmarks.contenders.joint_paths import OWN
from benchmarks.printing.markdown import grid, number

# At most so many times the standard's time, of this shape on an H100.
TARGET_SIZES = 32, 400, 100, 640, 1024
TARGETS = {"TDT, 5 durations": 1.08, "dropout 0.2": 1.1, "4 hypotheses an encoder": 1.0}


def markdown(rows: Sequence[dict]) -> str:
    """A line for each of `results["options_rows"]`: of a shape and kernels the standard first."""
    standard: dict = {}
    lines = []
    for row in rows:
        sizes = tuple(row[name] for name in ("N", "T", "U", "H", "V"))
        time = row.get("forward_backward_ms")
        whole = standard.setdefault((sizes, row["kernels"]), time)
        over = number(time / whole) if time and whole else ""
        is_own = row["kernels"] == OWN
        if over and is_own and sizes == TARGET_SIZES and row["way"] in TARGETS:
            over += f" (target at most {TARGETS[row['way']]})"
        lines.append(
            (
                f"({', '.join(map(str, sizes))})",
                row["way"],
                row["kernels"],
                row.get("error") or number(row.get("forward_ms")),
                number(time),
                over,
                number(row.get("temporary_mib")),
            )
        )
    columns = ("(N, T, U, H, V)", "loss", "kernels", "forward, ms", "both, ms")
    columns += ("over the standard", "MiB")
    return grid(columns, lines)
