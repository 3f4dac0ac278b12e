#!/usr/bin/env python3
"""The suite on several Pythons and JAX versions, each pair in a fresh virtual environment.

    python tools/matrix.py --list                       the pairs, and the Pythons found
    python tools/matrix.py --json matrix.json           all of them
    python tools/matrix.py --only 3.11:0.8.3 3.13:newest -- -n 2 tests/losses/test_values.py
    python tools/matrix.py --wheel-dir dist             built wheels in place of building some
    python tools/matrix.py --readme --only oldest newest        the README's command on both ends

A pair is PYTHON:JAX; "oldest" is the oldest Python here with the oldest JAX, "newest" the newest
Python with whatever JAX pip takes. Arguments behind `--` go to pytest, as does PYTEST_ADDOPTS;
where neither selects, every test runs. Without --wheel-dir, a wheel is built for each kind of
Python, CUDA as JAX_RNNT_CUDA says. --json keeps the rows of other pairs that its file has. Needs
nothing installed but the Pythons, on PATH, in ~/.pyenv/versions or given by --python. For a Python
that is in a container, run this file inside it, with --wheel-dir.
"""

import argparse
import collections
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
# As the README has it.
README_COMMAND = 'pip install -e ".[test]" && pytest'
# Every minor version of JAX from the oldest supported one, every Python.
PAIRS = (
    ("3.11", "0.8.3"),
    ("3.11", "0.9.2"),
    ("3.11", "0.10.2"),
    ("3.12", "0.8.3"),
    ("3.12", "0.11.2"),
    ("3.13", "0.10.2"),
    ("3.13", "0.12.0.1"),
    ("3.14", "0.9.2"),
    ("3.14", "0.12.0.1"),
)
# Newer ones may have no JAX yet.
PYTHONS = "3.11", "3.12", "3.13", "3.14"
# Asked of the environment when its tests have run.
_VERSIONS = """
import jax, json, sys
from jax_rnnt._xla import ffi
python = ".".join(map(str, sys.version_info[:3]))
api = ".".join(map(str, ffi.runtime_api_version()))
print(json.dumps({"python": python, "jax": jax.__version__, "ffi_api": api}))
"""


_OUTCOMES = "tests", "failures", "errors", "skipped"


class Pair(NamedTuple):
    python: str
    jax: str

    def __str__(self) -> str:
        return f"{self.python}:{self.jax}"


def find_pythons(given: list[str]) -> dict[str, str]:
    """The interpreters by their minor version: given ones, PATH's and pyenv's."""
    candidates = [*given, sys.executable]
    candidates += [f"python{version}" for version in PYTHONS]
    pyenv = pathlib.Path.home() / ".pyenv" / "versions"
    candidates += sorted(map(str, pyenv.glob("3.*/bin/python")), reverse=True)
    found: dict[str, str] = {}
    for candidate in filter(None, map(shutil.which, candidates)):
        # venv needs ensurepip, which some distributions leave out.
        program = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", program], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() in PYTHONS:
            found.setdefault(done.stdout.strip(), candidate)
    return found


def parse_pair(text: str, pythons: dict[str, str]) -> Pair:
    here = [version for version in PYTHONS if version in pythons]
    if text == "oldest":
        return Pair(here[0], PAIRS[0][1])
    if text == "newest":
        return Pair(here[-1], "newest")
    python, separator, jax = text.partition(":")
    if not separator:
        sys.exit(f"a pair is PYTHON:JAX, oldest or newest, not {text}")
    return Pair(python, jax)


class Environment:
    """A virtual environment in which JAX is pinned by a constraint."""

    def __init__(self, python: str, jax: str, folder: pathlib.Path):
        self.folder = folder
        subprocess.run([python, "-m", "venv", folder], check=True)
        variables = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}
        variables["JAX_RNNT_REQUIRE_NATIVE"] = "1"
        if jax != "newest":
            constraint = folder / "constraint.txt"
            constraint.write_text(f"jax=={jax}\n")
            variables["PIP_CONSTRAINT"] = str(constraint)
        self.variables = variables

    def run(self, command: str, **variables: str) -> int:
        """A shell command with the environment activated, as a person would."""
        script = f". {shlex.quote(str(self.folder / 'bin' / 'activate'))} && {command}"
        environment = {**os.environ, **self.variables, **variables}
        return subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment).returncode

    def versions(self) -> dict[str, str]:
        done = subprocess.run(
            [self.folder / "bin" / "python", "-I", "-c", _VERSIONS], capture_output=True, text=True
        )
        return json.loads(done.stdout) if done.returncode == 0 else {}


