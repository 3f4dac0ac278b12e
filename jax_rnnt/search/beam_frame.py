"""A frame of a beam search: from the hypotheses before it to those behind it.

The hypotheses of N utterances that stand 0, 1, ... frames ahead are a list; the first are at the
frame, and the answer's first are at the next one.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt.search import trees
from jax_rnnt.search.hypotheses import (
    NOTHING,
    Hypotheses,
    extended,
    join,
    leads_to,
    merged_scores,
    take,
    where,
)
from jax_rnnt.search.scores import Extensions, Model, Scores, best_labels

# Labels of a frame that one iteration writes; more of them are a loop. With 10 labels, an encoder's
# program with its search has 291 fusions then, 481 with all written out (on a CPU).
UNROLLED = 2

_Left = dict[int, jax.Array]  # scores (N, ...) of leaving a frame, by how many frames
_Writing = tuple[Hypotheses, jax.Array, jax.Array]  # at the frame, senseless (N,), refused (N,)


class Frame(NamedTuple):
    """What came of a frame, for each utterance.

    Attributes:
        ahead: the hypotheses 1, 2, ... frames ahead of it.
        senseless: (N,), whether logits made no sense.
        refused: (N,), whether a label found no room that would have been kept.
    """

    ahead: list[Hypotheses]
    senseless: jax.Array
    refused: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Rules:
    """How hypotheses grow: at most so many labels at a frame, and in all."""

    model: Model
    max_symbols: int
    max_labels: int

    @property
    def _can_stay(self) -> bool:
        """Whether there is a label that does not leave its frame."""
        return self.model.alphabet.durations is None or 0 in self.model.alphabet.durations

    @property
    def symbols(self) -> int:
        """How many labels one frame can have."""
        return self.max_symbols if self._can_stay else 1

    def one_symbol(self, encoder: Any, t: jax.Array, ahead: list[Hypotheses]) -> Frame:
        """The blank or a label, either of which moves to the next frame.

        Two hypotheses lead to the same sequence only if it is one of them, by the blank, and the
        other and its last label: all of this is added up before the beam is cut.
        """
        (old,) = ahead
        K = old.scores.shape[1]
        scores = self.model.scores(encoder, old)
        blank = self.model.alphabet.blank % scores.labels.shape[-1]
        same = leads_to(old)  # (N, i, j)
        last = jnp.broadcast_to(jnp.maximum(old.last, 0)[:, None], same.shape)
        by_label = jnp.take_along_axis(scores.labels, last, 2, mode="clip").swapaxes(1, 2)
        by_label = jnp.where(same, by_label, -jnp.inf)
        best, best_of = jnp.max(by_label, -1), jnp.argmax(by_label, -1).astype(jnp.int32)
        through_label = best > scores.blank
        stays = jnp.logaddexp(scores.blank, jax.nn.logsumexp(by_label, -1))

        grows, refused = self._with_room(best_labels(scores.labels, 2 * K - 1), old)
        taken = take(same.swapaxes(1, 2), grows.of) & (grows.labels[..., None] == old.last[:, None])
        grows_scores = jnp.where(jnp.any(taken, -1), -jnp.inf, grows.scores)
        kept, chosen = lax.top_k(jnp.concatenate([stays, grows_scores], 1), K)
        is_old = chosen < K
        growing = Extensions(*take(tuple(grows), jnp.maximum(chosen - K, 0)))
        of = jnp.where(is_old, chosen, growing.of).astype(jnp.int32)
        label = jnp.where(is_old, blank, growing.labels)

        before = take(old, of)
        after = extended(before, label, kept, *self.model.step(before.predictor, label))
        new = where(is_old, before._replace(scores=kept), after)
        slot = jnp.where(is_old, take(jnp.where(through_label, best_of, _slots(old)), of), of)
        wrote = jnp.where(is_old, take(jnp.where(through_label, old.last, NOTHING), of), label)
        new = new._replace(frame=jnp.full_like(new.frame, t), slot=slot, here=wrote[..., None])
        return Frame([new], scores.senseless, refused > kept[:, -1])

    def many_symbols(self, encoder: Any, t: jax.Array, ahead: list[Hypotheses]) -> Frame:
        """Labels at this frame, one after the other, and what leaves it after each of them.

        Without durations the blank leaves it, for the next frame. With durations labels do, too,
        unless theirs is 0.
        """
        durations = self.model.alphabet.durations
        here = ahead[0]
        here = here._replace(
            frame=jnp.full_like(here.frame, t),
            slot=_slots(here),
            here=jnp.full_like(here.here, NOTHING),
        )
        stays = self._can_stay
        loop = here, jnp.zeros_like(here.live[:, 0]), jnp.full_like(here.scores[:, 0], -jnp.inf)
        loop = trees.vary_together(loop, encoder)

        def write(loop: _Writing, written: jax.Array) -> tuple[_Writing, tuple[Hypotheses, _Left]]:
            here, senseless, refused = loop
            scores = self.model.scores(encoder, here)
            new, of, refused_here = self._grown(here, scores, written)
            leaving, left = [here], [_leaves(scores.blank, scores.durations, durations)]
            if durations is not None:
                own = {d: take(x, of) for d, x in scores.durations.items()}
                leaving.append(new)
                left.append(_leaves(new.scores, own, durations))
                new = new._replace(scores=new.scores + own[0]) if stays else new
            loop = new, senseless | scores.senseless, jnp.maximum(refused, refused_here)
            return loop, (join(leaving), join(left))

        (here, senseless, refused), of_symbols = lax.scan(
            write,
            loop,
            jnp.arange(self.symbols, dtype=jnp.int32),
            unroll=min(self.symbols, UNROLLED),
        )
        gone, left = jax.tree.map(_one_behind_the_other, of_symbols)
        if stays:
            scores = self.model.scores(encoder, here)
            senseless |= scores.senseless
            gone = join([gone, here])
            left = join([left, _leaves(scores.blank, scores.durations, durations)])
        K, answer, least = here.scores.shape[1], [], []
        for frames in range(1, len(ahead) + 1):
            parts = [ahead[frames]] if frames < len(ahead) else []
            if frames in left:
                parts.append(gone._replace(scores=left[frames]))
            every = join(parts)
            kept, chosen = lax.top_k(merged_scores(every), K)
            answer.append(take(every, chosen.astype(jnp.int32))._replace(scores=kept))
            least.append(kept[:, -1])
        return Frame(answer, senseless, refused > jnp.min(jnp.stack(least), 0))

    def _grown(
        self, here: Hypotheses, scores: Scores, written: jax.Array
    ) -> tuple[Hypotheses, jax.Array, jax.Array]:
        """The K best hypotheses with one label more, which each comes from, what was refused."""
        K = here.scores.shape[1]
        grows, refused = self._with_room(best_labels(scores.labels, K), here)
        kept, chosen = lax.top_k(grows.scores, K)
        _, label, of = take(tuple(grows), chosen.astype(jnp.int32))
        before = take(here, of)
        after = extended(before, label, kept, *self.model.step(before.predictor, label))
        return after._replace(here=after.here.at[..., written].set(label)), of, refused

    def _with_room(self, grows: Extensions, old: Hypotheses) -> tuple[Extensions, jax.Array]:
        """The extensions of hypotheses that have room, and the best score of the others (N,)."""
        full = take(old.lengths, grows.of) >= self.max_labels
        refused = jnp.max(jnp.where(full, grows.scores, -jnp.inf), 1)
        return grows._replace(scores=jnp.where(full, -jnp.inf, grows.scores)), refused


def _leaves(
    scores: jax.Array, log_probs: dict[int, jax.Array], durations: tuple[int, ...] | None
) -> _Left:
    """Scores (N, K) of leaving a frame, by how many frames."""
    if durations is None:
        return {1: scores}
    return {d: scores + log_probs[d] for d in durations if d}


def _one_behind_the_other(x: jax.Array) -> jax.Array:
    """(S, N, K, ...) -> (N, S K, ...)."""
    S, N, K, *rest = x.shape
    return jnp.moveaxis(x, 0, 1).reshape(N, S * K, *rest)


def _slots(of: Hypotheses) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(of.scores.shape[1], dtype=jnp.int32)[None], of.scores.shape)
