"""What rows mean, in NumPy and float64: a row's log-probabilities, of which a few are taken."""

from typing import NamedTuple

import numpy as np
import oracle


class Rows(NamedTuple):
    """As `jax_rnnt.Rows`, with arrays in place of None: of 0 others, of 0 durations, of no rest."""

    blank: np.ndarray
    label: np.ndarray
    others: np.ndarray
    rest: np.ndarray
    durations: np.ndarray


@np.errstate(invalid="ignore")  # a NaN goes its way
def pick_rows(
    logits: np.ndarray,
    labels: np.ndarray,
    cotangents: Rows,
    *,
    blank: int,
    others: tuple[int, ...] = (),
    normalize: str = "softmax",
    durations: int = 0,
) -> tuple[Rows, np.ndarray]:
    """Rows (R, V + D) with their rest, and the gradient of cotangents . rows."""
    logits = np.asarray(logits, np.float64)
    V = logits.shape[-1] - durations
    tokens, heads = logits[:, :V], logits[:, V:]
    column = np.arange(V)
    is_blank = np.broadcast_to(column == blank, tokens.shape)
    in_rest = ~is_blank & (column != labels[:, None])
    has_label = (labels >= 0) & (labels < V)
    if normalize == "hat":
        has_label &= labels != blank
    is_label = has_label[:, None] & (column == labels[:, None])
    log_probs = _log_probs(tokens, is_blank, normalize)
    head_log_probs = oracle.log_softmax(heads) if durations else heads
    rest = np.logaddexp.reduce(np.where(in_rest, log_probs, -np.inf), -1)
    values = [
        log_probs[:, blank].copy(),
        np.where(is_label, log_probs, -np.inf).max(-1),
        log_probs[:, list(others)],
        rest,
        head_log_probs,
    ]
    padding = (labels < -1) | (labels >= V)
    senseless, senseless_heads = (~(x < np.inf).all(-1) for x in (tokens, heads))
    for i, broken in enumerate(
        [senseless, senseless & has_label, senseless, senseless, senseless_heads]
    ):
        values[i][broken], values[i][padding] = np.nan, -np.inf
    # The cotangent of each log-probability of the row, then of each logit.
    shares = np.exp(oracle.log_softmax(np.where(in_rest, tokens, -np.inf)))
    dense = np.where(is_blank, cotangents.blank[:, None], 0)
    dense += np.where(is_label, cotangents.label[:, None], 0) + shares * cotangents.rest[:, None]
    for other, cotangent in zip(others, cotangents.others.T):
        dense[:, other] += cotangent
    if normalize == "softmax":
        gradients = _through_softmax(tokens, dense)
    else:
        gradients = _through_softmax(
            np.where(is_blank, -np.inf, tokens), np.where(is_blank, 0, dense)
        )
        any_label = (~is_blank & (tokens > -np.inf)).any(-1)
        from_labels = np.where(any_label, np.where(is_blank, 0, dense).sum(-1), 0)
        p = np.exp(log_probs[:, blank])
        own = cotangents.blank * (1 - p) - from_labels * p
        gradients[:, blank] = np.where((tokens > -np.inf).any(-1), own, 0)
    heads_gradients = _through_softmax(heads, cotangents.durations)
    gradients[padding | senseless] = 0
    heads_gradients[padding | senseless_heads] = 0
    return Rows(*values), np.concatenate([gradients, heads_gradients], -1)


@np.errstate(invalid="ignore", divide="ignore")
def sum_and_entries(
    logits: np.ndarray,
    labels: np.ndarray,
    cotangents: np.ndarray,
    *,
    blank: int,
    tokens: int,
    without_blank: bool,
    without_label: bool,
    picks: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """What the row kernels give, maxima first, and cotangents . all but maxima's gradient."""
    logits, row, column = np.float64(logits), np.arange(len(logits)), np.arange(logits.shape[-1])
    core = np.broadcast_to(column < tokens, logits.shape) & ~(without_blank & (column == blank))
    core = core & ~(without_label & (column == labels[:, None]))
    padding, labelled = (labels < -1) | (labels >= tokens), (labels >= 0) & (labels < tokens)
    summed = np.where(core, logits, -np.inf)
    maxima = summed.max(-1)
    maxima[~np.isfinite(maxima)] = 0
    log_sums = np.log(np.exp(summed - maxima[:, None]).sum(-1))
    log_sums[(summed == np.inf).any(-1)] = np.nan
    own = np.where(labelled, logits[row, np.where(labelled, labels, 0)], -np.inf)
    values = np.stack([maxima, log_sums, logits[:, blank], own, *logits[:, list(picks)].T])
    values[:2, padding], values[2:, padding] = 0, -np.inf
    from_sum = np.where(np.isfinite(log_sums), cotangents[0], 0)[:, None]
    shares = np.exp(summed - maxima[:, None] - log_sums[:, None])
    gradients = np.where(core & (from_sum != 0), from_sum * shares, 0)
    gradients[:, blank] += cotangents[1]
    gradients[row[labelled], labels[labelled]] += cotangents[2][labelled]
    for pick, cotangent in zip(picks, cotangents[3:], strict=True):
        gradients[:, pick] += cotangent
    gradients[padding] = 0
    return values, gradients


def _log_probs(tokens, is_blank, normalize):
    if normalize == "softmax":
        return oracle.log_softmax(tokens)
    blank_logits = np.where(is_blank, tokens, -np.inf).max(-1, keepdims=True)
    among_labels = oracle.log_softmax(np.where(is_blank, -np.inf, tokens))
    emits, waits = -np.logaddexp(0, blank_logits), -np.logaddexp(0, -blank_logits)
    return np.where(is_blank, waits, among_labels + emits)


def _through_softmax(logits, cotangents):
    """c - softmax x sum of c in each row; 0 where all are -inf."""
    probs = np.exp(oracle.log_softmax(logits)) if logits.size else logits
    gradients = cotangents - probs * cotangents.sum(-1, keepdims=True)
    return np.where((logits > -np.inf).any(-1, keepdims=True), gradients, 0)
