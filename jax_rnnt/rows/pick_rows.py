"""Rows: from W logits, which exist as an array, to log-probabilities."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.program import one_program
from jax_rnnt.rows.entries import MAX_PICKS, Selection, entries
from jax_rnnt.rows.normalise import NORMALISATIONS, Picking, Planes, planes_of
from jax_rnnt.rows.pick import ColumnLabels, each_row


class Rows(NamedTuple):
    """Log-probabilities of each row, in nats; see :func:`pick_rows`."""

    blank: jax.Array
    """(...), of the blank."""
    label: jax.Array
    """(...), of the row's own label."""
    others: jax.Array | None
    """(..., number of others), in the order asked for, or None if no others were."""
    rest: jax.Array | None
    """(...), of all symbols but the blank and the own label together, or None if not asked for."""
    durations: jax.Array | None
    """(..., D), of the durations, or None if there are none."""


def pick_rows(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    blank: int = 0,
    others: Iterable[int] = (),
    rest: bool = False,
    normalize: str = "softmax",
    durations: int = 0,
    implementation: str | None = None,
) -> Rows:
    r"""Normalise each row of logits and keep the few log-probabilities that a lattice needs.

    With :math:`y` the row's own label and :math:`b` the blank, ``normalize="softmax"`` is

    .. math:: \log P(v) = x_v - \log \sum_w \exp x_w

    and ``"hat"``, the hybrid autoregressive transducer's, a Bernoulli variable for the blank and a
    softmax among the labels, which are all other symbols:

    .. math::
        \log P(b) = \log \sigma(x_b), \qquad
        \log P(v) = \log \sigma(-x_b) + x_v - \log \sum_{w \ne b} \exp x_w

    Neither exists as an array, nor does any part of the logits as a copy. Beside the blank and the
    own label, a row may give

    - `others`: further symbols, such as the blanks of several frames of a multi-blank transducer;
    - `rest`: all symbols but the blank and the own label, as one, from a sum of its own and not
      from one minus the two: :math:`\log \sum_{v \notin \{b, y\}} P(v)`. Others are part of it;
    - `durations`: with D of them, the last D logits of a row are no symbols but the second head of
      a token-and-duration transducer, :math:`\log Q(d) = z_d - \log \sum_e \exp z_e`.

    Differentiable with respect to the logits; each output has a gradient of its own.

    Args:
        logits: (..., V + D), float32, bfloat16, float16 or float64, not normalised: V symbols,
            then D durations.
        labels: (...), integers, one for each row. In [0, V): the label that may leave the row.
            -1: no label leaves it. Anything else: the row is padding and is never read.
        blank: index of the blank among the V symbols; negative counts from the end of those.
        others: indices of further symbols, counted as the blank's. The blank is none of them.
        rest: whether to give the rest.
        normalize: "softmax" or "hat".
        durations: D, the number of durations.
        implementation: None for the native kernel where there is one, "native" to insist on it,
            "reference" for plain JAX (differentiable twice). Kernels take at most 16 others and
            durations together; None is plain JAX beyond.

    Returns:
        :class:`Rows` in float32 (float64 for float64 logits). Where there is no such arc: -inf,
        with zero gradient. These are all of padding, the label where there is none and, in "hat",
        a label that is the blank. A row whose symbols are all -inf has no arcs but its durations;
        one with NaN or +inf among its symbols has NaN arcs, with zero gradient, and likewise the
        durations by themselves. A row without a label has durations all the same.

    Raises:
        TypeError: If logits are not floats, or labels or indices not integers.
        ValueError: If shapes do not fit, or blank or one of the others is not a symbol.
        NotImplementedError: If implementation="native" and the platform has no kernel for it.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> logits, labels = jnp.zeros((2, 6)), jnp.array([3, -1])  # four symbols, two durations
        >>> rows = jax_rnnt.pick_rows(logits, labels, rest=True, durations=2)
        >>> print(jnp.exp(rows.label), jnp.exp(rows.rest))
        [0.25 0.  ] [0.5  0.75]
        >>> print(jnp.exp(rows.durations))
        [[0.5 0.5]
         [0.5 0.5]]

    See Graves (2012), arXiv:1211.3711; hybrid autoregressive transducer: Variani et al. (2020),
    arXiv:2003.07705; durations: Xu et al. (2023), arXiv:2304.06795; several blanks: Xu et al.
    (2022), arXiv:2211.03541.
    """
    logits = _checks.floats("logits", logits)
    labels = _checks.integers("labels", labels)
    durations = durations_count(durations)
    V = logits.shape[-1] - durations if logits.ndim else 0
    if V < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            "labels must have one entry for each row of logits (..., V + D), V at least 1, "
            f"got labels of shape {labels.shape} and logits of shape {logits.shape} with "
            f"D = {durations} durations."
        )
    picking = make_picking(blank, others, rest, normalize, durations, logits.shape[-1])
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    return _pick_rows(
        logits,
        jnp.asarray(labels),
        picking=picking,
        implementation=implementation,
    )


def make_picking(
    blank: int, others: Iterable[int], rest: bool, normalize: str, durations: int, width: int
) -> Picking:
    """The options of rows of so many logits; TypeError or ValueError if they make no sense.

    `durations` is what `durations_count` gives.
    """
    _checks.choice("normalize", normalize, NORMALISATIONS)
    V = width - durations
    blank = _checks.blank_index(blank, V)
    others = other_symbols(others, blank, V)
    return Picking(blank, others, _checks.flag("rest", rest), normalize, durations)


def durations_count(value: int) -> int:
    """value as the number of durations, or TypeError, ValueError."""
    durations = _checks.index("durations", value)
    if durations < 0:
        raise ValueError(f"durations must not be negative, got {durations}.")
    return durations


def other_symbols(others: Iterable[int], blank: int, vocabulary: int) -> tuple[int, ...]:
    """Others in [0, vocabulary) from indices that may count from the end."""
    try:
        given = tuple(others)
    except TypeError:
        raise TypeError(f"others must be a sequence of integers, got {others!r}.") from None
    symbols = tuple(_checks.symbol("others", other, vocabulary) for other in given)
    if blank in symbols:
        raise ValueError(f"others must not have the blank, {blank}, among them, got {given}.")
    return symbols


@functools.partial(one_program, static_argnames=("picking", "implementation"))
def _pick_rows(logits, labels, *, picking, implementation):
    return stacked(row_arcs(logits, labels, picking, implementation))


def stacked(planes: Planes) -> Rows:
    """Rows, whose others and durations are one array each."""
    others, durations = (
        jnp.stack(several, -1) if several else None for several in (planes.others, planes.durations)
    )
    return Rows(planes.blank, planes.label, others, planes.rest, durations)


def row_arcs(
    logits: jax.Array,
    labels: jax.Array | ColumnLabels,
    picking: Picking,
    implementation: str | None,
) -> Planes:
    """pick_rows on checked arguments, with labels by row or by column."""
    selection = picking.selection(logits.shape[-1])
    row = entries(logits, labels, selection, with_kernels_for(selection, implementation))
    return planes_of(row, each_row(logits, labels), picking, selection.tokens)


def with_kernels_for(selection: Selection, implementation: str | None) -> str | None:
    """The implementation, "reference" where the kernels pick fewer entries than are asked for."""
    if len(selection.picks) <= MAX_PICKS:
        return implementation
    if implementation == "native":
        raise NotImplementedError(
            f"implementation='native': kernels take at most {MAX_PICKS} others and durations "
            f"together, got {len(selection.picks)}."
        )
    return "reference"
