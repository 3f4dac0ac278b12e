"""What JAX's profiler saw."""

import collections
import gzip
import json
import pathlib
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator

import jax

# A kernel is of the first kind whose pattern is in its name.
KINDS = {
    "fused": re.compile("Joint(Forward|Gradients)Kernel"),
    "sums": re.compile("JointHiddenKernel|AddBlocksKernel"),
    "rows": re.compile("(Forward|Backward)(Tile|Rows|Double|Flat|Element|Parts)Kernel"),
    "lattice": re.compile("(Walk|WalkAny|Finish|Posterior|Ends)Kernel"),
    "products": re.compile(r"gemm|nvjet|cutlass|xmma|cublas|splitK|_dot", re.IGNORECASE),
    "copies": re.compile(r"memcpy|memset|copy", re.IGNORECASE),
}
CALLS = 25  # of which `median_ms` takes the median


def record(call: Callable[[], object]) -> list[dict]:
    """The events of a call, which returns once it is done."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            call()
        return list(_events(directory))


def device_ms(events: Iterable[dict]) -> dict[str, float]:
    """Milliseconds of what ran on the device's streams, by name."""
    times: collections.Counter = collections.Counter()
    for event in on_streams(events):
        times[event["name"]] += event["dur"] / 1e3
    return dict(times)


def median_ms(call: Callable[[], object]) -> float | None:
    """Median over calls of the milliseconds of all that a call runs on the device's streams.

    Neither the host's time is in it nor what lies between two kernels. A call is warm, and returns
    once it is done. None where no device is traced.
    """

    def calls() -> None:
        for _ in range(CALLS):
            call()

    events = sorted(on_streams(record(calls)), key=lambda event: event["ts"])
    times = [event["dur"] / 1e3 for event in events]
    each, rest = divmod(len(times), CALLS)
    if rest:  # an event was lost, and with it where a call begins
        return sum(times) / CALLS
    if not times:
        return None
    return statistics.median(sum(times[i * each : (i + 1) * each]) for i in range(CALLS))


def by_kind(times: dict[str, float]) -> dict[str, float]:
    """The same milliseconds by KINDS, all others as "other"."""
    sums = dict.fromkeys((*KINDS, "other"), 0.0)
    for name, milliseconds in times.items():
        kinds = (kind for kind, pattern in KINDS.items() if pattern.search(name))
        sums[next(kinds, "other")] += milliseconds
    return sums


def on_streams(events: Iterable[dict]) -> Iterator[dict]:
    """What ran on the device's streams."""
    events = list(events)
    names = {
        (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event.get("name") in ("process_name", "thread_name")
    }
    devices = {
        pid
        for (what, pid, _), name in names.items()
        if what == "process_name" and name.startswith("/device:")
    }
    streams = {
        (pid, tid)
        for (what, pid, tid), name in names.items()
        if what == "thread_name" and pid in devices and name.startswith("Stream")
    }
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            yield event


def _events(directory: str) -> Iterator[dict]:
    for path in pathlib.Path(directory).rglob("*.trace.json.gz"):
        with gzip.open(path) as file:
            yield from json.load(file)["traceEvents"]
