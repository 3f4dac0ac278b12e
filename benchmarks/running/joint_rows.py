"""What `benchmarks.joint` adds to rows of a loss: its products at their rate, and errors."""

import pathlib

import numpy as np

from benchmarks.contenders.joint_paths import JOINT, MATERIALISED

# Matrix products of H x V a cell: forward; backward, on the cells that it takes.
PRODUCTS = {JOINT: (1, 3), MATERIALISED: (1, 2)}


def add_products(row: dict, known: dict, tflops: float) -> None:
    """The time that the needed matrix products alone take at the measured rate."""
    if "cells" not in known or "forward_backward_ms" not in row or not tflops:
        return
    forward, backward = PRODUCTS[row["path"]]
    cells = known["kept_cells"] if row["path"] == JOINT else known["cells"]
    a_cell = 2 * row["H"] * row["V"] / tflops / 1e9
    row["backward_ms"] = row["forward_backward_ms"] - row["forward_ms"]
    row["forward_products_ms"] = forward * known["cells"] * a_cell
    row["backward_products_ms"] = backward * cells * a_cell


def errors(file: str, reference: str, name: str) -> dict:
    """Norms of the gradients' differences over the reference's norms, if both files exist."""
    if not (pathlib.Path(file).exists() and pathlib.Path(reference).exists()):
        return {}
    with np.load(file) as ours, np.load(reference) as theirs:
        errors = {
            key: float(np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(theirs[key]))
            for key in theirs.files
        }
    return {f"relative_{name}": errors}
