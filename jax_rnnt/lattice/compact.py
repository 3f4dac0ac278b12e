"""The lattice of the compact layout: its kernels, and the checks of its arguments."""

import jax
import numpy as np

from jax_rnnt import _checks
from jax_rnnt._checks import Integers
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt._xla.residuals import to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference import compact as reference
from jax_rnnt.reference.compact import offsets as offsets

_cost = Kernel(
    "lattice_cost_compact",
    operands=("S", "S", "N", "N", "N"),
    results=("N",),
    result_dtype="accumulator",
    fallback=reference.lattice_cost,
    scratch={"cuda": ("S2", "N2", "N2")},
)
_forward = Kernel(
    "lattice_forward_compact",
    operands=("S", "S", "N", "N", "N"),
    results=("N", "S4", "N2"),
    result_dtype="accumulator",
    kept=(1, 2),
    fallback=reference.lattice_forward,
    scratch={"cuda": ("N2",)},
)
_backward = Kernel(
    "lattice_backward_compact",
    operands=("S", "S", "N", "N", "N", "S4", "N2", "N"),
    results=("S", "S"),
    result_dtype="accumulator",
    bits=(0, 1),
    fallback=reference.lattice_backward,
)


def check_lengths(
    rows: int,
    frames_lengths: Integers,
    labels_lengths: Integers,
    where: jax.Array | np.ndarray | None = None,
) -> np.ndarray | None:
    """Concrete labels_lengths, else None; ValueError if the lengths do not fit in `rows` rows."""
    if not all(isinstance(size, int) for size in (rows, *frames_lengths.shape)):
        raise ValueError("the compact form takes no symbolic sizes.")
    if rows >= 2**31 - 1:
        raise ValueError(f"the compact form takes fewer than 2**31 - 1 rows, got {rows}.")
    if frames_lengths.ndim != 1:
        raise ValueError(f"frames_lengths must be (N,), got shape {frames_lengths.shape}.")
    _checks.shape("labels_lengths", labels_lengths, frames_lengths.shape, "as frames_lengths")
    high = np.iinfo(np.int32).max
    if where is not None:
        _checks.shape("where", where, frames_lengths.shape, "one for each sequence")
    frames = _checks.lengths_values("frames_lengths", frames_lengths, 1, high, "frames", where)
    labels = _checks.lengths_values("labels_lengths", labels_lengths, 0, high, "labels", where)
    if frames is not None and labels is not None:
        needed = sum(max(int(t), 0) * max(int(u) + 1, 0) for t, u in zip(frames, labels))
        if needed > rows:
            raise ValueError(
                f"frames_lengths and labels_lengths need sum(T_n (U_n + 1)) = {needed} rows, "
                f"got {rows}."
            )
    return labels


def check_max_labels(max_labels: int | None, labels_lengths: Integers, rows: int) -> int:
    """max_labels, by default and at most rows - 1; TypeError or ValueError if it is no bound."""
    most = max(rows - 1, 0)
    if max_labels is None:
        return most
    bound = _checks.index("max_labels", max_labels)
    if bound < 0:
        raise ValueError(f"max_labels must not be negative, got {bound}.")
    _checks.lengths_values("labels_lengths", labels_lengths, 0, bound, f"max_labels = {bound}")
    return min(bound, most)


def cells(
    blank_log_probs,
    label_log_probs,
    frames_lengths,
    labels_lengths,
    offsets,
    max_labels: int,
    implementation,
):
    """lattice_cost on checked arguments (S,); a length that makes no sense gives NaN.

    offsets: (N,) int32, the row at which each sequence begins.
    """
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths, offsets
    return _lattice_cost(*vary_alike(*operands), max_labels, implementation)


@custom_vjp(5, 6)
def _lattice_cost(
    blank_log_probs,
    label_log_probs,
    frames_lengths,
    labels_lengths,
    offsets,
    max_labels,
    implementation,
):
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths, offsets
    return _run(_cost, operands, max_labels, implementation)[0]


def _lattice_cost_forward(*arguments):
    *operands, max_labels, implementation = arguments
    costs, *kept = _run(_forward, operands, max_labels, implementation)
    return costs, (*to_bits(*operands[:2]), *operands[2:], *kept)


def _lattice_cost_backward(max_labels, implementation, residuals, cotangents):
    operands = *residuals, cotangents
    results = _run(_backward, operands, max_labels, implementation)
    return *results, None, None, None


_lattice_cost.defvjp(_lattice_cost_forward, _lattice_cost_backward)


def _run(kernel, operands, max_labels, implementation):
    if implementation == "reference":
        return kernel.fallback(*operands, max_labels=max_labels)
    return kernel(*operands, insist=implementation == "native", max_labels=max_labels)
