"""From a row's log-sum and entries to its log-probabilities, whatever the normalisation.

Everything here is elementwise, on arrays of one number a row: where the sums and entries come from,
an array of logits or a joint network, is the caller's.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt.reference.rows import is_read
from jax_rnnt.rows.entries import Entries, Selection

NORMALISATIONS = "softmax", "hat"


class Picking(NamedTuple):
    """Which log-probabilities are kept of rows of V symbols and D durations."""

    blank: int  # in [0, V)
    others: tuple[int, ...] = ()
    rest: bool = False
    normalize: str = "softmax"
    durations: int = 0  # D

    @property
    def is_hat(self) -> bool:
        return self.normalize == "hat"

    def selection(self, width: int) -> Selection:
        """What they are made of, of rows of so many logits."""
        tokens = width - self.durations
        picks = (*self.others, *range(tokens, width))
        return Selection(self.blank, tokens, self.is_hat or self.rest, self.rest, picks)


class Planes(NamedTuple):
    """Rows with an array (...) for each of the others and of the durations."""

    blank: jax.Array
    label: jax.Array
    others: tuple[jax.Array, ...]
    rest: jax.Array | None
    durations: tuple[jax.Array, ...]


def planes_of(row: Entries, labels: jax.Array, picking: Picking, tokens: int) -> Planes:
    """The log-probabilities of rows with these labels (...), of which `tokens` logits are symbols.

    `row` is what `picking.selection` selects.
    """
    own, is_hat, others = labels, picking.is_hat, len(picking.others)
    read, own_is_blank = is_read(own, tokens), own == picking.blank
    has_label = read & (own >= 0) & ~(own_is_blank & is_hat)
    # NaN and +inf are taken out, so that no derivative meets them.
    sensible = (row.log_sums < jnp.inf) & (row.blank < jnp.inf) & (row.label < jnp.inf)
    missing = jnp.where(sensible, -jnp.inf, jnp.nan).astype(row.blank.dtype)
    core = _Sum(row.maxima, jnp.where(sensible, row.log_sums, -jnp.inf))
    blank_logits = jnp.where(sensible, row.blank, -jnp.inf)
    label_logits = jnp.where(sensible & has_label, row.label, -jnp.inf)
    # What is normalised together: all symbols, or all labels. The core lacks what the rest lacks.
    whole = core
    if picking.rest:
        apart = jnp.where(own_is_blank, -jnp.inf, label_logits)
        whole = _add([apart] if is_hat else [apart, blank_logits], core)
    usable = read & (whole.logs > -jnp.inf)
    # `total`: the log-probability of all that is normalised together, where it is not zero.
    blank_log_probs = total = None
    if is_hat:
        has_blank = read & ((blank_logits > -jnp.inf) | usable)
        log_odds = jnp.where(has_blank, blank_logits, 0)
        blank_log_probs = jnp.where(has_blank, jax.nn.log_sigmoid(log_odds), missing)
        total = jax.nn.log_sigmoid(-log_odds)

    def log_probs(relative, exist=usable):
        """Of numbers relative to whole.maxima, where they exist."""
        normalised = relative - whole.logs
        return jnp.where(exist, normalised if total is None else normalised + total, missing)

    rest_log_probs = None
    if picking.rest:
        relative = core.maxima - whole.maxima + core.logs
        rest_log_probs = log_probs(relative, usable & (core.logs > -jnp.inf))
    if blank_log_probs is None:
        blank_log_probs = log_probs(blank_logits - whole.maxima)
    return Planes(
        blank_log_probs,
        jnp.where(has_label, log_probs(label_logits - whole.maxima), -jnp.inf),
        tuple(log_probs(x - whole.maxima) for x in row.picks[:others]),
        rest_log_probs,
        _log_softmax(row.picks[others:], read),
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


def _log_softmax(logits: Sequence[jax.Array], read: jax.Array) -> tuple[jax.Array, ...]:
    """The log-softmax over arrays, -inf where a row is not read."""
    if not logits:
        return ()
    sensible = functools.reduce(jnp.logical_and, [x < jnp.inf for x in logits])
    missing = jnp.where(sensible, -jnp.inf, jnp.nan).astype(logits[0].dtype)
    logits = [jnp.where(sensible, x, -jnp.inf) for x in logits]
    whole = _add(logits)
    usable = read & (whole.logs > -jnp.inf)
    return tuple(jnp.where(usable, (x - whole.maxima) - whole.logs, missing) for x in logits)
