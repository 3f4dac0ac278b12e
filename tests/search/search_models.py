"""Tiny transducers in JAX, the same in NumPy, and greedy search as one would write it down."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt

E, P, V = 6, 5, 7
# Compiling is what takes the time: for programs whose bits are not compared with another program's.
FAST = {"xla_backend_optimization_level": 0}


class Model(NamedTuple):
    """A recurrent predictor and an additive joint; durations' logits behind the symbols'."""

    embedding: Any  # (V, P)
    recurrent: Any  # (P, P)
    projection: Any  # (P, E)
    kernel: Any  # (E, V + D)
    bias: Any  # (V + D,)

    def step(self, state, labels):
        xp = jnp if isinstance(self.kernel, jax.Array) else np
        state = xp.tanh(state @ self.recurrent + self.embedding[labels])
        return state, state @ self.projection

    def joint(self, encoder, features):
        xp = jnp if isinstance(self.kernel, jax.Array) else np
        logits = xp.tanh(encoder + features) @ self.kernel
        return logits + self.bias.reshape((1,) * (logits.ndim - 1) + (-1,))

    def start(self, N: int):
        return jnp.zeros((N, P), self.embedding.dtype)

    @property
    def exact(self) -> "Model":
        return Model(*(np.asarray(x, np.float64) for x in self))


def model(seed: int = 0, symbols: int = V, durations: int = 0, blank: int = 0) -> Model:
    """A model that writes a label at about every second frame."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale):
        return jnp.asarray(rng.standard_normal(shape) * scale, jnp.float32)

    bias = rng.standard_normal(symbols + durations) * 0.3
    bias[blank] += 0.5 if durations else 2.5
    return Model(
        normal(symbols, P, scale=1.5),
        normal(P, P, scale=0.7),
        normal(P, E, scale=0.9),
        normal(E, symbols + durations, scale=1.2),
        jnp.asarray(bias, jnp.float32),
    )


class Problem(NamedTuple):
    encoder: np.ndarray
    frames_lengths: np.ndarray


def problem(seed: int = 0, N: int = 5, T: int = 23) -> Problem:
    """Utterances of T frames, of one, of none and of others."""
    rng = np.random.default_rng(seed)
    lengths = np.array([T, 0, 1, *rng.integers(2, T, N)])[:N]
    return Problem(rng.standard_normal((N, T, E), np.float32) * 1.5, lengths.astype(np.int32))


class Options(NamedTuple):
    """Of a greedy search; hashable."""

    rnnt_type: str = "regular"
    max_symbols: int = 10
    durations: tuple[int, ...] | None = None
    blank: int = 0
    max_labels: int = 120
    window: int | None = None


@functools.cache
def searcher(options: Options, measure=None, optimised: bool = False):
    """The jitted search (model, encoder, frames_lengths, state) -> GreedyResult."""

    @functools.partial(jax.jit, compiler_options={} if optimised else FAST)
    def run(model, encoder, frames_lengths, state):
        return jax_rnnt.greedy_search(
            encoder,
            frames_lengths,
            state,
            model.step,
            model.joint,
            measure=measure,
            **options._asdict(),
        )

    return run


def start(model: Model, N: int, blank: int = 0):
    return jax_rnnt.search_start(model.step, model.start(N), blank=blank)


def search(model: Model, problem: Problem, options: Options, measure=None):
    """The whole of a problem in one call."""
    begun = start(model, len(problem.encoder), options.blank % model.embedding.shape[0])
    return searcher(options, measure)(model, *problem, begun)


class Found(NamedTuple):
    """What one utterance has, as lists."""

    labels: list
    frames: list
    durations: list
    log_probs: list
    total: float


def slowly(model: Model, encoder: np.ndarray, frames: int, options: Options) -> Found:
    """One utterance, one symbol after the other, in float64."""
    model = model.exact
    symbols = len(model.embedding)
    blank = options.blank % symbols
    state, features = model.step(np.zeros((1, P)), np.array([blank]))
    found = Found([], [], [], [], 0.0)
    total, frame, here = 0.0, 0, 0
    most_here = 1 if options.rnnt_type == "constrained" else options.max_symbols
    while frame < frames:
        logits = model.joint(encoder[None, frame].astype(np.float64), features)[0]
        symbol_scores, duration_scores = log_softmax(logits[:symbols]), logits[symbols:]
        best = int(np.argmax(symbol_scores))
        if here >= most_here:
            best = blank
        log_prob, passed = (
            symbol_scores[best],
            int(best == blank or options.rnnt_type == "modified"),
        )
        if options.durations:
            duration_scores = log_softmax(duration_scores)
            allowed = [i for i, d in enumerate(options.durations) if d > 0 or best != blank]
            chosen = max(allowed, key=lambda i: duration_scores[i])
            log_prob, passed = log_prob + duration_scores[chosen], options.durations[chosen]
        total += log_prob
        if best != blank:
            found.labels.append(best)
            found.frames.append(frame)
            found.durations.append(passed)
            found.log_probs.append(log_prob)
            state, features = model.step(state, np.array([best]))
        here = 0 if passed else here + 1
        frame += passed
    return found._replace(total=total)


def log_softmax(x: np.ndarray) -> np.ndarray:
    if not x.size:
        return x
    shifted = x - x.max()
    return shifted - np.log(np.exp(shifted).sum())


def assert_found(result, n: int, expected: Found, tolerance: float = 1e-4) -> None:
    """Utterance n of a result is what was expected, and zeros behind it."""
    count = int(result.labels_lengths[n])
    assert result.labels[n, :count].tolist() == expected.labels
    assert result.label_frames[n, :count].tolist() == expected.frames
    np.testing.assert_allclose(
        result.label_log_probs[n, :count], expected.log_probs, atol=tolerance, rtol=0
    )
    if result.label_durations is not None:
        assert result.label_durations[n, :count].tolist() == expected.durations
    for x in result[:5]:
        assert x is None or not np.any(x[n, count:])


def same_bits(actual: Any, expected: Any) -> bool:
    """Whether two trees are the same, NaN being NaN."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )
