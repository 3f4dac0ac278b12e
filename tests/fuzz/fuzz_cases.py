"""Calls of the public functions, drawn: what tools/fuzz.py and test_fuzz.py pass to them.

A case is a legal call, spoilt or not. Its signature (function, shapes, dtype, static options) is
one of a pool, so that the functions compiled for one case answer thousands. Whoever draws is a
Source: a random generator, or hypothesis, which can shrink what it drew.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle

import jax_rnnt

INT32 = np.iinfo(np.int32)


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


# Arcs (frames, labels) by the names of their arrays.
ARCS = {"blank_log_probs": (1, 0), "skip_log_probs": (3, 0), "label_log_probs": (1, 1)}
_SKIP = tuple(ARCS)


def arcs_cost(
    blank_log_probs, skip_log_probs, label_log_probs, frames_lengths, labels_lengths, **options
):
    """One symbol a frame, and blanks of three frames, whose arrays have a name each."""
    arrays = blank_log_probs, skip_log_probs, label_log_probs
    arcs = dict(zip(ARCS.values(), arrays))
    return jax_rnnt.arcs_cost(arcs, frames_lengths, labels_lengths, **options)


def lattice_align(blank_log_probs, label_log_probs, frames_lengths, labels_lengths, **options):
    """The best path's log-probability as a cost."""
    arguments = blank_log_probs, label_log_probs, frames_lengths, labels_lengths
    return -jax_rnnt.lattice_align(*arguments, **options).log_probs


def pick_rows(logits, labels, **options):
    """What log_softmax_pick gives, by the kernel that gives the mass of the rest, too."""
    rows = jax_rnnt.pick_rows(logits, labels, rest=True, **options)
    return rows.blank, rows.label


@dataclasses.dataclass(frozen=True)
class Function:
    """A public function in one layout. Arrays are passed by name."""

    call: Callable[..., Any]
    rows: tuple[str, ...]  # differentiable; the shape of the first one is what others must fit
    integers: tuple[str, ...]
    compact: bool = False
    implementations: tuple[str | None, ...] = ("native", "reference")

    @property
    def arrays(self) -> tuple[str, ...]:
        return self.rows + self.integers

    @property
    def is_loss(self) -> bool:
        return "labels" in self.integers and "frames_lengths" in self.integers

    @property
    def takes_logits(self) -> bool:
        return "logits" in self.rows or "encoder" in self.rows

    @property
    def is_lattice(self) -> bool:
        return self.call in (jax_rnnt.lattice_cost, arcs_cost, lattice_align)

    def names(self, array: str) -> set[str]:
        """What an error that is about an array names."""
        is_arc = self.call is arcs_cost and array in self.rows
        return {"arcs"} if is_arc else {array}

    @property
    def is_pick(self) -> bool:
        return self.call in (jax_rnnt.log_softmax_pick, pick_rows)

    @property
    def is_timed(self) -> bool:
        return self.call is jax_rnnt.tdt_loss_from_logits

    def __str__(self) -> str:
        biased = ", biased" if _BIASES[0] in self.rows else ""
        return self.call.__name__ + biased + (", compact" if self.compact else "")


