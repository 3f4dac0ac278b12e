"""Options that make no sense."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fuzz_functions import arcs_cost
from fuzz_signatures import Signature


class _Unhashable(list):
    def __call__(self, x):
        return x


_OBJECTS = {
    "list": lambda: ["mean"],
    "array": lambda: np.zeros(2),
    "object": object,
    "bytes": lambda: b"mean",
    "jax array": lambda: jnp.zeros(2),
}


def wrong_options(signature: Signature) -> dict[str, list[Callable[[], Any]]]:
    """By the name of an option, what it cannot be."""
    V, function = signature.V, signature.function
    wrong: dict[str, list[Callable[[], Any]]] = {}
    if "labels" in function.integers:
        wrong["blank"] = [lambda v=v: v for v in (V, -V - 1, 1.5, "0", None, [0], 10**30, math.nan)]
        wrong["blank"] += [lambda: np.zeros(2, int), lambda: np.float32(0), lambda: 1j]
    if None not in function.implementations:
        names = ("cuda", 0, True, "Native", "")
        wrong["implementation"] = [lambda v=v: v for v in names] + list(_OBJECTS.values())
    if function.is_loss:
        names = ("average", 0, "Mean", "", math.nan)
        wrong["reduction"] = [lambda v=v: v for v in names] + list(_OBJECTS.values())
        wrong["average_frames"] = [lambda v=v: v for v in ("yes", 2, 0.5)]
        wrong["average_frames"] += list(_OBJECTS.values())
        numbers = ("0.5", None, 1j, 10**400, True, False, [0.1, 0.2], [], {}, [[1], [1, 2]])
        wrong["fastemit_lambda"] = [lambda v=v: v for v in numbers]
        wrong["fastemit_lambda"] += list(_OBJECTS.values())
        wrong["fastemit_lambda"] += [lambda: np.bool_(True), lambda: np.array("a")]
    if function.is_timed:
        wrong["sigma"] = wrong["fastemit_lambda"]
        wrong["omega"] = [*wrong["fastemit_lambda"], lambda: 1.5, lambda: -1, lambda: math.nan]
        lists = ((), (0,), (1, 1), (-1, 2), (0, 1.5), "01", None, 3, [0, None], [[0], [1]])
        wrong["durations"] = [lambda v=v: v for v in lists]
    elif function.is_loss:
        names = ("rna", 0, "Modified", "", None, ["modified"])
        wrong["rnnt_type"] = [lambda v=v: v for v in names]
    if function.takes_normalize:
        wrong["normalize"] = [lambda v=v: v for v in ("sigmoid", None, 1, "HAT", b"hat")]
    if "compact" in dict(signature.options) or function.is_lattice:
        wrong["compact"] = [lambda v=v: v for v in ("yes", 2, 0.5)] + list(_OBJECTS.values())
    if function.is_lattice:
        bounds = (-1, 1.5, "3", [1], -(10**30)) if function.compact else (0, 3, "3", -1)
        wrong["max_labels"] = [lambda v=v: v for v in bounds]
    if function.call is arcs_cost:
        wrong["last"] = [lambda v=v: v for v in (3, "all", [(0, 1)], [1], ((1, 0), None), [[1, 0]])]
    if function.is_joint:
        wrong["min_posterior"] = [lambda v=v: v for v in (-0.1, 1, 1.5, math.nan, "0", [0.1], 1j)]
        wrong["min_posterior"] += [lambda: np.zeros(2), lambda: jnp.zeros(2), lambda: -math.inf]
        tiles = ((1, 2), 5, "abc", (0, 1, 1), (1.0, 2, 3), (1, 2, 3, 4), None, (-1, 2, 3), {1: 2})
        wrong["tile"] = [lambda v=v: v for v in tiles if v is not None]
        wrong["tile"] += [lambda: np.zeros((3, 3)), lambda: [[1], [2], [3]]]
        names = ("softplus", 3, [], {"a": 1}, b"tanh")
        wrong["activation"] = [lambda v=v: v for v in names]
        wrong["activation"] += [_Unhashable, lambda: np.zeros(2)]
        wrong |= _wrong_options_of_gradients()
    return wrong


def _wrong_options_of_gradients():
    numbers = (-0.1, math.nan, "0.5", [0.5], 1j, 10**400, math.inf)
    wrong: dict[str, list[Callable[[], Any]]] = {}
    wrong["dropout_rate"] = [lambda v=v: v for v in (*numbers, 1, 1.5, None)]
    wrong["clamp"] = [lambda v=v: v for v in (*numbers, 0, 0.0, -1, False, 1e300)]
    for name in wrong:
        wrong[name] += [lambda: np.zeros(2), lambda: jnp.full((), 0.5), object]
    keys = (None, 0, "key", [0, 1], 0.5, b"key")
    wrong["dropout_key"] = [lambda v=v: v for v in keys]
    shapes = (), (0,), (3,), (2, 2)
    wrong["dropout_key"] += [lambda n=n: jnp.zeros(n, jnp.uint32) for n in shapes]
    wrong["dropout_key"] += [lambda d=d: jnp.zeros(2, d) for d in ("int32", "float32", "uint8")]
    wrong["dropout_key"] += [lambda: np.zeros(2, np.uint32), object]
    wrong["dropout_key"] += [lambda n=n: jax.random.split(jax.random.key(0), n) for n in (0, 1, 2)]
    return wrong
