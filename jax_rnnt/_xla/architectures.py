"""Which GPUs run CUDA kernels that were compiled for a list of architectures.

An entry is CMake's: "90-real" is machine code for compute capability 9.0 and its later minors,
"90-virtual" PTX, from which the driver compiles for 9.0 and everything later, "90" both. An entry
with the suffix "a", as in "90a", is for its own compute capability alone; one with "f", as in
"100f", for its own and the later minors of its major.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Way = Literal["machine code", "PTX"]
Version = tuple[int, int]


class Gpu(NamedTuple):
    name: str
    capability: str


class Build(NamedTuple):
    """What the kernels were compiled for, and with."""

    architectures: str
    toolkit: Version


def way_to_run(capability: str, architectures: str) -> Way | None:
    """How a GPU of a compute capability ("9.0") runs the kernels; None if it does not."""
    gpu = version(capability)
    ways = [_way_of_entry(gpu, entry) for entry in architectures.split()]
    return next((way for way in ("machine code", "PTX") if way in ways), None)


def why_not(gpus: Iterable[Gpu], build: Build, driver: Version) -> str | None:
    """Why some of a machine's GPUs do not run the kernels; None if all do.

    Args:
        driver: the newest CUDA that the driver knows.
    """
    for gpu in gpus:
        way = way_to_run(gpu.capability, build.architectures)
        if way is None:
            return (
                f"they were compiled for the architectures {build.architectures}, which have no "
                f"code for compute capability {gpu.capability} ({gpu.name})"
            )
        # A driver runs machine code of every minor version of its CUDA major, but PTX of no CUDA
        # newer than its own.
        known = driver if way == "PTX" else driver[:1]
        if known < build.toolkit[: len(known)]:
            return (
                f"they were compiled with CUDA {_text(build.toolkit)}, and the driver here knows "
                f"CUDA {_text(driver)}"
            )
    return None


def _way_of_entry(gpu: Version, entry: str) -> Way | None:
    found = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", entry)
    if found is None:
        return None
    major, minor, suffix, kind = found.groups()
    compiled = int(major), int(minor)
    if (suffix == "a" and gpu != compiled) or (suffix == "f" and gpu[0] != compiled[0]):
        return None
    if gpu < compiled:
        return None
    if kind != "-virtual" and gpu[0] == compiled[0]:
        return "machine code"
    return "PTX" if kind != "-real" else None


def version(text: str) -> Version:
    """A compute capability or a toolkit's version, "9.0", as numbers."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _text(version: Version) -> str:
    return ".".join(map(str, version))