_LENGTHS = ("frames_lengths", "labels_lengths")
_ARCS = ("blank_log_probs", "label_log_probs")
_BIASES = ("label_bias", "blank_bias")
FUNCTIONS = [
    Function(jax_rnnt.rnnt_loss, ("log_probs",), ("labels", *_LENGTHS), implementations=(None,)),
    Function(jax_rnnt.rnnt_loss_from_logits, ("logits",), ("labels", *_LENGTHS)),
    Function(
        jax_rnnt.rnnt_loss,
        ("log_probs",),
        ("labels", *_LENGTHS),
        compact=True,
        implementations=(None,),
    ),
    Function(jax_rnnt.rnnt_loss_from_logits, ("logits",), ("labels", *_LENGTHS), compact=True),
    Function(
        jax_rnnt.rnnt_loss_from_joint,
        ("encoder", "predictor", "kernel", "bias"),
        ("labels", *_LENGTHS),
    ),
    Function(jax_rnnt.rnnt_loss_from_logits, ("logits", *_BIASES), ("labels", *_LENGTHS)),
    Function(
        jax_rnnt.rnnt_loss_from_logits, ("logits", *_BIASES), ("labels", *_LENGTHS), compact=True
    ),
    Function(
        jax_rnnt.rnnt_loss,
        ("log_probs", *_BIASES),
        ("labels", *_LENGTHS),
        implementations=(None,),
    ),
    Function(
        jax_rnnt.rnnt_loss_from_joint,
        ("encoder", "predictor", "kernel", "bias", *_BIASES),
        ("labels", *_LENGTHS),
    ),
    Function(jax_rnnt.tdt_loss_from_logits, ("logits",), ("labels", *_LENGTHS)),
    Function(jax_rnnt.tdt_loss_from_logits, ("logits",), ("labels", *_LENGTHS), compact=True),
    Function(jax_rnnt.log_softmax_pick, ("logits",), ("labels",)),
    Function(pick_rows, ("logits",), ("labels",)),
    Function(jax_rnnt.lattice_cost, _ARCS, _LENGTHS),
    Function(jax_rnnt.lattice_cost, _ARCS, _LENGTHS, compact=True),
    Function(arcs_cost, _SKIP, _LENGTHS),
    Function(arcs_cost, _SKIP, _LENGTHS, compact=True),
    Function(lattice_align, _ARCS, _LENGTHS),
]


@dataclasses.dataclass(frozen=True)
class Signature:
    """All of a call that a compiled function depends on."""

    function: Function
    batch: tuple[int, ...]
    T: int
    U: int
    V: int
    H: int
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
    def rows_count(self) -> int:
        """S of the compact form."""
        return math.prod(self.batch) * self.T * self.U

    @property
    def labels_count(self) -> int:
        """L of the compact form."""
        return math.prod(self.batch) * (self.U - 1) + 1

    @property
    def durations(self) -> tuple[int, ...]:
        return dict(self.options).get("durations", ())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        batch, T, U, V, H = self.batch, self.T, self.U, self.V, self.H
        width = V + len(self.durations)
        shapes = {
            "logits": (*batch, T, U, width),
            "log_probs": (*batch, T, U, V),
            "blank_log_probs": (*batch, T, U),
            "label_log_probs": (*batch, T, U),
            "skip_log_probs": (*batch, T, U),
            "label_bias": (*batch, T, U),
            "blank_bias": (T, 1),
            "encoder": (*batch, T, H),
            "predictor": (*batch, U, H),
            "kernel": (H, V),
            "bias": (V,),
            "labels": (*batch, U - 1),
            "frames_lengths": batch,
            "labels_lengths": batch,
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
    if function.call is jax_rnnt.rnnt_loss_from_logits:
        options["normalize"] = source.choice(["softmax", "softmax", "hat"])
    if function.call is jax_rnnt.rnnt_loss_from_joint:
        options["activation"] = source.choice(["tanh", "relu", None])
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
        H=source.choice([1, 3, 8]),
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


KINDS = (
    ["values"] * 9 + ["containers"] * 3 + ["range"] * 2 + ["dtype"] * 2 + ["shape", "option"] * 2
)


def draw_case(
    source: Source, signatures: Sequence[Signature], kinds: Sequence[str] = tuple(KINDS)
) -> Case:
    signature = source.choice(signatures)
    draw = {
        "values": _draw_values,
        "containers": _draw_containers,
        "range": _draw_range,
        "dtype": _draw_dtype,
        "shape": _draw_shape,
        "option": _draw_option,
    }
    kind = source.choice(kinds)
    eager = [s for s in signatures if not s.jitted]
    if kind == "containers" and eager:
        signature = source.choice(eager)
    return draw[kind](source, signature)


# ---- Legal calls


class _Senses(NamedTuple):
    """What integers may be."""

    senseless: bool  # traced, they may be out of range


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
    named = zip((*_ARCS, "skip_log_probs"), np.moveaxis(both, -1, 0))
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


def _draw_lambda(source, signature) -> dict[str, Any]:
    if not signature.emits:
        return {}
    chosen = source.choice([0.0, 0.01, 0.5, 0.5, 2.0, -0.5, -1.0, 1e4, np.nan, np.inf])
    return {"fastemit_lambda": np.float32(chosen)}


def draw_cotangents(rng, signature: Signature) -> Any:
    dtype = signature.accumulator
    reduced = dict(signature.options).get("reduction") in ("sum", "mean")
    shape = () if reduced else signature.batch
    if signature.function.is_pick:
        shape = (*signature.batch, signature.T)

    def one():
        drawn = np.round(rng.standard_normal(shape), 1)
        return np.asarray(drawn * (rng.random(shape) > 0.1), dtype)

    return (one(), one()) if signature.function.is_pick else one()


def _draw_values(source: Source, signature: Signature) -> Case:
    jitted = signature.jitted
    senseless = jitted and chance(source, 30)
    values, how = legal_values(source, signature, senseless=senseless)
    rng = generator(source)
    case = Case(
        signature,
        "values",
        f"{how}, senseless" if senseless else how,
        jitted,
        dict(values),
        {**dict(signature.options), **_draw_lambda(source, signature)},
        values=values,
        cotangents=draw_cotangents(rng, signature) if jitted or chance(source, 30) else None,
    )
    alone = signature.function.compact or len(signature.batch) != 1
    alone |= "kernel" in values or "blank_bias" in values
    if jitted and not alone and signature.batch[0] > 1 and chance(source, 25):
        case.changed = int(rng.integers(signature.batch[0]))
        other, _ = legal_values(source, signature, senseless=chance(source, 50))
        case.neighbours = {name: x.copy() for name, x in values.items()}
        for name, x in case.neighbours.items():
            x[case.changed] = other[name][case.changed]
    return case


# ---- Legal calls in strange clothes


def _strided(x):
    if x.ndim == 0:
        return x
    wide = np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)
    wide[::2] = x
    return wide[::2]


