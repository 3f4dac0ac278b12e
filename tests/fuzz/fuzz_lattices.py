"""The costs of one sequence of fuzz_cases, of any function, and what the rules know of them.

From a sequence's rows to log-probabilities, to arcs, to the cost, and all derivatives back.
"""

import dataclasses
import math
from typing import NamedTuple

import arcs_oracle
import numpy as np
import oracle
from arcs_oracle import Arc

IMPOSSIBLE = -1e37 * math.log(2)


class Weights(NamedTuple):
    """Log-weights of one kind of arcs (T, U), and the sum of the magnitudes they are made of."""

    values: np.ndarray
    magnitudes: np.ndarray


@dataclasses.dataclass
class Found:
    """Of one sequence: its cost, its derivatives, and what fuzz_answers' rules say of both."""

    cost: float
    posteriors: dict[Arc, np.ndarray]
    spread: float = 0.0  # E of rule 2
    blind: bool = False  # the oracle knows nothing of the posteriors
    at_least: bool = False  # rule 1
    unknown: bool = False  # rule 3


def align(arcs: dict[Arc, Weights], last: tuple[Arc, ...] | None = None) -> Found:
    """The cost of a lattice and the posteriors of its arcs."""
    T, U = next(iter(arcs.values())).values.shape
    legal = {arc: arcs_oracle.legal(arc, T, U, last is None or arc in last) for arc in arcs}
    if arcs.keys() == {(1, 0), (0, 1)}:
        legal[1, 0][-1, :-1] = False  # lattice_cost does not look at what leads nowhere
    values = {arc: np.where(legal[arc], w.values, -np.inf) for arc, w in arcs.items()}
    found = Found(np.nan, {arc: np.zeros((T, U)) for arc in arcs})
    if not all((x < np.inf).all() for x in values.values()):
        return found
    found.unknown = any(bool((x > 2e6).any()) for x in values.values())
    values = {arc: np.where(x < IMPOSSIBLE, -np.inf, x) for arc, x in values.items()}
    ends = np.full((2, T + 1), -np.inf)
    ends[0, 0] = ends[1, T] = 0
    aligned = arcs_oracle.alpha_beta(arcs_oracle.Lattice(values, *ends))
    found.cost, found.posteriors = aligned.cost, aligned.arcs
    if math.isfinite(found.cost):
        # Each frame is passed and each label written once, or the oracle itself is too far out.
        ones = _passes(aligned.arcs, T, U)
        found.blind = not np.allclose(ones, 1, rtol=0, atol=1e-3)
        magnitudes = [np.where(np.isfinite(w.magnitudes), w.magnitudes, 0) for w in arcs.values()]
        spread = sum(float((p * m).sum()) for p, m in zip(aligned.arcs.values(), magnitudes))
        found.spread = max(0.0 if found.blind else spread, abs(found.cost))
    found.at_least = math.isfinite(found.cost) and found.cost > -0.99 * IMPOSSIBLE
    return found


def best(arcs: dict[Arc, Weights]) -> Found:
    """The best path of RNN-T's lattice as a cost, its arcs as posteriors; rule 8 by `blind`."""
    blank, label = (np.array(arcs[arc].values, np.float64) for arc in ((1, 0), (0, 1)))
    T, U = blank.shape
    blank[-1, :-1], label[:, -1] = -np.inf, -np.inf
    found = Found(np.nan, {arc: np.zeros((T, U)) for arc in arcs})
    if not ((blank < np.inf) & (label < np.inf)).all():
        return found
    found.unknown = bool(max(blank.max(), label.max()) > 2e6)
    before, after = np.full((2, T + 1, U + 1), -np.inf)
    before[0, 0] = after[T, U - 1] = 0
    for t, u in np.ndindex(T, U):
        if u:
            before[t, u] = max(before[t, u], before[t, u - 1] + label[t, u - 1])
        before[t + 1, u] = before[t, u] + blank[t, u]
    for t, u in reversed(list(np.ndindex(T, U))):
        after[t, u] = max(blank[t, u] + after[t + 1, u], label[t, u] + after[t, u + 1])
    most = after[0, 0]
    found.cost = -most
    if most == -np.inf:
        return found
    inner = before[:T, :U]
    through = {(1, 0): inner + blank + after[1:, :U], (0, 1): inner + label + after[:T, 1:]}
    slack = 1e-5 * (1 + abs(most))
    near = {arc: x > most - slack for arc, x in through.items()}
    found.posteriors = {arc: x.astype(np.float64) for arc, x in near.items()}
    found.blind = sum(int(x.sum()) for x in near.values()) != T + U - 1
    found.spread = abs(most)
    found.at_least = found.cost > -0.99 * IMPOSSIBLE
    return found


