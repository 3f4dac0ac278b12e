"""Signatures of calls, drawn: all that a compiled function depends on."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from fuzz_functions import ARCS, FUNCTIONS, Function, arcs_cost


class Source(Protocol):
    def integer(self, low: int, high: int) -> int: ...
    def choice(self, options: Sequence) -> Any: ...


class RandomSource:
    """Draws from NumPy's generator."""

    def __init__(self, *seed: int):
        self._rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high, endpoint=True))

    def choice(self, options: Sequence) -> Any:
        return options[self.integer(0, len(options) - 1)]


def chance(source: Source, percent: int) -> bool:
    return source.integer(0, 99) < percent


def generator(source: Source) -> np.random.Generator:
    return np.random.default_rng(source.integer(0, 2**32 - 1))


@dataclasses.dataclass(frozen=True)
class Signature:
    """All of a call that a compiled function depends on."""

    function: Function
    batch: tuple[int, ...]
    T: int
    U: int
    V: int
    H: int
    K: int  # hypotheses of one encoder, 0 where each has its own
    dtype: str
    integers: str  # dtype of traced lengths and labels
    x64: bool
    options: tuple[tuple[str, Any], ...]  # static ones
    emits: bool  # whether fastemit_lambda is given
    jitted: bool  # whether legal calls are, illegal ones are either way

    @property
    def accumulator(self) -> np.dtype:
        return np.dtype(np.float64 if self.dtype == "float64" else np.float32)

    @property
    def sequences(self) -> tuple[int, ...]:
        """The shape of the costs."""
        return (*self.batch, self.K) if self.K else self.batch

    @property
    def rows_count(self) -> int:
        """All cells; S of the compact form."""
        return math.prod(self.sequences) * self.T * self.U

    @property
    def labels_count(self) -> int:
        """L of the compact form."""
        return math.prod(self.batch) * (self.U - 1) + 1

    @property
    def durations(self) -> tuple[int, ...]:
        return dict(self.options).get("durations", ())

    @property
    def drops(self) -> bool:
        """Whether a dropout_key is given."""
        return dict(self.options).get("dropout_rate", 0) > 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        batch, sequences = self.batch, self.sequences
        T, U, V, H = self.T, self.U, self.V, self.H
        width = V + len(self.durations)
        shapes = {
            "logits": (*batch, T, U, width),
            "log_probs": (*batch, T, U, V),
            "blank_log_probs": (*batch, T, U),
            "label_log_probs": (*batch, T, U),
            "skip_log_probs": (*batch, T, U),
            "label_bias": (*sequences, T, U),
            "blank_bias": (T, 1),
            "encoder": (*batch, T, H),
            "predictor": (*sequences, U, H),
            "kernel": (H, width),
            "bias": (width,),
            "labels": (*sequences, U - 1),
            "frames_lengths": batch,
            "labels_lengths": sequences,
        }
        if self.function.compact:
            S = self.rows_count
            shapes |= dict.fromkeys(("logits", "log_probs"), (S, width))
            shapes |= dict.fromkeys((*ARCS, "label_bias"), (S,)) | {"blank_bias": (1,)}
            shapes["labels"] = (self.labels_count,)
        if self.function.is_pick:
            shapes |= {"logits": (*batch, T, V), "labels": (*batch, T)}
        return {name: shapes[name] for name in self.function.arrays}


def draw_signature(source: Source, function: Function) -> Signature:
    T, U, V = source.choice(
        [(4, 3, 5), (4, 4, 5), (1, 1, 1), (9, 1, 3), (1, 6, 2), (7, 5, 33), (3, 2, 130), (20, 9, 6)]
    )
    if function.compact:
        batch = source.choice([(3,), (5,), (1,), (4,)] * 4 + [(0,)])
    else:
        batch = source.choice([(3,), (5,), (2, 2), (), (1,), (4,)] * 3 + [(0,)])
    dtype = source.choice(["float32", "float32", "float32", "bfloat16", "float16", "float64"])
    x64 = dtype == "float64" or chance(source, 25)
    wide = ["int64", "uint64"] if x64 else []
    integers = source.choice(["int32"] * 4 + ["int8", "uint8", "int16", "uint32", *wide, *wide])
    options: dict[str, Any] = {}
    if "labels" in function.integers:
        options["blank"] = source.choice([0, 0, V - 1, -1, -V, V // 2])
    if function.is_loss:
        options["average_frames"] = chance(source, 25)
        options["reduction"] = source.choice([None, None, "none", "sum", "mean"])
        if function.is_timed:
            options["durations"] = source.choice([(0, 1, 2), (2, 0, 1), (1, 2), (0, 4), (8, 1)])
            options["sigma"] = source.choice([0.0, 0.0, 0.05, -1.5])
            options["omega"] = source.choice([0.0, 0.0, 0.25, 1])
        else:
            options["rnnt_type"] = source.choice(["regular", "modified", "constrained"])
    if function.takes_normalize:
        options["normalize"] = source.choice(["softmax", "softmax", "hat"])
    if function.is_joint:
        options["activation"] = source.choice(["tanh", "relu", "sigmoid", None])
        options["dropout_rate"] = source.choice([0.0, 0.0, 0.25, 0.9])
        options["clamp"] = source.choice([None, None, 0.02, 0.5])
        options["tile"] = source.choice([None, None, (2, 2, 3), (16, 8, 2)])
        options["min_posterior"] = source.choice([None, 0.0])
    if function.call is arcs_cost:
        options["last"] = source.choice([None, ((1, 0), (3, 0))])
    if function.compact:
        options["compact"] = True
        if function.is_lattice:
            options["max_labels"] = source.choice([None, U - 1, U + 3])
    return Signature(
        function,
        batch,
        T,
        U,
        V,
        H=source.choice([1, 3, 8, 11]),
        K=source.choice([1, 2, 3]) if function.hypotheses else 0,
        dtype=dtype,
        integers=integers,
        x64=x64,
        options=tuple(sorted(options.items())),
        emits=function.is_loss and chance(source, 40),
        jitted=chance(source, 60),
    )


@functools.cache
def pool(seed: int, size: int) -> list[Signature]:
    sources = (RandomSource(zlib.crc32(b"signature"), seed, i) for i in range(size))
    return [draw_signature(s, FUNCTIONS[i % len(FUNCTIONS)]) for i, s in enumerate(sources)]
