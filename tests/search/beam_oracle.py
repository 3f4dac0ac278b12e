"""Beam search as one would write it down: dictionaries of label sequences, in float64."""

import functools

import numpy as np
from search_models import Model, P, log_softmax

NEVER = -np.inf


class Oracle:
    """A model's log-probabilities after each sequence of labels."""

    def __init__(self, model: Model, encoder: np.ndarray, blank: int, durations=None):
        self.model, self.encoder, self.durations = (
            model.exact,
            encoder.astype(np.float64),
            durations,
        )
        self.blank, self.symbols = blank, len(model.embedding)
        self.predictor = functools.cache(self._predictor)
        self.row = functools.cache(self._row)

    def _predictor(self, labels):
        if not labels:
            return self.model.step(np.zeros((1, P)), np.array([self.blank]))
        return self.model.step(self.predictor(labels[:-1])[0], np.array([labels[-1]]))

    def _row(self, t, labels):
        logits = self.model.joint(self.encoder[None, t], self.predictor(labels)[1])[0]
        return log_softmax(logits[: self.symbols]), log_softmax(logits[self.symbols :])

    def arcs(self, t, labels, rnnt_type):
        """(log-probability, label or None, frames) of each arc."""
        tokens, heads = self.row(t, labels) if self.durations else (self.row(t, labels)[0], None)
        for v in range(self.symbols):
            is_blank = v == self.blank
            if not self.durations:
                yield tokens[v], None if is_blank else v, int(is_blank or rnnt_type == "modified")
                continue
            for d, log_prob in zip(self.durations, heads):
                if d or not is_blank:
                    yield tokens[v] + log_prob, None if is_blank else v, d


def add(sums, key, x):
    sums[key] = np.logaddexp(sums.get(key, NEVER), x)


def best(sums, K):
    return dict(sorted(sums.items(), key=lambda item: -item[1])[:K])


def all_sequences(oracle, T, rnnt_type, max_symbols, most):
    """The log-probability of every sequence of at most `most` labels."""
    nodes = {(0, (), 0): 0.0}  # frame, labels, labels at this frame
    done: dict = {}
    while nodes:
        node = min(nodes, key=lambda node: (node[0], node[2]))
        total, (t, labels, here) = nodes.pop(node), node
        if t >= T:
            add(done, labels, total)
            continue
        for log_prob, label, d in oracle.arcs(t, labels, rnnt_type):
            if label is None:
                add(nodes, (t + d, labels, 0), total + log_prob)
            elif len(labels) < most and here < max_symbols:
                add(nodes, (t + d, (*labels, label), 0 if d else here + 1), total + log_prob)
    return done


def one_symbol(oracle, T, K):
    """The beam of one symbol a frame: all is added up, then K are kept."""
    beam = {(): 0.0}
    for t in range(T):
        new: dict = {}
        for labels, total in beam.items():
            for log_prob, label, _ in oracle.arcs(t, labels, "modified"):
                add(new, labels if label is None else (*labels, label), total + log_prob)
        beam = best(new, K)
    return beam


def many_symbols(oracle, T, K, max_symbols):
    """The beam with up to so many labels a frame, of which K are kept after each."""
    beam = {(): 0.0}
    for t in range(T):
        new: dict = {}
        for round_ in range(max_symbols + 1):
            grown: dict = {}
            for labels, total in beam.items():
                for log_prob, label, _ in oracle.arcs(t, labels, "regular"):
                    if label is None:
                        add(new, labels, total + log_prob)
                    elif round_ < max_symbols:
                        grown[*labels, label] = total + log_prob
            beam = best(grown, K)
        beam = best(new, K)
    return beam
