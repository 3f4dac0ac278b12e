"""Rows: from W logits to log-probabilities, whatever the normalisation.

The kernels give each row's log-sum and single logits; everything here is elementwise on arrays of
one number a row.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt import _checks, reference
from jax_rnnt._xla.program import one_program
from jax_rnnt.rows.entries import MAX_PICKS, Selection, entries
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


class Planes(NamedTuple):
    """Rows with an array (...) for each of the others and of the durations."""

    blank: jax.Array
    label: jax.Array
    others: tuple[jax.Array, ...]
    rest: jax.Array | None
    durations: tuple[jax.Array, ...]


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
    durations = _checks.index("durations", durations)
    if durations < 0:
        raise ValueError(f"durations must not be negative, got {durations}.")
    V = logits.shape[-1] - durations if logits.ndim else 0
    if V < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            "labels must have one entry for each row of logits (..., V + D), V at least 1, "
            f"got labels of shape {labels.shape} and logits of shape {logits.shape} with "
            f"D = {durations} durations."
        )
    _checks.choice("normalize", normalize, ("softmax", "hat"))
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    blank = _checks.symbol("blank", blank, V)
    return _pick_rows(
        logits,
        jnp.asarray(labels),
        blank=blank,
        others=other_symbols(others, blank, V),
        rest=_checks.flag("rest", rest),
        normalize=normalize,
        durations=durations,
        implementation=implementation,
    )


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


_OPTIONS = ("blank", "others", "rest", "normalize", "durations", "implementation")


@functools.partial(one_program, static_argnames=_OPTIONS)
def _pick_rows(logits, labels, **options):
    planes = row_arcs(logits, labels, **options)
    return Rows(
        planes.blank, planes.label, _stack(planes.others), planes.rest, _stack(planes.durations)
    )


def _stack(planes):
    return jnp.stack(planes, -1) if planes else None


def row_arcs(
    logits: jax.Array,
    labels: jax.Array | ColumnLabels,
    *,
    blank: int,
    others: tuple[int, ...] = (),
    rest: bool = False,
    normalize: str = "softmax",
    durations: int = 0,
    implementation: str | None,
) -> Planes:
    """pick_rows on checked arguments, with labels by row or by column."""
    is_hat, V = normalize == "hat", logits.shape[-1] - durations
    picks = (*others, *range(V, V + durations))
    if len(picks) > MAX_PICKS:
        if implementation == "native":
            raise NotImplementedError(
                f"implementation='native': kernels take at most {MAX_PICKS} others and durations "
                f"together, got {len(picks)}."
            )
        implementation = "reference"
    selection = Selection(blank, V, is_hat or rest, rest, picks)
    row = entries(logits, labels, selection, implementation)
    own = each_row(logits, labels)
    is_read, own_is_blank = reference.is_read(own, V), own == blank
    has_label = is_read & (own >= 0) & ~(own_is_blank & is_hat)
    # NaN and +inf are taken out, so that no derivative meets them.
    sensible = (row.log_sums < jnp.inf) & (row.blank < jnp.inf) & (row.label < jnp.inf)
    missing = jnp.where(sensible, -jnp.inf, jnp.nan).astype(row.blank.dtype)
    core = _Sum(row.maxima, jnp.where(sensible, row.log_sums, -jnp.inf))
    blank_logits = jnp.where(sensible, row.blank, -jnp.inf)
    label_logits = jnp.where(sensible & has_label, row.label, -jnp.inf)
    # What is normalised together: all symbols, or all labels. The core lacks what the rest lacks.
    whole = core
    if rest:
        apart = jnp.where(own_is_blank, -jnp.inf, label_logits)
        whole = _add([apart] if is_hat else [apart, blank_logits], core)
    usable = is_read & (whole.logs > -jnp.inf)
    # `total`: the log-probability of all that is normalised together, where it is not zero.
    blank_log_probs = total = None
    if is_hat:
        has_blank = is_read & ((blank_logits > -jnp.inf) | usable)
        log_odds = jnp.where(has_blank, blank_logits, 0)
        blank_log_probs = jnp.where(has_blank, jax.nn.log_sigmoid(log_odds), missing)
        total = jax.nn.log_sigmoid(-log_odds)

    def log_probs(relative, exist=usable):
        """Of numbers relative to whole.maxima, where they exist."""
        normalised = relative - whole.logs
        return jnp.where(exist, normalised if total is None else normalised + total, missing)

    rest_log_probs = None
    if rest:
        relative = core.maxima - whole.maxima + core.logs
        rest_log_probs = log_probs(relative, usable & (core.logs > -jnp.inf))
    if blank_log_probs is None:
        blank_log_probs = log_probs(blank_logits - whole.maxima)
    return Planes(
        blank_log_probs,
        jnp.where(has_label, log_probs(label_logits - whole.maxima), -jnp.inf),
        tuple(log_probs(x - whole.maxima) for x in row.picks[: len(others)]),
        rest_log_probs,
        _log_softmax(row.picks[len(others) :], is_read),
    )


class _Sum(NamedTuple):
    """exp(maxima + logs) of each row: two terms, because one would round what is left of maxima."""

    maxima: jax.Array  # a constant to derivatives
    logs: jax.Array  # -inf for a sum of nothing


def _add(logits: Sequence[jax.Array], *sums: _Sum) -> _Sum:
    """The sum of exp(logits) and sums; logits may be -inf, but not NaN or +inf."""
    tops = [*logits, *(jnp.where(s.logs > -jnp.inf, s.maxima, -jnp.inf) for s in sums)]
    maxima = lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    possible = maxima > -jnp.inf
    maxima = jnp.where(possible, maxima, 0)
    terms = [x - maxima for x in logits] + [(s.maxima - maxima) + s.logs for s in sums]
    total = functools.reduce(jnp.add, map(jnp.exp, terms))
    logs = jnp.log(jnp.where(possible, total, 1))
    return _Sum(maxima, jnp.where(possible, logs, -jnp.inf))


def _log_softmax(logits: Sequence[jax.Array], is_read: jax.Array) -> tuple[jax.Array, ...]:
    """The log-softmax over arrays, -inf where a row is not read."""
    if not logits:
        return ()
    sensible = functools.reduce(jnp.logical_and, [x < jnp.inf for x in logits])
    missing = jnp.where(sensible, -jnp.inf, jnp.nan).astype(logits[0].dtype)
    logits = [jnp.where(sensible, x, -jnp.inf) for x in logits]
    whole = _add(logits)
    usable = is_read & (whole.logs > -jnp.inf)
    return tuple(jnp.where(usable, (x - whole.maxima) - whole.logs, missing) for x in logits)
