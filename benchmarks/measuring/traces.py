"""What JAX's profiler saw."""

import collections
import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator

import jax

# A kernel is of the first kind whose pattern is in its name.
KINDS = {
    "fused": re.compile("Joint(Forward|Gradients)Kernel"),
    "sums": re.compile("JointHiddenKernel|AddBlocksKernel"),
    "rows": re.compile("Pick"),
    "lattice": re.compile("Lattice"),
    "products": re.compile(r"gemm|nvjet|cutlass|xmma|cublas|splitK|_dot", re.IGNORECASE),
    "copies": re.compile(r"memcpy|memset|copy", re.IGNORECASE),
}


def record(call: Callable[[], object]) -> list[dict]:
    """The events of a call, which returns once it is done."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            call()
        return list(_events(directory))


def device_ms(events: Iterable[dict]) -> dict[str, float]:
    """Milliseconds of what ran on the device's streams, by name."""
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
    times: collections.Counter = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams:
            times[event["name"]] += event["dur"] / 1e3
    return dict(times)


def by_kind(times: dict[str, float]) -> dict[str, float]:
    """The same milliseconds by KINDS, all others as "other"."""
    sums = dict.fromkeys((*KINDS, "other"), 0.0)
    for name, milliseconds in times.items():
        kinds = (kind for kind, pattern in KINDS.items() if pattern.search(name))
        sums[next(kinds, "other")] += milliseconds
    return sums


def _events(directory: str) -> Iterator[dict]:
    for path in pathlib.Path(directory).rglob("*.trace.json.gz"):
        with gzip.open(path) as file:
            yield from json.load(file)["traceEvents"]
