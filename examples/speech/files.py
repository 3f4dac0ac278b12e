"""Files of a run's folder that survive a kill, and a folder that one training has for itself."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .settings import ExplainedError


def replace(path: Path, content: bytes) -> None:
    """Writes a file that is there as a whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that has one a line; a line cut off by a kill is none."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """An ExplainedError if another process is in here: two trainings would mix their histories."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExplainedError(
                f"Another training goes on in {folder}: wait for its end, or give another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
