"""The loop of a greedy search: a window of frames in a step, a few steps between two looks."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt.search import arguments, trace, trees
from jax_rnnt.search.arguments import Alphabet
from jax_rnnt.search.choices import Row, choose
from jax_rnnt.search.state import GreedyState, Joint, PredictorStep, step_predictor
from jax_rnnt.search.window import walk


class Loop(NamedTuple):
    """N searches after so many steps, each `frame` frames into its chunk."""

    step: jax.Array
    frame: jax.Array
    labels_here: jax.Array
    predictor: Any
    features: Any
    total: jax.Array
    written: jax.Array
    stopped: jax.Array
    trace: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """What stays the same in every step; label_duration as in `choose`."""

    encoder: Any
    lengths: jax.Array
    first_frames: jax.Array
    predictor_step: PredictorStep
    joint: Joint
    alphabet: Alphabet
    max_labels: int
    max_symbols: int
    label_duration: int
    window: int
    measure: Callable[[jax.Array], jax.Array] | None

    @property
    def columns(self) -> dict[str, jnp.dtype]:
        """What a step keeps of its label."""
        integer, number = jnp.dtype(jnp.int32), jnp.dtype(jnp.float32)
        columns = {"label": integer, "frame": integer, "log_prob": number}
        if self.alphabet.durations is not None:
            columns["duration"] = integer
        if self.measure is not None:
            columns["measure"] = number
        return columns

    @property
    def most_steps(self) -> int:
        """A step that neither writes nor ends its search passes a whole window."""
        T = jax.tree.leaves(self.encoder)[0].shape[1]
        in_a_frame = 1 if self.label_duration else self.max_symbols
        return min(self.max_labels, T * in_a_frame) + -(-T // self.window)

    def start(self, state: GreedyState, sensible: jax.Array) -> Loop:
        nothing = jnp.zeros_like(self.lengths)
        total = jnp.where(sensible, state.log_probs, jnp.nan)
        loop = Loop(
            step=jnp.int32(0),
            frame=state.skip,
            labels_here=state.labels_here,
            predictor=state.predictor,
            features=state.features,
            total=total,
            written=nothing,
            stopped=jnp.isnan(total),
            trace=trace.empty(0, len(nothing), len(self.columns)),
        )
        varying = trees.vary_together(loop, self.encoder, self.lengths)
        return varying._replace(step=loop.step)

    def searching(self, loop: Loop) -> jax.Array:
        return (loop.frame < self.lengths) & ~loop.stopped

    def next(self, loop: Loop) -> Loop:
        """Each search up to its next label, over a window at most."""
        frames = loop.frame[:, None] + jnp.arange(self.window, dtype=jnp.int32)[None]
        within = (frames < self.lengths[:, None]) & ~loop.stopped[:, None]
        features = jax.tree.map(lambda x: x[:, None], loop.features)
        logits = arguments.check_logits(
            self.joint(trees.frames_at(self.encoder, frames), features),
            within.shape,
            self.alphabet,
        )
        choices = choose(logits, self.alphabet, self.label_duration)
        blank = self.alphabet.blank_of(logits)
        forced = loop.labels_here >= self.max_symbols
        if self.label_duration:
            forced = jnp.zeros_like(forced)
        walked = walk(choices, within, forced, loop.total, blank)

        writes = walked.found & (loop.written < self.max_labels)
        stops = (walked.found & ~writes) | walked.senseless
        frame = loop.frame + walked.passed
        here = jnp.where(walked.passed > 0, 0, loop.labels_here)
        record = {
            "label": jnp.where(writes, walked.label, trace.NOTHING),
            "frame": self.first_frames + frame,
            "log_prob": walked.log_prob,
            "duration": walked.duration,
            "measure": self._measured(logits, walked.passed),
        }
        total = jnp.where(writes, walked.total + walked.log_prob, walked.total)
        predictor, features = step_predictor(
            self.predictor_step, loop.predictor, jnp.where(writes, walked.label, blank)
        )
        trees.same_types("The features of predictor_step", features, loop.features)
        return Loop(
            step=loop.step + 1,
            frame=jnp.where(writes, frame + walked.duration, frame),
            labels_here=jnp.where(writes, jnp.where(walked.duration > 0, 0, here + 1), here),
            predictor=trees.where(writes, predictor, loop.predictor),
            features=trees.where(writes, features, loop.features),
            total=jnp.where(walked.senseless, jnp.nan, total),
            written=loop.written + writes.astype(jnp.int32),
            stopped=loop.stopped | stops,
            trace=trace.write(loop.trace, loop.step, {x: record[x] for x in self.columns}),
        )

    def _measured(self, logits: jax.Array, passed: jax.Array) -> jax.Array | None:
        if self.measure is None:
            return None
        at = jnp.minimum(passed, self.window - 1)[:, None, None]
        row = jnp.take_along_axis(logits, at, axis=1, mode="clip")[:, 0]
        numbers = jnp.asarray(self.measure(Row.of(row[:, : self.alphabet.tokens(row)]).log_probs))
        if numbers.shape != passed.shape:
            raise ValueError(
                f"measure must return shape {passed.shape}, one number a row, got {numbers.shape}."
            )
        return numbers.astype(jnp.float32)

    def end(self, loop: Loop) -> GreedyState:
        return GreedyState(
            predictor=loop.predictor,
            features=loop.features,
            labels_here=loop.labels_here,
            skip=jnp.maximum(loop.frame - self.lengths, 0),
            log_probs=loop.total,
            frames=self.first_frames + jnp.minimum(loop.frame, self.lengths),
        )


def run(search: Search, loop: Loop, steps_per_look: int) -> Loop:
    """Steps until all searches are over, so many between two looks at whether they are.

    Those are compiled one by one: in a loop of known length XLA counted the steps and copied their
    state, five of 18 kernels a step.
    """
    steps = -(-search.most_steps // steps_per_look) * steps_per_look
    N, columns = loop.frame.shape[0], len(search.columns)
    room = trees.vary_together(trace.empty(steps, N, columns), loop.frame)

    def some(loop: Loop) -> Loop:
        for _ in range(steps_per_look):
            loop = search.next(loop)
        return loop

    return lax.while_loop(
        lambda loop: jnp.any(search.searching(loop)), some, loop._replace(trace=room)
    )
