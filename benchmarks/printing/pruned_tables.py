"""The table of `benchmarks.joint` on the pruned recipe."""

from collections.abc import Sequence

from benchmarks.printing.markdown import grid, number

# The aims on an H100: milliseconds and MiB of the whole, by (N, T, U, H, V); and how many times the
# full lattice's time that of a band may take.
TARGETS = {
    (32, 400, 100, 640, 1024): (2.3, 400),
    (16, 400, 100, 640, 4096): (3.5, 450),
    (64, 700, 150, 640, 4096): (20, 3072),
}
LATTICE_TARGET = 1.1
# On a CPU, of the exact joint's time, and MiB.
CPU_TARGET = 0.2, 40


def markdown(rows: Sequence[dict], platform: str) -> str:
    """Two tables of `results["pruned"]`: the parts, and what is aimed at."""
    groups: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        sizes = tuple(row[name] for name in ("N", "T", "U", "H", "V"))
        groups.setdefault(sizes, {})[row["part"]] = row
    lines, aims = [], []
    for sizes, parts in groups.items():
        name = f"({', '.join(map(str, sizes))})"
        for part, row in parts.items():
            time = row.get("error") or number(row.get("forward_backward_ms"))
            lines.append((name, part, time, number(row.get("temporary_mib"))))
        aims.append((name, *_aims(sizes, parts, platform)))
    return "\n\n".join(
        [
            grid(("(N, T, U, H, V)", "part", "ms", "MiB"), lines),
            grid(
                (
                    "(N, T, U, H, V)",
                    "whole over joint",
                    "whole, ms: at most",
                    "whole, MiB: at most",
                    f"band over full lattice, at most {LATTICE_TARGET}",
                ),
                aims,
            ),
        ]
    )


def _aims(sizes, parts, platform):
    def time(part):
        return parts.get(part, {}).get("forward_backward_ms")

    def over(part, other):
        return time(part) / time(other) if time(part) and time(other) else None

    most_ms, most_mib = TARGETS.get(sizes, (None, None))
    if platform == "cpu":
        share, most_mib = CPU_TARGET
        most_ms = share * time("joint") if time("joint") else None
    return (
        number(over("whole", "joint")),
        number(most_ms),
        number(most_mib),
        number(over("band lattice", "full lattice")),
    )
