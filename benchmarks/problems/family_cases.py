"""What `benchmarks.family` measures: sizes, and which of the family's losses have which."""

import dataclasses
from typing import NamedTuple

from benchmarks.problems import shapes
from benchmarks.problems.shapes import Case


class LatticeSize(NamedTuple):
    N: int
    T: int
    U: int


@dataclasses.dataclass(frozen=True)
class FamilyCase(Case):
    """Of the V logits the last ones may be durations': labels are among those before."""

    durations: int = 0

    @property
    def tokens(self) -> int:
        return self.V - self.durations


class Sizes(NamedTuple):
    """(T, U) of lattices with each N; (N, T, U, V) of losses."""

    lattices: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    on_a_cpu: LatticeSize
    two_heads: tuple[tuple[int, int, int, int], ...]  # of the last 5 logits that TDT has
    one_head: tuple[tuple[int, int, int, int], ...]


DEFAULT = Sizes(
    lattices=((400, 100), (1500, 300)),
    batches=(1, 16, 64),
    on_a_cpu=LatticeSize(4, 400, 100),
    two_heads=((16, 400, 100, 1024 + 5), (1, 1500, 300, 1024 + 5)),
    one_head=((1, 1500, 300, 50), (16, 1500, 300, 50)),
)
SMALL = Sizes(
    lattices=((9, 4),),
    batches=(2,),
    on_a_cpu=LatticeSize(2, 9, 4),
    two_heads=((2, 9, 4, 6 + 5),),
    one_head=((1, 9, 4, 6),),
)


def lattice_sizes(sizes: Sizes) -> list[LatticeSize]:
    return [LatticeSize(N, T, U) for T, U in sizes.lattices for N in sizes.batches]


def full(shape: tuple[int, int, int, int], durations: int = 0) -> FamilyCase:
    case = shapes.full(*shape)
    return FamilyCase(**vars(case), durations=durations)