def _passes(posteriors: dict[Arc, np.ndarray], T: int, U: int) -> list[float]:
    """For each frame, and for each label, the sum of the posteriors of the arcs that take it."""
    ones = [0.0] * (T + U - 1)
    for (dt, du), x in posteriors.items():
        frames, columns = x.sum(1), x.sum(0)
        for t in range(T):
            for b in range(t, min(t + dt, T)):
                ones[b] += frames[t]
        for u in range(U - 1):
            ones[T + u] += columns[u] if du else 0
    return ones


class Picks(NamedTuple):
    """Numbers (T, U, ...) of a sequence: log-probabilities, their biases, or derivatives."""

    blank: np.ndarray
    label: np.ndarray
    durations: np.ndarray


@dataclasses.dataclass(frozen=True)
class Kind:
    """Which loss: what a case's signature says of it."""

    from_logits: bool
    normalize: str = "softmax"
    rnnt_type: str = "regular"
    durations: tuple[int, ...] = ()
    sigma: float = 0.0
    omega: float = 0.0

    @property
    def reach(self) -> int:
        """Of an arc's log-probability by the logits, the most that the L1 norm can be.

        2 of a softmax: 1 - p of its own entry, as much of all others. "hat" has it of a label among
        the others, and one more of the blank's sigmoid.
        """
        return (3 if self.normalize == "hat" else 2) + 2 * bool(self.durations)

    def solve(self, picks: Picks, magnitudes: Picks) -> tuple[Found, Picks]:
        """The cost, and its derivatives with respect to what is picked."""
        if not self.durations:
            return self._solve(picks, magnitudes, self.rnnt_type)
        found, derivatives = self._solve(picks, magnitudes, "timed")
        if not self.omega:
            return found, derivatives
        plain, plain_derivatives = self._solve(picks, magnitudes, "regular")
        shares = 1 - self.omega, self.omega
        both = [(s, f) for s, f in zip(shares, (found, plain)) if s]
        mixed = Found(sum(s * f.cost for s, f in both), {})
        mixed.spread = sum(s * f.spread for s, f in both)
        mixed.blind = any(f.blind for _, f in both)
        mixed.unknown = any(f.unknown or f.at_least for f in (found, plain))
        is_possible = math.isfinite(mixed.cost)
        parts = [
            sum(s * x for s, x in zip(shares, pair)) * is_possible
            for pair in zip(derivatives, plain_derivatives)
        ]
        return mixed, Picks(*parts)

    def _solve(self, picks, magnitudes, kind):
        arcs, last = self._arcs(picks, magnitudes, kind)
        found = align(arcs, last)
        derivatives = Picks(*(np.zeros(x.shape) for x in picks))
        for (dt, du), posteriors in found.posteriors.items():
            derivatives[du][...] -= posteriors
            if kind == "timed":
                derivatives.durations[..., self.durations.index(dt)] -= posteriors
            if kind == "constrained" and du:
                derivatives.blank[:, 1:] -= posteriors[:, :-1]
        return found, derivatives

    def _arcs(self, picks, magnitudes, kind):
        blank, label = (Weights(*pair) for pair in zip(picks[:2], magnitudes[:2]))
        if kind == "regular":
            return {(1, 0): blank, (0, 1): label}, None
        if kind == "modified":
            return {(1, 0): blank, (1, 1): label}, None
        if kind == "constrained":
            after = [np.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=-np.inf) for x in blank]
            both = Weights(*(x + y for x, y in zip(label, after)))
            return {(1, 0): blank, (1, 1): both}, None
        arcs = {}
        for i, frames in enumerate(self.durations):
            head = Weights(picks.durations[..., i], magnitudes.durations[..., i])
            for du, token in enumerate((blank, label)):
                if frames or du:
                    arcs[frames, du] = Weights(
                        token.values + head.values - self.sigma,
                        token.magnitudes + head.magnitudes + abs(self.sigma),
                    )
        return arcs, tuple((d, 0) for d in self.durations if d)