def wheel_for(version: str, python: str, folder: pathlib.Path) -> pathlib.Path:
    """The wheel in a folder that a Python installs, built if there is none."""
    tag = "cp311-cp311" if version == "3.11" else "cp312-abi3"
    wheels = sorted(folder.glob(f"jax_rnnt-*-{tag}-*.whl"))
    if not wheels:
        print(f"== building {tag}", flush=True)
        with tempfile.TemporaryDirectory() as environment:
            subprocess.run([python, "-m", "venv", environment], check=True)
            pip = pathlib.Path(environment) / "bin" / "pip"
            subprocess.run([pip, "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
        wheels = sorted(folder.glob(f"jax_rnnt-*-{tag}-*.whl"))
    return wheels[-1]


def run_pair(pair: Pair, python: str, wheels: pathlib.Path | None, options: argparse.Namespace):
    """One row of the table; the README's own command where there is no folder for wheels."""
    if wheels is None:
        command = README_COMMAND
    else:
        command = f'pip install "{wheel_for(pair.python, python, wheels)}[test]" && pytest'
    given = os.environ.get("PYTEST_ADDOPTS", "")
    with_options = f", PYTEST_ADDOPTS={shlex.quote(given)}" if given else ""
    print(f"== {pair}: {command}{with_options}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        addopts = f"{given} {shlex.join([f'--junitxml={report}', *options.pytest])}"
        environment = Environment(python, pair.jax, pathlib.Path(folder) / "venv")
        ok = environment.run(command, PYTEST_ADDOPTS=addopts) == 0
        seconds = round(time.monotonic() - start)
        ok &= environment.run("python -P -m jax_rnnt") == 0
        if ok and options.then:
            ok = environment.run(options.then) == 0
        return {
            "pair": str(pair),
            "ok": ok,
            **environment.versions(),
            **count(report),
            "seconds": seconds,
        }


def count(report: pathlib.Path) -> dict[str, int]:
    """Outcomes in pytest's XML report."""
    if not report.exists():
        return {}
    counts: collections.Counter[str] = collections.Counter()
    for suite in xml.etree.ElementTree.parse(report).iter("testsuite"):
        counts.update({name: int(suite.get(name, 0)) for name in _OUTCOMES})
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return {"passed": passed, "failed": failed, "skipped": counts["skipped"]}


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    columns = ("python", "jax", "ffi_api", "passed", "failed", "skipped", "seconds")
    titles = ("Python", "JAX", "FFI API", "passed", "failed", "skipped", "s", "")
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        mark = "" if row["ok"] else f"FAILED {row['pair']}"
        lines.append([*(str(row.get(column, "-")) for column in columns), mark])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="say what would run, and stop")
    parser.add_argument("--only", nargs="+", metavar="PYTHON:JAX", help="these pairs alone")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--wheel-dir", type=pathlib.Path, help="where the wheels are")
    how.add_argument("--readme", action="store_true", help="install and test as the README says")
    parser.add_argument("--python", action="append", default=[], help="a further interpreter")
    parser.add_argument("--then", help="a shell command behind the tests of each pair")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the rows")
    own = sys.argv[1:]
    split = own.index("--") if "--" in own else len(own)
    options = parser.parse_args(own[:split])
    options.pytest = own[split + 1 :]
    return options


def main() -> None:
    options = parse_arguments()
    pythons = find_pythons(options.python)
    pairs = [Pair(*pair) for pair in PAIRS]
    if options.only:
        pairs = [parse_pair(text, pythons) for text in options.only]
    missing = [pair for pair in pairs if pair.python not in pythons]
    if options.list:
        for version, python in sorted(pythons.items()):
            print(f"Python {version}: {python}")
        for pair in pairs:
            print(pair, "(no such Python here)" if pair in missing else "")
        return
    if missing and options.only:
        sys.exit(f"no Python for {', '.join(map(str, missing))}")
    if options.readme and README_COMMAND not in (ROOT / "README.md").read_text():
        sys.exit(f"README.md does not say: {README_COMMAND}")
    rows = []
    with tempfile.TemporaryDirectory() as built:
        wheels = None if options.readme else (options.wheel_dir or pathlib.Path(built)).resolve()
        for pair in pairs:
            if pair not in missing:
                rows.append(run_pair(pair, pythons[pair.python], wheels, options))
                print(table(rows), flush=True)
                if options.json:
                    write(options.json, rows)
    if missing:
        print(f"Not run, for want of a Python: {', '.join(map(str, missing))}")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


def write(path: pathlib.Path, rows: list[dict]) -> None:
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in before if row["pair"] not in {row["pair"] for row in rows}]
    path.write_text(json.dumps([*kept, *rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
