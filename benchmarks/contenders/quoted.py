"""What contenders took elsewhere: the runs of peers_quoted.json, newest first.

Each run is of float32 logits and full lengths. `rows` are times and memory, `precision` are
gradients against float64; jax_rnnt's own rows stand beside its peers' and are never quoted.
"""

import json
import pathlib
from collections.abc import Collection, Iterator

from benchmarks.contenders.peers import OURS
from benchmarks.problems import shapes
from benchmarks.problems.floor import with_floor

FILE = pathlib.Path(__file__).with_name("peers_quoted.json")
COMMON = {"dtype": "float32", "lengths": "full", "group": shapes.SYNTHETIC}


def runs() -> list[dict]:
    """The file's runs, their rows in the form of `benchmarks.loss`'s results."""
    read = json.loads(FILE.read_text())
    for run in read:
        copy = run["copy_gb_per_second"]
        run["rows"] = [with_floor({"scale": 1.0, **row, **COMMON}, copy) for row in run["rows"]]
        run["precision"] = [{**row, **COMMON} for row in run["precision"]]
    return read


def names() -> set[str]:
    """Of all that can be quoted."""
    return {row["contender"] for run in runs() for row in (*run["rows"], *run["precision"])} - {
        OURS
    }


def enter(results: dict, contenders: Collection[str]) -> None:
    """Adds the newest figures of these contenders to `results`, for the cases that it has.

    A gradient's case is its shape and scale; a row says itself of how many sequences it is.
    """
    results["quoted"] = []
    wanted = {kind: set(map(_CASE[kind], _measured(results[kind]))) for kind in _CASE}
    for run in runs():
        found = False
        for kind, case in _CASE.items():
            have = {(row["contender"], case(row)) for row in results[kind]}
            for row in run[kind]:
                known = (row["contender"], case(row)) in have
                if row["contender"] in contenders and case(row) in wanted[kind] and not known:
                    results[kind].append({**row, "quoted": True})
                    found = True
        if found:
            about = {key: value for key, value in run.items() if key not in _CASE}
            results["quoted"].append(about)


def newest() -> dict:
    """The newest run as if it were `benchmarks.loss`'s results, for a plot."""
    return {**runs()[0], **COMMON}


def _measured(rows: list[dict]) -> Iterator[dict]:
    return (row for row in rows if row["group"] == shapes.SYNTHETIC)


_CASE = {
    "rows": lambda row: tuple(row[name] for name in ("N", "T", "U", "V", "lengths")),
    "precision": lambda row: tuple(row[name] for name in ("T", "U", "V", "scale")),
}