@np.errstate(all="ignore")
def of_rows(
    kind: Kind, rows: np.ndarray, labels: np.ndarray, blank: int, biases: Picks, emission: float
) -> tuple[Found, np.ndarray, Picks]:
    """One sequence's cost, and its derivatives by rows (T, U, V + D) and by what is picked.

    emission: FastEmit's factor is 1 + emission, in the derivatives by rows.
    """
    V = rows.shape[-1] - len(kind.durations)
    log_probs, through = _log_probs(kind, rows[..., :V], blank)
    heads = _log_softmax(rows[..., V:]) if kind.durations else rows[..., V:]
    column, emitted = np.arange(len(labels)), len(labels)
    label = np.full(rows.shape[:2], -np.inf)
    label[:, :emitted] = log_probs[:, column, labels]
    if kind.normalize == "hat":
        label[:, :emitted][:, labels == blank] = -np.inf
    picks = Picks(log_probs[..., blank], label, heads)
    magnitudes = Picks(*(np.abs(x) + np.abs(b) for x, b in zip(picks, biases)))
    found, derivatives = kind.solve(Picks(*(x + b for x, b in zip(picks, biases))), magnitudes)
    dense = np.zeros(log_probs.shape)
    dense[..., blank] += derivatives.blank
    np.add.at(dense, (slice(None), column, labels), derivatives.label[:, :emitted] * (1 + emission))
    by_heads = derivatives.durations
    if kind.durations:
        by_heads = by_heads - np.exp(heads) * by_heads.sum(-1, keepdims=True)
    by_rows = np.concatenate([through(dense), by_heads], -1)
    if not math.isfinite(found.cost):
        by_rows[...] = 0
    return found, np.where(np.isnan(by_rows), 0, by_rows), derivatives


def _log_softmax(logits):
    """The oracle's, where a row that makes no sense is NaN altogether."""
    sensible = (logits < np.inf).all(-1, keepdims=True)
    return np.where(sensible, oracle.log_softmax(logits), np.nan)


def _log_probs(kind, logits, blank):
    """All log-probabilities, and the function from their derivatives to the logits'."""
    if not kind.from_logits:
        return logits, lambda c: c
    if kind.normalize == "softmax":
        log_probs = _log_softmax(logits)
        return log_probs, lambda c: c - np.exp(log_probs) * c.sum(-1, keepdims=True)
    is_blank = np.arange(logits.shape[-1]) == blank
    odds = logits[..., blank, None]
    among = oracle.log_softmax(np.where(is_blank, -np.inf, logits))
    log_blank, log_rest = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    sensible = (logits < np.inf).all(-1, keepdims=True)
    log_probs = np.where(sensible, np.where(is_blank, log_blank, log_rest + among), np.nan)

    def through(c):
        emitted = np.where(is_blank, 0, c).sum(-1, keepdims=True)
        own = c[..., blank, None] * np.exp(log_rest) - emitted * np.exp(log_blank)
        return np.where(is_blank, own, np.where(is_blank, 0, c) - emitted * np.exp(among))

    return log_probs, through
