"""The steps that all losses share: rows to picks, picks to costs, and the caller's reduction."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.losses import layouts

_REDUCTIONS = types.MappingProxyType({None: None, "none": None, "sum": jnp.sum, "mean": jnp.mean})
_NO_BIASES: Mapping[str, Any] = types.MappingProxyType({})


def checked_loss(
    name: str,
    rows: Any,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    blank: int,
    compact: bool,
    reduction: str | None,
    implementation: str | None,
    average_frames: bool,
    where: ArrayLike | None,
    rows_to_picks: Callable,
    picks_to_costs: Callable,
    numbers: Mapping[str, ArrayLike],
    biases: Mapping[str, ArrayLike | None] = _NO_BIASES,
    durations: int = 0,
    clamped: bool = False,
) -> jax.Array:
    """Check the arguments and compute the loss of any source of rows and any lattice over them.

    Args:
        name: what messages call the rows.
        rows: an array of rows, or a pytree that rows are computed from and that has their `shape`,
            (..., T, U, V) or, compact, (S, V), with `durations` more entries behind the V.
        rows_to_picks: the function from rows, their labels as `pick.softmax_arcs` takes them,
            `blank` and `implementation` to what the lattice needs of each row: first the blank's
            and the label's log-probabilities.
        picks_to_costs: the function from these picks, the options (a dict of `numbers` and
            `biases`, None for what is not given) and `solve(arcs, last=None)`, the cost of arcs
            {(frames, labels): log-weights}, to the costs. Hashable, equal for equal lattices.
        numbers: scalars by their names, `fastemit_lambda` among them; one that is the Python number
            0 is not given, and costs nothing.
        biases: arrays by their names that broadcast to the cells, or None.
        durations: how many entries of a row stand behind its V symbols.
        clamped: whether rows_to_picks gives, behind the picks, a zero for each sequence, which is
            added to its cost and so tells it the cost's cotangent.
    """
    check_reduction(reduction)
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    compact = _checks.flag("compact", compact)
    average_frames = _checks.flag("average_frames", average_frames)
    labels = _checks.integers("labels", labels)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    check = layouts.check_compact if compact else layouts.check_padded
    where = None if where is None else _checks.mask("where", where)
    check(name, rows, labels, frames_lengths, labels_lengths, where, durations)
    options = {name: optional_number(name, value) for name, value in numbers.items()}
    cells = layouts.cells_axes(compact), tuple(rows.shape[:-1])
    options |= {name: optional_bias(name, value, *cells) for name, value in biases.items()}
    return loss(
        rows,
        labels,
        frames_lengths,
        labels_lengths,
        where,
        options,
        blank=_checks.blank_index(blank, rows.shape[-1] - durations),
        compact=compact,
        reduction=reduction,
        implementation=implementation,
        average_frames=average_frames,
        rows_to_picks=rows_to_picks,
        picks_to_costs=picks_to_costs,
        durations=durations,
        clamped=clamped,
    )


def check_reduction(reduction: str | None) -> None:
    """ValueError if there is no such reduction."""
    _checks.choice("reduction", reduction, tuple(_REDUCTIONS))


def optional_number(name: str, value: ArrayLike) -> jax.Array | None:
    """A number as an array; None for the Python number 0, which is not given."""
    is_zero = type(value) in (int, float) and value == 0
    return None if is_zero else _checks.number(name, value)


def optional_bias(name, value, axes: str, shape: tuple[int, ...]) -> jax.Array | None:
    """A bias that broadcasts to the cells of this shape; None if it is not given."""
    if value is None:
        return None
    array = _checks.floats(name, value)
    _checks.broadcasts(name, array, shape, axes)
    return array


@functools.partial(
    one_program,
    static_argnames=(
        "rows_to_picks",
        "picks_to_costs",
        "durations",
        "clamped",
        "average_frames",
        "reduction",
        "blank",
        "compact",
        "implementation",
    ),
)
def loss(
    rows,
    labels,
    frames_lengths,
    labels_lengths,
    where,
    options,
    *,
    rows_to_picks,
    picks_to_costs,
    durations,
    clamped,
    average_frames,
    reduction,
    blank,
    compact,
    implementation,
):
    """checked_loss on checked arguments."""
    layout = layouts.of_compact if compact else layouts.of_padded
    row_labels, sensible, arcs_to_costs = layout(
        rows, labels, frames_lengths, labels_lengths, where, durations
    )
    picks = rows_to_picks(rows, row_labels, blank=blank, implementation=implementation)
    picks, unit = picks if clamped else (picks, None)
    blank_log_probs, label_log_probs, *heads = picks
    label_log_probs = emitted_fast(label_log_probs, options["fastemit_lambda"])
    # A sequence whose lengths or labels make no sense gets 0 frames, for which the cost is NaN.
    frames_lengths = jnp.where(sensible, frames_lengths, 0)

    def solve(arcs, last=None):
        return arcs_to_costs(arcs, frames_lengths, labels_lengths, last, implementation)

    costs = picks_to_costs((blank_log_probs, label_log_probs, *heads), options, solve)
    if unit is not None:
        costs = costs + unit
    return reduced(costs, frames_lengths, where, average_frames, reduction)


def reduced(
    costs: jax.Array,
    frames_lengths: jax.Array,
    where: jax.Array | None,
    average_frames: bool,
    reduction: str | None,
) -> jax.Array:
    """What a loss returns of its costs (...)."""
    if average_frames:
        costs = costs / jnp.maximum(frames_lengths, 1).astype(costs.dtype)
    if where is not None:
        costs = jnp.where(where, costs, 0)  # costs left out are NaN, with zero gradients
    reduce = _REDUCTIONS[reduction]
    return costs if reduce is None else reduce(costs, where=where)


def emitted_fast(label_log_probs: jax.Array, fastemit_lambda: jax.Array | None) -> jax.Array:
    """Labels' log-probabilities, whose gradients are multiplied by 1 + lambda if one is given."""
    if fastemit_lambda is None:
        return label_log_probs
    scale = 1 + jnp.asarray(fastemit_lambda, label_log_probs.dtype)
    return _scale_gradient(*vary_alike(label_log_probs, scale))


@jax.custom_jvp
def _scale_gradient(x, scale):
    """x, with a derivative that is multiplied by `scale`."""
    del scale
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals, tangents):
    x, scale = primals
    return x, tangents[0] * scale
