"""The checks that lattices share: arcs of either layout, and the lengths that go with them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._checks import Integers
from jax_rnnt.lattice import compact as compact_form


def check_layout(
    name: str,
    shape: tuple[int, ...],
    frames_lengths: Integers,
    labels_lengths: Integers,
    *,
    compact: bool,
    max_labels: int | None,
) -> int | None:
    """max_labels of the compact layout, None of the padded one; ValueError if something is wrong.

    Args:
        name: what messages call the arcs.
        shape: the shape of each array of arcs.
    """
    if max_labels is not None and not compact:
        raise ValueError("max_labels is for the compact form: U says it otherwise.")
    if compact:
        if len(shape) != 1:
            raise ValueError(f"{name} must be (S,) in the compact form, got {shape}.")
        compact_form.check_lengths(shape[0], frames_lengths, labels_lengths)
        return compact_form.check_max_labels(max_labels, labels_lengths, shape[0])
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(f"{name} must be (..., T, U) with T and U at least 1, got {shape}.")
    *batch, T, U = shape
    _checks.shape("frames_lengths", frames_lengths, tuple(batch), "one for each sequence")
    _checks.shape("labels_lengths", labels_lengths, tuple(batch), "one for each sequence")
    _checks.lengths_values("frames_lengths", frames_lengths, 1, T, "T frames")
    _checks.lengths_values("labels_lengths", labels_lengths, 0, U - 1, "U - 1 labels")
    return None


def check_two_arcs(
    blank_log_probs: ArrayLike,
    label_log_probs: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    compact: bool,
    max_labels: int | None,
    implementation: str | None,
) -> tuple[tuple[jax.Array, jax.Array, Integers, Integers], int | None]:
    """The arrays of a function of RNN-T's two arcs, and max_labels as `check_layout` gives it."""
    blank_log_probs = _checks.floats("blank_log_probs", blank_log_probs)
    label_log_probs = _checks.floats("label_log_probs", label_log_probs)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    shape = blank_log_probs.shape
    bound = check_layout(
        "blank_log_probs",
        shape,
        frames_lengths,
        labels_lengths,
        compact=_checks.flag("compact", compact),
        max_labels=max_labels,
    )
    _checks.shape("label_log_probs", label_log_probs, shape, "as blank_log_probs")
    # TypePromotionError where it is strict.
    jnp.promote_types(blank_log_probs.dtype, label_log_probs.dtype)
    return (blank_log_probs, label_log_probs, frames_lengths, labels_lengths), bound
