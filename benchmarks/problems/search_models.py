"""A transducer that costs what a real one costs, and writes a string that is known.

The joint's first hidden unit is the number of labels due by a frame less the number of those that
are written, and further units are the bits of the label due: everything goes through the real
matrix product. The predictor is an LSTM at full cost, whose output enters the joint scaled down.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLANK = 0
MEAN_FRAMES = 2.9  # between two labels, where there is no pause
PAUSE_SHARE, PAUSE_FRAMES = 0.04, (15, 40)


class SearchCase(NamedTuple):
    N: int
    T: int
    V: int
    H: int
    dtype: str

    @property
    def bits(self) -> int:
        return (self.V - 1).bit_length()


class Script(NamedTuple):
    """What each utterance shall write, and at which frames."""

    labels: list[list[int]]
    frames: list[list[int]]

    @property
    def longest(self) -> int:
        return max(map(len, self.labels))


def script(case: SearchCase) -> Script:
    """About a label in four frames, and pauses."""
    rng = np.random.default_rng(0)
    labels, frames = [], []
    for _ in range(case.N):
        at = np.cumsum([_gap(rng) for _ in range(case.T)])
        frames.append(at[at < case.T].tolist())
        labels.append(rng.integers(1, case.V, len(frames[-1])).tolist())
    return Script(labels, frames)


def _gap(rng: np.random.Generator) -> int:
    if rng.random() < PAUSE_SHARE:
        return int(rng.integers(*PAUSE_FRAMES))
    return 1 + int(rng.poisson(MEAN_FRAMES - 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transducer:
    """Weights, and a table of the predictor's input projections, or None for a product a step."""

    embedding: jax.Array  # (V, H)
    inputs: jax.Array  # (H, 4 H)
    recurrent: jax.Array  # (H, 4 H)
    table: jax.Array | None  # (V, 4 H)
    projection: jax.Array  # (H, H)
    counter: jax.Array  # (H,), 1 in the first unit
    kernel: jax.Array  # (H, V)
    bias: jax.Array  # (V,)

    def start(self, N: int) -> Any:
        nothing = jnp.zeros((N, self.recurrent.shape[0]), self.kernel.dtype)
        return nothing, nothing, jnp.zeros(N, jnp.int32)

    def step(self, state: Any, labels: jax.Array) -> tuple[Any, jax.Array]:
        hidden, cell, count = state
        own = self.embedding[labels] @ self.inputs if self.table is None else self.table[labels]
        gates = own + hidden @ self.recurrent
        enter, forget, candidate, leave = jnp.split(gates, 4, -1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
        count = count + (labels != BLANK).astype(jnp.int32)
        written = count[:, None].astype(hidden.dtype) * self.counter[None]
        return (hidden, cell, count), hidden @ self.projection - written

    def joint(self, encoder: jax.Array, features: jax.Array) -> jax.Array:
        logits = jnp.tanh(encoder + features) @ self.kernel
        return logits + self.bias.reshape((1,) * (logits.ndim - 1) + (-1,))

    def tabulated(self) -> "Transducer":
        return dataclasses.replace(self, table=self.embedding @ self.inputs)


def transducer(case: SearchCase) -> Transducer:
    rng = np.random.default_rng(1)
    V, H, coded = case.V, case.H, 1 + case.bits

    def normal(*shape: int, scale: float) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * scale

    kernel = normal(H, V, scale=0.002)
    kernel[0], kernel[0, BLANK] = 200, 0
    kernel[1:coded] = 4 * _bits(np.arange(V), case.bits).T
    kernel[1:coded, BLANK] = 0
    bias = np.zeros(V, np.float32)
    bias[BLANK] = 4 * case.bits + 76
    projection = normal(H, H, scale=0.1 / H**0.5)
    projection[:, :coded] = 0
    counter = np.zeros(H, np.float32)
    counter[0] = 1
    arrays = dict(
        embedding=normal(V, H, scale=0.3),
        inputs=normal(H, 4 * H, scale=H**-0.5),
        recurrent=normal(H, 4 * H, scale=H**-0.5),
        projection=projection,
        counter=counter,
        kernel=kernel,
        bias=bias,
    )
    return Transducer(table=None, **{k: jnp.asarray(x, case.dtype) for k, x in arrays.items()})


def encoder(case: SearchCase, of: Script) -> jax.Array:
    """(N, T, H) that makes a transducer write the script."""
    frames = 0.3 * np.random.default_rng(2).standard_normal((case.N, case.T, case.H), np.float32)
    for n, (labels, at) in enumerate(zip(of.labels, of.frames)):
        due = np.searchsorted(at, np.arange(case.T), side="right")
        frames[n, :, 0] = due
        code = np.array([1, *labels])[due]
        frames[n, :, 1 : 1 + case.bits] = 4 * _bits(code, case.bits)
    if case.dtype == "bfloat16" and frames[..., 0].max() > 256:
        raise ValueError(f"bfloat16 counts to 256 labels, and {case} has more.")
    return jnp.asarray(frames, case.dtype)


def _bits(numbers: np.ndarray, count: int) -> np.ndarray:
    return ((numbers[..., None] >> np.arange(count)) & 1) * 2.0 - 1.0


class AlignCase(NamedTuple):
    """Arcs (N, T, U) or, with H, a joint of one sequence, by blocks of frames."""

    N: int
    T: int
    U: int
    H: int = 0
    V: int = 0
    dtype: str = "float32"
    block_frames: int = 0


class Sizes(NamedTuple):
    greedy: tuple[SearchCase, ...]
    beam: tuple[SearchCase, ...]
    stream: SearchCase
    chunk: int
    align: tuple[AlignCase, ...]


def sizes(platform: str, small: bool) -> Sizes:
    if small:
        case = SearchCase(2, 20, 16, 16, "float32")
        align = AlignCase(2, 40, 7), AlignCase(1, 70, 7, 16, 8, "float32", 32)
        return Sizes((case,), (case,), case, 5, align)
    if platform == "cpu":
        cases = tuple(SearchCase(N, 250, 1024, 640, "float32") for N in (1, 8, 32))
        return Sizes(cases, cases, cases[1], 25, (AlignCase(1, 1500, 300),))
    of = (32, 1024), (128, 1024), (1, 1024), (32, 8193)
    cases = tuple(SearchCase(N, 750, V, 640, "bfloat16") for N, V in of)
    align = (
        AlignCase(1, 1500, 300),
        AlignCase(32, 1500, 300),
        AlignCase(1, 45_000, 11_000, 640, 1024, "bfloat16", 1024),  # an hour of speech
    )
    return Sizes(cases, (cases[0], cases[3]), cases[0], 25, align)
