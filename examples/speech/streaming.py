"""Recognition while the sound comes in: each chunk is encoded anew with what is around it.

The encoder attends to both sides, so a chunk is encoded together with some seconds before it and a
little after it, and only the chunk's own frames are kept: that costs (left + chunk + right) / chunk
of the encoder's work on the whole and a delay of chunk + right, and needs no other training.
Features are normalised over what is encoded together, so the first chunks are the least sure. The
search goes on where it stopped: what greedy search has written, it never takes back.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_rnnt
from jax_rnnt.search import GreedyResult, GreedyState

from .decoding import MOST_PER_FRAME, predictor_step
from .words import Word, words_of


class Contexts(NamedTuple):
    """Seconds that are encoded together; each is rounded to frames of the encoder."""

    chunk: float = 0.64
    left: float = 5.12
    right: float = 0.64


class Update(NamedTuple):
    """All that has been recognised when a chunk is done.

    Of the words all but the last are as they will stay, times included: a piece that comes later
    may belong to the last one. `stable` says how many these are; at the stream's end it is all.
    """

    words: list[Word]
    stable: int


class Stream:
    """The recognition of one stream of samples."""

    def __init__(self, recognizer: Any, contexts: Contexts | None = None) -> None:
        contexts = contexts or Contexts()
        self.recognizer = recognizer
        self.frame = round(recognizer.frame_seconds * recognizer.settings.sample_rate)
        self.chunk, self.left, self.right = (
            max(least, round(seconds / recognizer.frame_seconds)) * self.frame
            for least, seconds in zip((1, 0, 0), contexts)
        )
        self.labels: list[int] = []
        self.frames: list[int] = []
        self._kept = np.zeros(0, np.float32)  # the samples from self._kept_from on
        self._kept_from = 0
        self._samples = 0
        self._done = 0  # samples whose frames have been searched
        self._state = _start(recognizer.model)

    def feed(self, samples: np.ndarray) -> Update:
        """Takes any number of samples, and searches the chunks that they complete."""
        self._kept = np.concatenate([self._kept, np.asarray(samples, np.float32)])
        self._samples += len(samples)
        while self._samples >= self._done + self.chunk + self.right:
            self._search(self.chunk // self.frame)
        return self._update(is_over=False)

    def finish(self) -> Update:
        """Searches what is left: the sound ends here."""
        while self._samples > self._done:
            self._search((self.chunk + self.right) // self.frame)
        return self._update(is_over=True)

    def _search(self, frames: int) -> None:
        """At most so many frames behind those that are done.

        The window has one shape whatever is in it, so that one program is compiled; behind the
        sound's own samples it is padded, which the encoder masks.
        """
        first = max(0, self._done - self.left)
        sound = self._kept[first - self._kept_from :][: self.left + self.chunk + self.right]
        window = np.zeros((1, self.left + self.chunk + self.right), np.float32)
        window[0, : len(sound)] = sound
        result = _search_window(
            self.recognizer.model,
            jnp.asarray(window),
            jnp.array([len(sound)], jnp.int32),
            jnp.int32((self._done - first) // self.frame),
            jnp.int32(frames),
            self._state,
            most_frames=(self.chunk + self.right) // self.frame,
        )
        if not result.complete[0]:
            raise ValueError("The model's logits are not finite.")
        count = int(result.labels_lengths[0])
        self.labels += np.asarray(result.labels[0, :count]).tolist()
        self.frames += np.asarray(result.label_frames[0, :count]).tolist()
        self._state = result.state
        self._done += frames * self.frame
        behind = max(0, self._done - self.left) - self._kept_from
        self._kept = self._kept[behind:]
        self._kept_from += behind

    def _update(self, *, is_over: bool) -> Update:
        seconds = self._samples / self.recognizer.settings.sample_rate
        pieces = self.recognizer.tokenizer.pieces(self.labels)
        words = words_of(pieces, self.frames, self.recognizer.frame_seconds, seconds)
        return Update(words, len(words) if is_over else max(0, len(words) - 1))


def stream(
    recognizer: Any, audio: np.ndarray, contexts: Contexts | None = None
) -> Iterator[Update]:
    """What a recording gives, one update a chunk, as if it were being spoken."""
    running = Stream(recognizer, contexts)
    for first in range(0, len(audio), running.chunk):
        yield running.feed(audio[first : first + running.chunk])
    yield running.finish()


@nnx.jit
def _start(model: Any) -> GreedyState:
    return jax_rnnt.search_start(predictor_step(model), model.predictor_start(1))


@functools.partial(nnx.jit, static_argnames=("most_frames",))
def _search_window(
    model: Any,
    audio: jax.Array,
    samples_lengths: jax.Array,
    skipped: jax.Array,
    frames: jax.Array,
    state: GreedyState,
    *,
    most_frames: int,
) -> GreedyResult:
    """Encodes the window, and searches `frames` of its frames behind the `skipped` ones."""
    encoder, frames_lengths = model.encode(audio, samples_lengths)
    own = jnp.roll(encoder, -skipped, axis=1)[:, :most_frames]
    return jax_rnnt.greedy_search(
        model.joint.project_encoder(own),
        jnp.clip(frames_lengths - skipped, 0, jnp.minimum(frames, own.shape[1])),
        state,
        predictor_step(model),
        model.joint.from_projected,
        max_labels=MOST_PER_FRAME * most_frames,
        max_symbols=MOST_PER_FRAME,
        durations=model.joint.durations,
    )
