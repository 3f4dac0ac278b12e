"""Which arcs a lattice has: their order, their checks, and what the kernels take of them."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax

from jax_rnnt import _checks

Arc = tuple[int, int]

# What the kernels are made for.
MOST_FRAMES, MOST_LABELS = 8, 1


class Topology(NamedTuple):
    """A lattice's arcs in the order of the kernels' operands, one entry for each; hashable."""

    dt: tuple[int, ...]
    du: tuple[int, ...]
    last: tuple[int, ...]  # 1 where the arc may be an alignment's last

    @property
    def keys(self) -> list[Arc]:
        return list(zip(self.dt, self.du))


def topology(arcs: Collection[Arc], last: Collection[Arc] | None) -> Topology:
    """The topology of checked arcs: the fewest labels first, and of those the fewest frames."""
    keys = sorted(arcs, key=lambda arc: arc[::-1])
    dt, du = zip(*keys)
    return Topology(dt, du, tuple(int(last is None or key in last) for key in keys))


def runs_kernels(topology: Topology, implementation: str | None) -> bool:
    """Whether the kernels take this topology and are asked for; NotImplementedError if in vain."""
    too_long = [(dt, du) for dt, du in topology.keys if dt > MOST_FRAMES or du > MOST_LABELS]
    if implementation == "native" and too_long:
        raise NotImplementedError(
            "implementation='native': jax_rnnt has kernels for arcs (dt, du) of dt <= "
            f"{MOST_FRAMES} and du <= {MOST_LABELS}, got {too_long[0]}."
        )
    return implementation != "reference" and not too_long


def check_arcs(arcs: Any) -> dict[Arc, jax.Array]:
    """arcs as arrays of floats of one shape, in the order of `topology`; TypeError, ValueError."""
    if not isinstance(arcs, Mapping):
        raise TypeError(
            f"arcs must be a dict from (dt, du) to log-weights, got {type(arcs).__name__}."
        )
    if not arcs:
        raise ValueError("arcs must not be empty.")
    named = [(_check_key(key), value) for key, value in arcs.items()]
    named.sort(key=lambda item: item[0][::-1])
    checked: dict[Arc, jax.Array] = {}
    for key, value in named:
        checked[key] = _checks.floats(f"arcs[{key}]", value)
        first = named[0][0]
        _checks.shape(f"arcs[{key}]", checked[key], checked[first].shape, f"as arcs[{first}]")
    return checked


def check_last(last: Any, arcs: Collection[Arc]) -> tuple[Arc, ...] | None:
    """last as a tuple of keys of arcs; None for all of them; TypeError or ValueError."""
    if last is None:
        return None
    if isinstance(last, str | bytes) or not isinstance(last, Collection):
        raise TypeError(f"last must be a collection of keys of arcs, got {last!r}.")
    for key in last:
        if not isinstance(key, tuple) or key not in arcs:
            raise ValueError(
                f"last must hold keys of arcs, {', '.join(map(str, arcs))}: got {key!r}."
            )
    return tuple(key for key in arcs if key in last)


def _check_key(key: Any) -> Arc:
    if not isinstance(key, tuple) or len(key) != 2:
        raise TypeError(f"arcs' keys must be pairs of integers (dt, du), got {key!r}.")
    dt, du = (_checks.index("dt and du of arcs' keys", steps) for steps in key)
    if dt < 0 or du < 0 or (dt, du) == (0, 0):
        raise ValueError(f"arcs' keys must not be negative, nor both zero, got {key!r}.")
    return dt, du
