"""What a report calls the device: its name and, of a GPU, the clock that bounds its rates."""

import contextlib
import pathlib
import platform
import subprocess

import jax

from benchmarks.measuring import timing


def name(device: jax.Device) -> str:
    """Of a GPU with the highest clock of its multiprocessors, where `nvidia-smi` tells it."""
    if device.platform == "cpu":
        return _cpu_model()
    clock = _highest_clock(device)
    return f"{device.device_kind}, {clock} MHz" if clock else device.device_kind


def _highest_clock(device: jax.Device) -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    clocks = dict(line.rsplit(", ", 1) for line in answer.stdout.splitlines() if ", " in line)
    return clocks.get(device.device_kind)


def _cpu_model() -> str:
    """The CPU's name where /proc tells it, and the cores that this process may use."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return f"{model}, {timing.count_cores()} cores"
