"""Illegal calls, drawn: arguments and options, of which an error must name one."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from fuzz_functions import BIASES
from fuzz_legal import listed, strided
from fuzz_options import wrong_options
from fuzz_shapes import TIED, fits, other_shape
from fuzz_signatures import Signature, Source, chance
from fuzz_values import INT32, Case, draw_options, legal_values


def _illegal(source, signature, kind, subject, changed, offending, *, jitted=None, options=None):
    values, _ = legal_values(source, signature)
    return Case(
        signature,
        kind,
        subject,
        chance(source, 40) if jitted is None else jitted,
        {**values, **changed},
        {**draw_options(source, signature), **(options or {})},
        frozenset().union(*map(signature.function.names, offending)),
    )


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


def draw_dtype(source: Source, signature: Signature) -> Case:
    """One or two arguments that are no arrays, or arrays of another dtype."""
    names = source.choice([1, 1, 1, 2]) * [None]
    names = {source.choice(signature.function.arrays) for _ in names}
    changed, subjects = {}, []
    for name in sorted(names):
        is_float = name in signature.function.rows
        shape = np.zeros(signature.shapes()[name])
        wrong = _wrong_types(shape, is_float)
        if name == "bias" or name in BIASES:
            wrong.pop("None")
        if name in BIASES:
            wrong.pop("nan")  # a number broadcasts
        what = source.choice(sorted(wrong))
        changed[name] = wrong[what]()
        subjects.append(name)
    return _illegal(source, signature, "dtype", "+".join(subjects), changed, names)


def draw_shape(source: Source, signature: Signature) -> Case:
    """One argument of another shape; integers are ones and legal as such where they fit."""
    for _ in range(50):
        name = source.choice(signature.function.arrays)
        shape = other_shape(source, signature.shapes()[name])
        if not fits(signature, {**signature.shapes(), name: shape}):
            break
    else:
        return draw_dtype(source, signature)
    dtype = signature.dtype if name in signature.function.rows else signature.integers
    changed = np.zeros(shape, jnp.dtype(dtype)) + (name == "frames_lengths")
    offending = {name} | TIED.get(name, set())
    if name == signature.function.rows[0]:  # what the others must fit
        offending |= {*signature.function.arrays}
    if BIASES[0] in signature.function.rows:  # lengths are checked before biases
        offending |= {*BIASES, *signature.function.integers}
    case = _illegal(source, signature, "shape", name, {name: changed.astype(dtype)}, offending)
    return case


def draw_range(source: Source, signature: Signature) -> Case:
    """A length or label out of range where it can be seen."""
    names = [n for n in signature.function.integers if np.prod(signature.shapes()[n]) > 0]
    if "logits" in signature.function.rows and not signature.function.is_loss:
        return draw_dtype(source, signature)  # rows take any label
    if not names or 0 in signature.batch:
        return draw_shape(source, signature)
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
        return draw_shape(source, signature)
    place = tuple(source.integer(0, n - 1) for n in x.shape)
    if name == "labels":
        values["labels_lengths"] = np.full(signature.sequences, signature.U - 1, signature.integers)
        if signature.U == 1:
            return draw_shape(source, signature)
        if compact:
            place = (source.integer(0, x.size - 2),)
    x[place] = source.choice(wrong)
    rest = {k: v for k, v in values.items() if k != name}
    x = np.clip(x, limits.min, limits.max).astype(dtype)
    wear = source.choice([np.asarray, np.asarray, strided, listed, jnp.asarray])
    with jax.enable_x64(signature.x64):
        if wear is jnp.asarray and int(jnp.asarray(x)[place]) != int(x[place]):
            wear = np.asarray  # JAX would take another number for it
        changed = {**rest, name: wear(x)}
    offending = {name}
    if compact and name != "labels":
        offending |= {"frames_lengths", "labels_lengths", "labels"}
    case = _illegal(source, signature, "range", name, changed, offending, jitted=False)
    return case


def draw_option(source: Source, signature: Signature) -> Case:
    """An option that makes no sense."""
    wrong = wrong_options(signature)
    name = source.choice(sorted(wrong))
    option = {name: source.choice(wrong[name])()}
    if name == "dropout_key":
        option["dropout_rate"] = 0.5
    return _illegal(source, signature, "option", name, {}, {name}, options=option)
