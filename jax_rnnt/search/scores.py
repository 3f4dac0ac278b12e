"""The scores of every arc that leaves the hypotheses of a frame."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt.search import arguments
from jax_rnnt.search.arguments import Alphabet
from jax_rnnt.search.choices import Row, senseless_rows
from jax_rnnt.search.hypotheses import Hypotheses
from jax_rnnt.search.state import Joint, PredictorStep, step_predictor


class Scores(NamedTuple):
    """Of K hypotheses of N utterances, their own scores in them.

    Attributes:
        blank: (N, K), with the blank.
        labels: (N, K, V), with each label, -inf for the blank.
        durations: {frames: (N, K)}, to be added; {} where there are none.
        senseless: (N,), whether the logits of a hypothesis make no sense.
    """

    blank: jax.Array
    labels: jax.Array
    durations: dict[int, jax.Array]
    senseless: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """The caller's functions, called with batches of hypotheses."""

    predictor_step: PredictorStep
    joint: Joint
    alphabet: Alphabet
    normalized: bool

    def scores(self, encoder: Any, hypotheses: Hypotheses) -> Scores:
        """Of hypotheses at one frame of the encoder, (N, 1, ...)."""
        live = hypotheses.live
        logits = arguments.check_logits(
            self.joint(encoder, hypotheses.features), live.shape, self.alphabet
        )
        V, blank = self.alphabet.tokens(logits), self.alphabet.blank_of(logits)
        tokens, senseless = self._head(logits[..., :V])
        durations = {}
        if self.alphabet.durations is not None:
            heads, is_senseless = self._head(logits[..., V:])
            senseless |= is_senseless
            durations = {d: heads[..., i] for i, d in enumerate(self.alphabet.durations)}
        own = hypotheses.scores[..., None]
        total = jnp.where(live[..., None], own + tokens, -jnp.inf)
        is_blank = jnp.arange(V)[None, None] == blank
        return Scores(
            blank=total[..., blank],
            labels=jnp.where(is_blank, -jnp.inf, total),
            durations=durations,
            senseless=jnp.any(senseless & live, 1),
        )

    def _head(self, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A head's log-probabilities, and which rows make no sense."""
        if self.normalized:
            return logits.astype(jnp.float32), senseless_rows(logits)
        row = Row.of(logits)
        return row.log_probs, row.senseless

    def step(self, predictor: Any, labels: jax.Array) -> tuple[Any, Any]:
        """The predictor's states (N, K, ...) and features after labels (N, K)."""
        flat = jax.tree.map(lambda x: x.reshape((labels.size, *x.shape[2:])), predictor)
        stepped = step_predictor(self.predictor_step, flat, labels.reshape(-1))
        return jax.tree.map(lambda x: x.reshape(labels.shape + x.shape[1:]), stepped)


class Extensions(NamedTuple):
    """Labels that may be written: (N, J) each, best first within a hypothesis."""

    scores: jax.Array
    labels: jax.Array
    of: jax.Array  # which hypothesis


def best_labels(labels: jax.Array, most: int) -> Extensions:
    """At most so many labels of each hypothesis, from scores (N, K, V)."""
    N, K, V = labels.shape
    most = min(most, V)
    scores, found = lax.top_k(labels, most)
    of = jnp.repeat(jnp.arange(K, dtype=jnp.int32), most)
    return Extensions(
        scores.reshape(N, -1),
        found.astype(jnp.int32).reshape(N, -1),
        jnp.broadcast_to(of[None], (N, K * most)),
    )
