"""Markdown: a report's first lines, tables, and numbers as cells of tables."""

import math
from collections.abc import Iterable, Sequence


def heading(results: dict) -> list[str]:
    """The first lines of every report: the device, the dtype, the versions."""
    return [f"# {results['device']}, {results['dtype']}", f"- {versions(results['versions'])}"]


def versions(of: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in of.items())


def grid(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines
    )


def milliseconds(value: float | str | None) -> str:
    return value if isinstance(value, str) else number(value)


def number(value: float | None, unit: str = "") -> str:
    """Three digits, or all of a larger whole part."""
    if value is None or value is False:
        return ""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(digits, 0)}f}{unit}"
