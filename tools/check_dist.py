#!/usr/bin/env python3
"""Checks the files of a release: what is in them, how they are tagged and how large they are.

    python tools/check_dist.py dist/*

A wheel holds the package's own files, the native modules (on macOS the CPU's alone), the metadata
and nothing else; it is under 10 MB, and for CPython 3.11 or the stable ABI of 3.12, on Linux or on
macOS with Apple silicon. The source distribution holds
everything that building and testing need. The check runs in a clone, with nothing installed.
"""

import email
import fnmatch
import pathlib
import subprocess
import sys
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
MOST_BYTES = 10_000_000
PYTHONS, PLATFORMS = ("cp311-cp311", "cp312-abi3"), ("*linux*", "macosx_*_arm64")
TAGS = [f"{python}-{platform}" for python in PYTHONS for platform in PLATFORMS]
NOT_IN_SDIST = ".*", "docs/*"
FIELDS = "License-Expression", "Requires-Python", "Requires-Dist", "Description-Content-Type"


def tracked(*patterns: str) -> set[str]:
    command = ["git", "ls-files", *patterns]
    return set(subprocess.check_output(command, cwd=ROOT, text=True).split())


def faults_of_wheel(path: pathlib.Path) -> list[str]:
    name, version, tag = path.stem.split("-", 2)
    is_mac = "macosx" in tag
    own = "cpython-311-darwin" if is_mac else "cpython-311-*-linux-gnu"
    suffix = "abi3" if "abi3" in tag else own
    modules = ("_cpu",) if is_mac else ("_cpu", "_cuda")
    info = f"{name}-{version}.dist-info"
    expected = sorted(tracked("jax_rnnt"))
    expected += [f"jax_rnnt/{module}.{suffix}.so" for module in modules]
    expected += [f"{info}/{file}" for file in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")]
    with zipfile.ZipFile(path) as wheel:
        files = [file for file in wheel.namelist() if not file.endswith("/")]
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    # auditwheel adds a bill of materials.
    stray = [f for f in files if not any(fnmatch.fnmatch(f, e) for e in (*expected, "*/sboms/*"))]
    faults = [f"stray file {file}" for file in stray]
    faults += [f"no {pattern}" for pattern in expected if not fnmatch.filter(files, pattern)]
    if not any(fnmatch.fnmatch(tag, pattern) for pattern in TAGS):
        faults.append(f"tag {tag}")
    if path.stat().st_size >= MOST_BYTES:
        faults.append(f"{path.stat().st_size} bytes")
    faults += [f"metadata without {field}" for field in FIELDS if field not in metadata]
    return faults


def faults_of_sdist(path: pathlib.Path) -> list[str]:
    with tarfile.open(path) as sdist:
        files = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    wanted = {
        file
        for file in tracked()
        if not any(fnmatch.fnmatch(file, pattern) for pattern in NOT_IN_SDIST)
    }
    faults = [f"no {file}" for file in sorted(wanted - files)]
    return faults + [f"stray file {file}" for file in sorted(files - wanted - {"PKG-INFO"})]


def main() -> None:
    failed = False
    for path in map(pathlib.Path, sys.argv[1:]):
        faults = faults_of_wheel(path) if path.suffix == ".whl" else faults_of_sdist(path)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", *faults or ["good"], sep="\n  ")
        failed |= bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