def _reversed(x):
    return np.ascontiguousarray(x[::-1])[::-1] if x.ndim else x


def _transposed(x):
    return x.T.copy().T


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _unaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)
    memory[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return memory[1:].view(x.dtype).reshape(x.shape)


def _listed(x):
    return x.tolist()


def _of_rows(x):
    """A list of arrays."""
    return list(x) if x.ndim else x[()]


def _swapped(x):
    return x.astype(x.dtype.newbyteorder())


class _Subclass(np.ndarray):
    """As a library of its own may hand them out."""


def _subclassed(x):
    return x.view(_Subclass)


_CONTAINERS = [_strided, _reversed, _transposed, _read_only, _unaligned, jnp.asarray, _listed]
_CONTAINERS += [_of_rows, _swapped, _subclassed]


def _draw_containers(source: Source, signature: Signature) -> Case:
    values, _ = legal_values(source, signature)
    arguments, used = {}, []
    for name, x in values.items():
        wear = source.choice(_CONTAINERS)
        is_float = name in signature.function.rows
        # A list has no dtype, and no shape where it is empty.
        if wear in (_listed, _of_rows) and (
            0 in x.shape or (is_float and (signature.dtype == "float64") != signature.x64)
        ):
            wear = _transposed
        if wear is _listed and is_float and signature.dtype not in ("float32", "float64"):
            wear = _strided
        if wear is _swapped and is_float:  # which JAX takes for no array
            wear = _unaligned
        if not is_float:
            dtype = source.choice(["int8", "uint8", "int16", "int64", "uint64", "int32", "uint32"])
            limits = np.iinfo(dtype)
            if x.size == 0 or (limits.min <= int(x.min()) and int(x.max()) <= limits.max):
                x = x.astype(dtype)
        with jax.enable_x64(signature.x64):
            arguments[name] = wear(x)
        used.append(wear.__name__.strip("_"))
    return Case(
        signature,
        "containers",
        source.choice(used),
        False,
        arguments,
        {**dict(signature.options), **_draw_lambda(source, signature)},
        values=values,
        cotangents=draw_cotangents(generator(source), signature) if chance(source, 30) else None,
    )


# ---- Illegal calls


def _illegal(source, signature, kind, subject, changed, offending, *, jitted=None, options=None):
    values, _ = legal_values(source, signature)
    return Case(
        signature,
        kind,
        subject,
        chance(source, 40) if jitted is None else jitted,
        {**values, **changed},
        {**dict(signature.options), **(options or {})},
        frozenset().union(*map(signature.function.names, offending)),
    )


class _Unhashable(list):
    def __call__(self, x):
        return x


def _wrong_types(values: np.ndarray, is_float: bool) -> dict[str, Callable[[], Any]]:
    shape = values.shape
    wrong: dict[str, Callable[[], Any]] = {
        "None": lambda: None,
        "str": lambda: "labels",
        "bytes": lambda: b"labels",
        "object": object,
        "dict": lambda: {"a": 1},
        "set": lambda: {1, 2},
        "function": lambda: len,
        "type": lambda: int,
        "ragged": lambda: [[1], [2, 3]],
        "ragged numbers": lambda: [1, [2, 3]],
        "huge number": lambda: 10**400,
        "list of huge": lambda: [10**400],
        "list of None": lambda: [None],
        "list of str": lambda: ["a", "b"],
        "array of objects": lambda: np.full(shape, None, object),
        "array of str": lambda: np.full(shape, "a"),
        "bool": lambda: np.ones(shape, bool),
        "complex64": lambda: np.ones(shape, np.complex64),
        "complex128": lambda: np.ones(shape, np.complex128),
        "datetime64": lambda: np.zeros(shape, "datetime64[s]"),
        "timedelta64": lambda: np.zeros(shape, "timedelta64[s]"),
        "structured": lambda: np.zeros(shape, [("a", "f4")]),
        "void": lambda: np.zeros(shape, "V4"),
        "float8": lambda: np.ones(shape, ml_dtypes.float8_e4m3fn),
        "jax float8": lambda: jnp.ones(shape, jnp.float8_e5m2),
        "jax complex": lambda: jnp.ones(shape, jnp.complex64),
        "jax bool": lambda: jnp.ones(shape, bool),
        "keys": lambda: jax.random.key(0),
        "nan": lambda: math.nan,
        "iterator": lambda: iter([1, 2]),
    }
    if is_float:
        more = {d: lambda d=d: np.ones(shape, d) for d in ("int8", "uint8", "int32", "int64")}
        more |= {"int4": lambda: np.ones(shape, ml_dtypes.int4)}
        more |= {"byte order": lambda: np.ones(shape, np.dtype(np.float32).newbyteorder())}
        more |= {"masked": lambda: np.ma.ones(shape, np.float32)}
        more |= {"longdouble": lambda: np.ones(shape, np.longdouble)}
        more |= {"jax int32": lambda: jnp.ones(shape, jnp.int32)}
    else:
        more = {d: lambda d=d: np.ones(shape, d) for d in ("float16", "float32", "float64")}
        more |= {"bfloat16": lambda: np.ones(shape, jnp.bfloat16)}
        more |= {"jax float32": lambda: jnp.ones(shape), "list of floats": lambda: [1.5, 2.5]}
    return wrong | more


def _draw_dtype(source: Source, signature: Signature) -> Case:
    """One or two arguments that are no arrays, or arrays of another dtype."""
    names = source.choice([1, 1, 1, 2]) * [None]
    names = {source.choice(signature.function.arrays) for _ in names}
    changed, subjects = {}, []
    for name in sorted(names):
        is_float = name in signature.function.rows
        shape = np.zeros(signature.shapes()[name])
        wrong = _wrong_types(shape, is_float)
        if name == "bias" or name in _BIASES:
            wrong.pop("None")
        if name in _BIASES:
            wrong.pop("nan")  # a number broadcasts
        what = source.choice(sorted(wrong))
        changed[name] = wrong[what]()
        subjects.append(name)
    return _illegal(source, signature, "dtype", "+".join(subjects), changed, names)


def fits(signature: Signature, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the function takes arrays of these shapes together."""
    function = signature.function
    first = shapes[function.rows[0]]
    width = 1 + len(signature.durations)
    if function.is_pick:
        return len(first) >= 1 and first[-1] >= 1 and shapes["labels"] == first[:-1]
    if function.compact:
        alike = shapes["frames_lengths"] == shapes["labels_lengths"]
        alike &= len(shapes["frames_lengths"]) == 1
        if "labels" not in shapes:
            return alike and len(first) == 1 and all(shapes[x] == first for x in function.rows)
        alike &= len(first) == 2 and first[1] >= width and len(shapes["labels"]) == 1
        return alike and _biases_fit(shapes, first[:1])
    if "encoder" in shapes:
        predictor, kernel = shapes["predictor"], shapes["kernel"]
        if len(first) < 2 or len(predictor) != len(first) or len(kernel) != 2:
            return False
        if predictor[:-2] != first[:-2] or not predictor[-1] == first[-1] == kernel[0]:
            return False
        if shapes["bias"] != kernel[1:]:
            return False
        first = (*first[:-1], predictor[-2], kernel[1])
    if function.is_lattice and any(shapes[name] != first for name in function.rows):
        return False
    if "label_log_probs" in shapes:
        first = (*first, 1)
    if len(first) < 3 or 0 in first[-3:] or first[-1] < width:
        return False
    if not _biases_fit(shapes, first[:-1]):
        return False
    *batch, _, U, _ = first
    if any(shapes[name] != tuple(batch) for name in _LENGTHS):
        return False
    return "labels" not in shapes or shapes["labels"] == (*batch, U - 1)


def _biases_fit(shapes: dict[str, tuple[int, ...]], cells: tuple[int, ...]) -> bool:
    """Whether biases, where there are any, broadcast to the cells."""
    for name in _BIASES:
        own = shapes.get(name, ())
        if len(own) > len(cells) or any(a not in (1, b) for a, b in zip(own[::-1], cells[::-1])):
            return False
    return True


def _other_shape(source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
    size = list(shape)
    place = source.integer(0, len(size) - 1) if size else 0
    how = source.choice(["more", "fewer", "zero", "longer", "shorter", "reverse", "none", "many"])
    if how == "more":
        size.insert(place, source.choice([1, 2, 0]))
    elif how == "none":
        return ()
    elif how == "many":
        return (1,) * source.choice([6, 9]) + tuple(size)
    elif how == "reverse":
        size.reverse()
    elif size and how == "fewer":
        size.pop(place)
    elif size:
        size[place] = {"zero": 0, "longer": size[place] + 1, "shorter": max(size[place] - 1, 0)}[
            how
        ]
    return tuple(size)


# Where two arguments disagree, either may be the one that is complained of.
_TIED = {"predictor": {"labels"}, "label_log_probs": {"blank_log_probs"}, "encoder": {"predictor"}}
_TIED |= {"kernel": {"bias"}}


def _draw_shape(source: Source, signature: Signature) -> Case:
    """One argument of another shape; integers are ones and legal as such where they fit."""
    for _ in range(50):
        name = source.choice(signature.function.arrays)
        shape = _other_shape(source, signature.shapes()[name])
        if not fits(signature, {**signature.shapes(), name: shape}):
            break
    else:
        return _draw_dtype(source, signature)
    dtype = signature.dtype if name in signature.function.rows else signature.integers
    changed = np.zeros(shape, jnp.dtype(dtype)) + (name == "frames_lengths")
    offending = {name} | _TIED.get(name, set())
    if name == signature.function.rows[0]:  # what the others must fit
        offending |= {*signature.function.arrays}
    if _BIASES[0] in signature.function.rows:  # lengths are checked before biases
        offending |= {*_BIASES, *signature.function.integers}
    case = _illegal(source, signature, "shape", name, {name: changed.astype(dtype)}, offending)
    return case


def _draw_range(source: Source, signature: Signature) -> Case:
    """A length or label out of range where it can be seen."""
    names = [n for n in signature.function.integers if np.prod(signature.shapes()[n]) > 0]
    if "logits" in signature.function.rows and not signature.function.is_loss:
        return _draw_dtype(source, signature)  # rows take any label
    if not names or 0 in signature.batch:
        return _draw_shape(source, signature)
    values, _ = legal_values(source, signature)
    name = source.choice(names)
    compact = signature.function.compact
    dtype = np.dtype(
        source.choice(["int32", "int64", "uint8", "int8", "uint64", signature.integers])
    )
    x = values[name].astype(np.int64)
    high = {
        "frames_lengths": signature.T,
        "labels_lengths": signature.U - 1,
        "labels": signature.V - 1,
    }
    wrong = [-1, -3, INT32.min, INT32.max, high[name] + 1, 2**40, -(2**40), 100, -128, 255]
    wrong += [0] if name == "frames_lengths" else []
    limits = np.iinfo(dtype)
    least = signature.rows_count if compact and name != "labels" else high[name]
    wrong = [
        v
        for v in wrong
        if limits.min <= v <= limits.max and (v > least or v < (name == "frames_lengths"))
    ]
    if not wrong:
        return _draw_shape(source, signature)
    place = tuple(source.integer(0, n - 1) for n in x.shape)
    if name == "labels":
        values["labels_lengths"] = np.full(signature.batch, signature.U - 1, signature.integers)
        if signature.U == 1:
            return _draw_shape(source, signature)
        if compact:
            place = (source.integer(0, x.size - 2),)
    x[place] = source.choice(wrong)
    rest = {k: v for k, v in values.items() if k != name}
    x = np.clip(x, limits.min, limits.max).astype(dtype)
    wear = source.choice([np.asarray, np.asarray, _strided, _listed, jnp.asarray])
    with jax.enable_x64(signature.x64):
        if wear is jnp.asarray and int(jnp.asarray(x)[place]) != int(x[place]):
            wear = np.asarray  # JAX would take another number for it
        changed = {**rest, name: wear(x)}
    offending = {name}
    if compact and name != "labels":
        offending |= {"frames_lengths", "labels_lengths", "labels"}
    case = _illegal(source, signature, "range", name, changed, offending, jitted=False)
    return case


_OBJECTS = {
    "list": lambda: ["mean"],
    "array": lambda: np.zeros(2),
    "object": object,
    "bytes": lambda: b"mean",
    "jax array": lambda: jnp.zeros(2),
}


def _draw_option(source: Source, signature: Signature) -> Case:
    """An option that makes no sense."""
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
    if function.call is jax_rnnt.rnnt_loss_from_logits:
        wrong["normalize"] = [lambda v=v: v for v in ("sigmoid", None, 1, "HAT", b"hat")]
    if "compact" in dict(signature.options) or function.is_lattice:
        wrong["compact"] = [lambda v=v: v for v in ("yes", 2, 0.5)] + list(_OBJECTS.values())
    if function.is_lattice:
        bounds = (-1, 1.5, "3", [1], -(10**30)) if function.compact else (0, 3, "3", -1)
        wrong["max_labels"] = [lambda v=v: v for v in bounds]
    if function.call is arcs_cost:
        wrong["last"] = [lambda v=v: v for v in (3, "all", [(0, 1)], [1], ((1, 0), None), [[1, 0]])]
    if function.call is jax_rnnt.rnnt_loss_from_joint:
        wrong["min_posterior"] = [lambda v=v: v for v in (-0.1, 1, 1.5, math.nan, "0", [0.1], 1j)]
        wrong["min_posterior"] += [lambda: np.zeros(2), lambda: jnp.zeros(2), lambda: -math.inf]
        tiles = ((1, 2), 5, "abc", (0, 1, 1), (1.0, 2, 3), (1, 2, 3, 4), None, (-1, 2, 3), {1: 2})
        wrong["tile"] = [lambda v=v: v for v in tiles if v is not None]
        wrong["tile"] += [lambda: np.zeros((3, 3)), lambda: [[1], [2], [3]]]
        wrong["activation"] = [lambda v=v: v for v in ("sigmoid", 3, [], {"a": 1}, b"tanh")]
        wrong["activation"] += [_Unhashable, lambda: np.zeros(2)]
    name = source.choice(sorted(wrong))
    option = {name: source.choice(wrong[name])()}
    return _illegal(source, signature, "option", name, {}, {name}, options=option)
