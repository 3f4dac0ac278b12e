"""The file that a command writes, and its units."""

import json
import pathlib


def write(path: str, results: dict) -> None:
    pathlib.Path(path).write_text(json.dumps(results, indent=1) + "\n")


def in_mib(answer: dict) -> dict:
    """The same figures, those in bytes (`*_bytes`) in MiB (`*_mib`)."""
    return {
        key.replace("_bytes", "_mib"): value / 2**20 if key.endswith("_bytes") else value
        for key, value in answer.items()
    }
