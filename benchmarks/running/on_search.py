"""Searches: a whole batch in one call, and streams in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from benchmarks.contenders.search import Labels, Search
from benchmarks.measuring import timing
from benchmarks.problems import search_models
from benchmarks.problems.search_models import SearchCase


class Problem:
    """A case's transducer, frames and script on the device, full lengths."""

    def __init__(self, case: SearchCase):
        self.case = case
        self.script = search_models.script(case)
        self.encoder = search_models.encoder(case, self.script)
        self.lengths = jnp.full(case.N, case.T, jnp.int32)
        self.plain = search_models.transducer(case)
        self.tabulated = jax.jit(lambda model: model.tabulated())(self.plain)

    def measure(self, search: Search, tabulated: bool) -> dict:
        """Milliseconds of a call, and how many utterances are as they should be."""
        room = self.script.longest + 8
        run = jax.jit(functools.partial(search, max_labels=room))
        arguments = self.tabulated if tabulated else self.plain, self.encoder, self.lengths
        seconds = timing.measure(lambda _: run(*arguments), jax.block_until_ready)
        return {"ms": 1e3 * seconds, "right": self._count_right(run(*arguments))}

    def _count_right(self, found: Labels) -> int:
        labels, lengths = map(np.asarray, found)
        pairs = zip(labels, lengths, self.script.labels)
        return sum(row[:length].tolist() == wanted for row, length, wanted in pairs)

    def measure_chunk(self, frames: int) -> dict:
        """Milliseconds of a chunk in mid-stream, waited for: what a stream's caller waits."""
        first = self.case.T // 2 // frames * frames
        chunk = self.encoder[:, first : first + frames]

        @jax.jit
        def run(model, encoder, lengths, state):
            return jax_rnnt.greedy_search(
                encoder, lengths, state, model.step, model.joint, max_labels=frames
            )

        model = self.tabulated
        start = jax_rnnt.search_start(model.step, model.start(self.case.N))
        whole = jax.jit(
            lambda model, encoder, lengths, state: jax_rnnt.greedy_search(
                encoder, lengths, state, model.step, model.joint, max_labels=first
            )
        )
        state = whole(model, self.encoder, jnp.full_like(self.lengths, first), start).state
        lengths = jnp.full_like(self.lengths, frames)

        def call(_: int):
            return jax.block_until_ready(run(model, chunk, lengths, state))

        result = call(0)
        due = [sum(first <= x < first + frames for x in at) for at in self.script.frames]
        right = int(np.sum(np.asarray(result.labels_lengths) == due))
        return {"ms": 1e3 * timing.measure(call, lambda _: None), "right": right}
