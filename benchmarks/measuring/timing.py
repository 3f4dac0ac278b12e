"""The clock: warm-up, batches of calls that are enqueued together, rotation of inputs."""

import concurrent.futures
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP_SECONDS = 0.5
RUN_SECONDS = 0.1  # of one run, a batch of calls
RUNS, FEWEST_RUNS = 5, 2
PATIENCE_SECONDS = 2.0  # after which the fewest runs are enough
CACHE_BYTES = {"gpu": 50 << 20, "cpu": 32 << 20}
MOST_INPUTS = 128


def measure(call: Callable[[int], Any], wait: Callable[[Any], None]) -> float:
    """Median seconds per call.

    Args:
        call: enqueues the i-th call, for i from 0 on, and returns its results. Which of the input
            sets a call takes follows from i.
        wait: returns once these results, and all that was enqueued before them, are there.
    """
    wait(call(0))  # compiles
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < WARM_UP_SECONDS:
        wait(call(calls))
        calls += 1
    batch = max(1, int(RUN_SECONDS / (elapsed / calls)))
    times: list[float] = []
    while len(times) < RUNS and (len(times) < FEWEST_RUNS or sum(times) < PATIENCE_SECONDS / batch):
        start = time.perf_counter()
        for i in range(batch):
            results = call(i)
            if i == batch - 1:
                wait(results)
            del results  # or two gradients would exist at once
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times)


def count_inputs(logits_bytes: int, platform: str) -> int:
    """How many sets of inputs to rotate among, so that no cache holds logits and gradients."""
    both, cache = 2 * logits_bytes, CACHE_BYTES[platform]
    if both >= 2 * cache:
        return 1
    return min(MOST_INPUTS, -(-2 * cache // both))


def host_copy_bandwidth(size: int = 1 << 29) -> float:
    """Bytes read and written per second by one copying thread for each core."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    pairs = list(zip(*(np.array_split(array, count_cores()) for array in (target, source))))
    with concurrent.futures.ThreadPoolExecutor(len(pairs)) as pool:
        seconds = measure(lambda _: list(pool.map(lambda p: np.copyto(*p), pairs)), lambda _: None)
    return 2 * size / seconds


def count_cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
