"""Two plots, time and memory against N: `python -m benchmarks.plot RESULTS.json PREFIX`.

`quoted` in the place of RESULTS.json draws the newest run of contenders/peers_quoted.json.
"""

import argparse
import json
import pathlib

from benchmarks.contenders import quoted
from benchmarks.contenders.peers import OURS
from benchmarks.problems import shapes

# Okabe and Ito's colours, which colour-blind readers tell apart; black is ours.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
_MARKERS = "sD^vP*X"
_TIME, _MEMORY = "forward_backward_ms", "beyond_logits_mib"
_FLOOR = {_TIME: "forward_backward_floor_ms", _MEMORY: "logits_mib"}


def save(results: dict, prefix: str) -> list[pathlib.Path]:
    """PREFIX_time.png and PREFIX_memory.png, a panel for each shape, full lengths."""
    rows = [
        row
        for row in results["rows"]
        if row["group"] == shapes.SYNTHETIC and row["lengths"] == "full"
    ]
    title = f"{results['device']}, {results['dtype']}, full lengths"
    paths = [pathlib.Path(f"{prefix}_{what}.png") for what in ("time", "memory")]
    _save(rows, _TIME, f"Forward and backward of one batch: {title}", "ms", paths[0])
    _save(rows, _MEMORY, f"Peak memory beyond the logits: {title}", "MiB", paths[1])
    return paths


def _save(rows: list[dict], quantity: str, title: str, unit: str, path: pathlib.Path) -> None:
    figure_class = _figure_class()
    sizes = list(dict.fromkeys((row["T"], row["U"], row["V"]) for row in rows))
    names = sorted({row["contender"] for row in rows if quantity in row}, key=_rank)
    figure = figure_class(figsize=(4 * max(len(sizes), 2), 4.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False)[0]
    lines = {}
    for panel, size in zip(panels, sizes, strict=True):
        here = [row for row in rows if (row["T"], row["U"], row["V"]) == size]
        for name in names:
            points = [row for row in here if row["contender"] == name and quantity in row]
            if points:
                is_quoted = bool(points[0].get("quoted"))
                label = name + " (quoted)" * is_quoted
                x, y = zip(*((row["N"], row[quantity]) for row in points), strict=True)
                lines[label] = panel.plot(x, y, **_style(name, names, is_quoted))[0]
        floor = sorted(
            {(row["N"], row[_FLOOR[quantity]]) for row in here if _is_floor(row, quantity)}
        )
        if floor:
            style = {"color": "#999999", "linestyle": ":", "linewidth": 2, "zorder": 4}
            lines[_floor_label(quantity)] = panel.plot(*zip(*floor, strict=True), **style)[0]
        _finish(panel, size, sorted({row["N"] for row in here}))
    panels[0].set_ylabel(unit)
    figure.suptitle(title, fontsize=11)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _is_floor(row: dict, quantity: str) -> bool:
    return row["contender"] == OURS and _FLOOR[quantity] in row


def _floor_label(quantity: str) -> str:
    return "floor: the logits read twice, written once" if quantity == _TIME else "the gradient"


def _rank(name: str) -> tuple[bool, bool, str]:
    return name != OURS, name != "reference", name


def _style(name: str, names: list[str], is_quoted: bool) -> dict:
    if name == OURS:
        return {"color": "black", "linewidth": 3, "marker": "o", "markersize": 7, "zorder": 3}
    index = [other for other in names if other != OURS].index(name)
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        # Past the last colour they begin anew, with other markers, hollow ones.
        "marker": _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)],
        "fillstyle": "none" if index >= len(_COLOURS) else "full",
        "linestyle": "--" if is_quoted else "-",
        "linewidth": 1.5,
        "markersize": 5,
        "zorder": 2,
    }


def _finish(panel, size: tuple[int, int, int], batches: list[int]) -> None:
    from matplotlib.ticker import LogLocator

    panel.set(
        xscale="log", yscale="log", xlabel="N", title="(T, U, V) = ({}, {}, {})".format(*size)
    )
    panel.set_xticks(batches, [str(N) for N in batches])
    panel.minorticks_off()
    lowest, highest = panel.get_ylim()
    steps = (1, 2, 5) if highest < 100 * lowest else (1,)
    panel.yaxis.set_major_locator(LogLocator(subs=steps))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise SystemExit(
            "The plots need matplotlib: pip install matplotlib (or the extra `plot`). The figures "
            "are in the JSON: `python -m benchmarks.plot` draws them anywhere."
        ) from None
    return Figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("results", help="the JSON that benchmarks.loss wrote, or: quoted")
    parser.add_argument("prefix")
    options = parser.parse_args()
    if options.results == "quoted":
        results = quoted.newest()
    else:
        results = json.loads(pathlib.Path(options.results).read_text())
    for path in save(results, options.prefix):
        print(path)


if __name__ == "__main__":
    main()
