"""What is measured: problems with their lengths, as plain data that passes between processes."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

SHAPES = ((150, 40, 28), (150, 20, 5000), (1500, 300, 50))
BATCHES = (1, 16, 32, 64, 128)
# Batches of a CPU: 16 x (1500, 300, 50) and more are minutes of the reference path.
CPU_BATCHES = {(150, 40, 28): (1, 4, 16), (150, 20, 5000): (1, 4, 16), (1500, 300, 50): (1, 4)}
# (T, U, V, scale of the standard normal logits); the batch is 2.
PRECISION = (
    (150, 40, 28, 1),
    (150, 20, 5000, 1),
    (400, 100, 128, 1),
    (1500, 300, 50, 1),
    (1500, 300, 50, 3),
)
LIBRISPEECH_V = 500
FILE_ORDER_BATCH, SORTED_FRAMES = 30, 10_000
SYNTHETIC, FILE_ORDER, SORTED = "synthetic", "file order", "sorted by T"


@dataclasses.dataclass(frozen=True)
class Case:
    """Logits (N, T, U, V) and their lengths; `lengths` and `group` say where these come from."""

    N: int
    T: int
    U: int
    V: int
    frames_lengths: tuple[int, ...]
    labels_lengths: tuple[int, ...]
    lengths: str = "full"
    group: str = SYNTHETIC
    scale: float = 1.0

    @property
    def elements(self) -> int:
        return self.N * self.T * self.U * self.V

    @property
    def tokens(self) -> int:
        """How many of the V logits are symbols'."""
        return self.V

    @property
    def key(self) -> dict:
        """What tells its figures from another case's."""
        names = ("N", "T", "U", "V", "lengths", "group", "scale")
        return {name: getattr(self, name) for name in names}

    def filled(self) -> "Case":
        """The same arrays without padding."""
        return dataclasses.replace(
            self,
            frames_lengths=(self.T,) * self.N,
            labels_lengths=(self.U - 1,) * self.N,
            lengths="full",
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """labels (N, U - 1), frames_lengths (N,), labels_lengths (N,), all int32."""
        labels = np.random.default_rng(0).integers(1, self.tokens, (self.N, self.U - 1))
        return (
            labels.astype(np.int32),
            np.array(self.frames_lengths, np.int32),
            np.array(self.labels_lengths, np.int32),
        )


@dataclasses.dataclass(frozen=True)
class JointCase(Case):
    """A joint network's operands of H hidden units; `scale` is theirs, and a random model's."""

    H: int = 640
    model: str = "random"

    @property
    def cells(self) -> int:
        """Those within the lengths."""
        return sum(t * (u + 1) for t, u in zip(self.frames_lengths, self.labels_lengths))

    @property
    def key(self) -> dict:
        return {**super().key, "H": self.H, "model": self.model}

    @classmethod
    def of(cls, case: Case, H: int, V: int, model: str, scale: float) -> "JointCase":
        plain = {field.name: getattr(case, field.name) for field in dataclasses.fields(Case)}
        return cls(**{**plain, "V": V, "scale": scale}, H=H, model=model)


def full(N: int, T: int, U: int, V: int, scale: float = 1.0) -> Case:
    return Case(N, T, U, V, (T,) * N, (U - 1,) * N, scale=scale)


def random(N: int, T: int, U: int, V: int) -> Case:
    """Lengths uniform over the upper half, all of them then raised by what the longest lacks."""
    rng = np.random.default_rng(N)
    frames_lengths = rng.integers(T // 2, T + 1, N)
    labels_lengths = rng.integers(U // 2, U, N)
    frames_lengths += T - frames_lengths.max()
    labels_lengths += U - 1 - labels_lengths.max()
    return Case(
        N, T, U, V, tuple(frames_lengths.tolist()), tuple(labels_lengths.tolist()), "random"
    )


def synthetic(
    shapes: Sequence[tuple[int, int, int]] | None,
    batches: Sequence[int] | None,
    lengths: Sequence[str],
    platform: str,
) -> Iterator[Case]:
    """Each shape with each N; a batch of one has no random lengths, since its longest is full."""
    for T, U, V in shapes or SHAPES:
        default = CPU_BATCHES.get((T, U, V), (1, 4)) if platform == "cpu" else BATCHES
        for N, kind in itertools.product(batches or default, lengths):
            if kind == "full":
                yield full(N, T, U, V)
            elif N > 1:
                yield random(N, T, U, V)


def precision(shapes: Sequence[tuple[int, int, int]] | None) -> list[Case]:
    sizes = PRECISION if shapes is None else [(*shape, 1) for shape in shapes]
    return [full(2, T, U, V, float(scale)) for T, U, V, scale in sizes]


def file_order(sizes: np.ndarray, count: int, batch: int = FILE_ORDER_BATCH) -> list[Case]:
    """Evenly spaced ones of the batches of `batch` utterances in the order of `sizes`.

    The incomplete last batch is left out.
    """
    batches = sizes[: len(sizes) // batch * batch].reshape(-1, batch, 2)
    return _cases(_spread(batches, count), FILE_ORDER)


def sorted_by_frames(sizes: np.ndarray, count: int) -> list[Case]:
    """Evenly spaced ones of the batches of at most 10,000 padded frames, shortest first."""
    sizes = sizes[np.argsort(sizes[:, 0], kind="stable")]
    batches, start = [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or (stop + 1 - start) * sizes[stop, 0] > SORTED_FRAMES:
            batches.append(sizes[start:stop])
            start = stop
    return _cases(_spread(batches, count), SORTED)


def read_librispeech(path: str) -> np.ndarray:
    """(utterances, 2): frames and labels of each."""
    sizes = np.load(path)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or len(sizes) < FILE_ORDER_BATCH:
        raise ValueError(
            f"--librispeech must hold an array (utterances, 2) of frames and labels, at least "
            f"{FILE_ORDER_BATCH} of them, got {sizes.shape} in {path}."
        )
    return sizes.astype(np.int64)


def _spread(batches, count: int) -> list:
    index = np.linspace(0, len(batches) - 1, min(count, len(batches))).round().astype(int)
    return [batches[i] for i in index]


def _cases(batches: Sequence[np.ndarray], group: str) -> list[Case]:
    return [
        Case(
            N=len(batch),
            T=int(batch[:, 0].max()),
            U=int(batch[:, 1].max()) + 1,
            V=LIBRISPEECH_V,
            frames_lengths=tuple(batch[:, 0].tolist()),
            labels_lengths=tuple(batch[:, 1].tolist()),
            lengths="real",
            group=group,
        )
        for batch in batches
    ]
