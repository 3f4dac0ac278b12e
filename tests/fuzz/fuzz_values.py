"""A call of fuzz_cases, and legal values for it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from fuzz_functions import STANDARD_ARCS
from fuzz_signatures import Signature, Source, chance, generator

INT32 = np.iinfo(np.int32)


@dataclasses.dataclass
class Case:
    """A call and what is known about it."""

    signature: Signature
    kind: str
    subject: str  # what the case is about: an argument, or how the values are spoilt
    jitted: bool
    arguments: dict[str, Any]
    options: dict[str, Any]
    # One of these must be named by an error; where there is none, the answer must be right.
    offending: frozenset[str] = frozenset()
    values: dict[str, np.ndarray] | None = None  # the arguments as plain arrays
    cotangents: Any = None
    neighbours: dict[str, np.ndarray] | None = None  # the same but for one sequence
    changed: int = 0  # which sequence that is

    def __str__(self) -> str:
        s = self.signature
        arguments = {**self.arguments, **self.options}
        shown = "\n".join(f"  {name} = {_show(value)}" for name, value in arguments.items())
        return (
            f"{s.function}: {self.kind}, {self.subject}; {s.dtype}, x64 {s.x64}, "
            f"{'jitted' if self.jitted else 'eager'}\n{shown}"
        )


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array) and value.size > 40:
        return f"{type(value).__name__} {value.dtype} {value.shape}"
    return repr(value)


def legal_values(
    source: Source, signature: Signature, *, senseless: bool = False
) -> tuple[dict[str, np.ndarray], str]:
    """All arrays as their dtypes, and how the floats are spoilt.

    senseless: some lengths and labels are out of range.
    """
    rng = generator(source)
    floats, how = _draw_floats(source, rng, signature)
    integers = _draw_integers(source, rng, signature, senseless)
    with np.errstate(over="ignore", invalid="ignore"):
        values = {name: x.astype(jnp.dtype(signature.dtype)) for name, x in floats.items()}
    return values | integers, how


def _draw_floats(source, rng, signature):
    scale = source.choice([1, 1, 1, 0.1, 5, 50, 0])
    shapes = signature.shapes()
    floats = {name: scale * rng.standard_normal(shapes[name]) for name in signature.function.rows}
    if not signature.function.takes_logits:
        floats |= _as_log_probs(rng, signature, floats)
    if chance(source, 45):
        return floats, "plain"
    how = source.choice(list(SPECIAL))
    name = source.choice(signature.function.rows)
    floats[name] = _spoil(source, rng, signature, floats[name], how)
    return floats, how


def _as_log_probs(rng, signature, floats):
    if "log_probs" in floats:
        return {"log_probs": oracle.log_softmax(floats["log_probs"])}
    shape = signature.shapes()["blank_log_probs"]
    both = oracle.log_softmax(rng.standard_normal((*shape, 3)) * 2)
    named = zip((*STANDARD_ARCS, "skip_log_probs"), np.moveaxis(both, -1, 0))
    return {name: x for name, x in named if name in floats}


# Values by the name of what they do; of the largest one the dtype's own is taken.
SPECIAL: dict[str, list[float]] = {
    "NaN": [np.nan],
    "inf": [np.inf],
    "-inf": [-np.inf],
    "denormal": [1e-40, -1e-40, 5e-324, 6e-8, -6e-8],
    "ties": [0.0, 1.0],
    "+-1e4": [1e4, -1e4],
    "-1e4": [-1e4],
    "+-1e30": [1e30, -1e30],
    "-1e30": [-1e30],
    "-3e36": [-3e36],
    "largest": [np.finfo(np.float64).max, -np.finfo(np.float64).max],
    "-largest": [-np.finfo(np.float64).max],
    "rows far from zero": [1e4, -1e4, 0],
    "everything": [np.nan, np.inf, -np.inf, 1e4, -1e4, 1e30, -1e30, 0, 1e-40],
}


def _spoil(source, rng, signature, x, how):
    candidates = np.array(SPECIAL[how])
    if "largest" in how:
        candidates = np.sign(candidates) * float(jnp.finfo(signature.dtype).max)
    if x.size == 0:
        return x
    if how == "rows far from zero":
        return x + rng.choice(candidates, x.shape[:-1])[..., None]
    share = source.choice([0, 0, 0, 3, 30, 100])
    places = rng.random(x.shape) * 100 < share
    if share == 0:
        places.reshape(-1)[rng.integers(x.size)] = True
    if not signature.function.takes_logits and chance(source, 75):
        candidates = np.where(candidates > 0, -candidates, candidates)
    return np.where(places, rng.choice(candidates, x.shape), x)


def _draw_integers(source, rng, signature, senseless):
    shapes, dtype = signature.shapes(), np.dtype(signature.integers)
    function, V = signature.function, signature.V
    if not function.is_loss and "labels" in shapes:  # rows of a pick: anything is legal
        labels = rng.integers(-2, V + 2, shapes["labels"])
        far = rng.choice([INT32.min, INT32.max, -1, 0], shapes["labels"])
        labels = np.where(rng.random(labels.shape) < 0.1, far, labels)
        return {"labels": _into(labels, dtype, V)}
    frames = rng.integers(1, signature.T + 1, shapes["frames_lengths"])
    labels_lengths = rng.integers(0, signature.U, shapes["labels_lengths"])
    if chance(source, 30):
        frames, labels_lengths = np.full_like(frames, signature.T), labels_lengths * 0
        labels_lengths += signature.U - 1
    integers = {"frames_lengths": frames, "labels_lengths": labels_lengths}
    if "labels" in shapes:
        labels = rng.integers(0, V, shapes["labels"])
        if chance(source, 20):
            labels[...] = dict(signature.options)["blank"] % V
        if not function.compact:
            used = np.arange(signature.U - 1) < labels_lengths[..., None]
            filler = rng.choice([-1, V, INT32.max, INT32.min], labels.shape)
            labels = np.where(used, labels, filler)
        integers["labels"] = labels
    if senseless:
        _make_senseless(source, rng, signature, integers)
    return {name: _into(np.asarray(x), dtype, V) for name, x in integers.items()}


def _make_senseless(source, rng, signature, integers):
    name = source.choice(sorted(integers))
    x = integers[name] = np.array(integers[name])
    if x.size == 0:
        return
    low, high = {
        "frames_lengths": (1, signature.T),
        "labels_lengths": (0, signature.U - 1),
        "labels": (0, signature.V - 1),
    }[name]
    wrong = [low - 1, high + 1, -1, -2, INT32.max, INT32.min, 2**33 + 1, -(2**40), 200]
    places = rng.random(x.shape) < source.choice([0, 0, 0.3])
    places.reshape(-1)[rng.integers(x.size)] = True
    x[...] = np.where(places, rng.choice(wrong, x.shape), x)


def _into(x: np.ndarray, dtype: np.dtype, V: int) -> np.ndarray:
    """As the dtype, values that it cannot hold brought to its nearest one."""
    limits = np.iinfo(dtype)
    clipped = [min(max(int(v), int(limits.min)), int(limits.max)) for v in x.reshape(-1)]
    return np.array(clipped, dtype).reshape(x.shape)


# Options that a compiled function takes as arguments.
TRACED = "fastemit_lambda", "dropout_key"


def draw_options(source: Source, signature: Signature) -> dict[str, Any]:
    """All options of a legal call."""
    options = dict(signature.options)
    if signature.emits:
        chosen = source.choice([0.0, 0.01, 0.5, 0.5, 2.0, -0.5, -1.0, 1e4, np.nan, np.inf])
        options["fastemit_lambda"] = np.float32(chosen)
    if signature.drops:
        options["dropout_key"] = draw_key(source, signature)
    return options


def draw_key(source: Source, signature: Signature) -> jax.Array:
    """A key of either kind, one of them for each signature."""
    make = jax.random.key if signature.jitted else jax.random.PRNGKey
    return make(source.integer(0, INT32.max))


def draw_cotangents(rng, signature: Signature) -> Any:
    dtype = signature.accumulator
    reduced = dict(signature.options).get("reduction") in ("sum", "mean")
    shape = () if reduced else signature.sequences
    if signature.function.is_pick:
        shape = (*signature.batch, signature.T)

    def one():
        drawn = np.round(rng.standard_normal(shape), 1)
        return np.asarray(drawn * (rng.random(shape) > 0.1), dtype)

    return (one(), one()) if signature.function.is_pick else one()
