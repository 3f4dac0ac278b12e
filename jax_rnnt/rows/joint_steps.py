"""A loop over a list whose length is known on the device alone."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax import lax

State = TypeVar("State")
Rounds = Sequence[tuple[int, int]]


def equal_steps() -> Rounds:
    """The rounds of a loop whose steps all take one unit."""
    # From 64 steps of the plain path rounds of 8 take 3 % on an H100. Of the fused kernels, whose
    # steps are longer, they take nothing: the host wakes later from a longer wait.
    return ((1, 1),) if jax.default_backend() == "cpu" else ((8, 1), (1, 1))


def large_steps(units: int) -> Rounds:
    """The rounds of a loop that takes so many units at a time, and the last ones singly."""
    return ((1, units), (1, 1)) if units > 1 else ((1, 1),)


def loop(
    length: jax.Array,
    step: Callable[[jax.Array | np.int32, int, State], State],
    state: State,
    *,
    most: int,
    rounds: Rounds,
) -> State:
    """The state after steps that take the units [0, length), in order.

    On a GPU, XLA waits for the device before each round of a loop and reads the condition on the
    host, unless the number of rounds is a constant. So a round is a loop of so many steps, and what
    is left of the units is taken in shorter rounds.

    Args:
        length: (), int32, at most `most`.
        step: of a unit, how many units to take from it on, and the state. Where `most` is 1 it is
            called in any case, and must change nothing that is used if `length` is 0.
        rounds: how many steps a round has, of how many units; descending to (1, 1). For each of
            them the step is compiled once.
    """
    if most <= 1:
        return step(np.int32(0), most, state) if most else state
    taken = np.int32(0), state
    for steps, units in rounds:
        if steps * units <= most:
            is_left = functools.partial(_is_left, length, np.int32(steps * units))
            take = functools.partial(_take, step, steps, units)
            taken = lax.while_loop(is_left, take, taken)
    return taken[1]


def _is_left(length, count, taken):
    return taken[0] + count <= length


def _take(step, steps, units, taken):
    """A round of so many steps of so many units."""

    def next_step(_, taken):
        start, state = taken
        return start + np.int32(units), step(start, units, state)

    return lax.fori_loop(np.int32(0), np.int32(steps), next_step, taken)
