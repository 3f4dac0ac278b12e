"""Searches, beside a scan over frames and a loop over symbols, and best paths: `python -m
benchmarks.search`.

All is measured in this process, on the default backend, by the clock, with a model that writes a
string that is known: a joint and an LSTM of the size that they have in a recogniser.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.search import BEAM_WAYS, GREEDY_WAYS, IS_TABULATED, Search
from benchmarks.printing import search_tables
from benchmarks.printing.results import write
from benchmarks.problems import search_models
from benchmarks.problems.search_models import SearchCase, Sizes
from benchmarks.running import on_align, on_jax
from benchmarks.running.on_search import Problem


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    description = on_jax.Device().describe()
    sizes = search_models.sizes(description["platform"], options.small)
    results: dict[str, Any] = {
        **description,
        "versions": {"python": sys.version.split()[0], **description["versions"]},
        "dtype": sizes.stream.dtype,
    }
    for section in options.sections:
        results[section] = []
        for row in SECTIONS[section](sizes):
            results[section].append(row)
            write(options.json, results)
    print(search_tables.markdown(results))


def _ways(cases: Sequence[SearchCase], ways: dict[str, Search]):
    for case in cases:
        problem = Problem(case)
        for way, search in ways.items():
            measured = problem.measure(search, way in IS_TABULATED)
            yield {"way": way, **case._asdict(), **measured}


def _greedy(sizes: Sizes):
    return _ways(sizes.greedy, GREEDY_WAYS)


def _beam(sizes: Sizes):
    return _ways(sizes.beam, BEAM_WAYS)


def _stream(sizes: Sizes):
    measured = Problem(sizes.stream).measure_chunk(sizes.chunk)
    yield {**sizes.stream._asdict(), "frames": sizes.chunk, **measured}


def _align(sizes: Sizes):
    for case in sizes.align:
        row = on_align.joint_row if case.H else on_align.arcs_row
        yield {**case._asdict(), **row(case)}


SECTIONS = {"greedy": _greedy, "beam": _beam, "stream": _stream, "align": _align}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument(
        "--json", default="benchmark_search.json", help="file to write (%(default)s)"
    )
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these alone"
    )
    parser.add_argument("--small", action="store_true", help="sizes that only show that it runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
