"""Checks of arguments: of shapes and dtypes always, of values where they are concrete."""

import operator
from collections.abc import Iterable, Set
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

Integers = jax.Array | np.ndarray

FLOATS = ("float32", "bfloat16", "float16", "float64")


def floats(name: str, value: Any) -> jax.Array:
    """value as a jax.Array; TypeError if its dtype is not one of FLOATS."""
    array = _array(name, value)
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name} must be of dtype {', '.join(FLOATS)}, got {array.dtype.name}.")
    return array


def integers(name: str, value: Any) -> Integers:
    """value as an int32 array, integers beyond int32 clipped; TypeError if it is not integers.

    Only a jax.Array stays one. Anything else becomes a NumPy array, whose values can be checked
    even under jit.
    """
    array = value if isinstance(value, jax.Array) else _numpy(name, value)
    if array.size == 0 and not hasattr(value, "dtype"):
        array = array.astype(np.int32)  # an empty list has no dtype of its own
    is_integer = jnp.issubdtype(array.dtype, jnp.integer)
    if not is_integer or array.dtype.kind == "m":  # to NumPy timedelta64 is an integer
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}.")
    limits, own = np.iinfo(np.int32), jnp.iinfo(array.dtype)
    if own.max > limits.max or own.min < limits.min:
        low = max(limits.min, own.min)
        clip = jnp.clip if isinstance(array, jax.Array) else np.clip
        array = clip(array, low, limits.max)
    return array.astype(np.int32) if isinstance(array, jax.Array) else np.asarray(array, np.int32)


def mask(name: str, value: Any) -> jax.Array | np.ndarray:
    """value as an array of booleans, NumPy's unless it is a jax.Array; or TypeError."""
    array = value if isinstance(value, jax.Array) else _numpy(name, value)
    if array.dtype != np.bool_:
        raise TypeError(f"{name} must be booleans, got dtype {array.dtype}.")
    return array


def number(name: str, value: Any) -> jax.Array:
    """value as a real scalar array, or TypeError, ValueError."""
    array = _array(name, value)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a number, got dtype {array.dtype}.")
    if array.ndim != 0:
        raise ValueError(f"{name} must be a number, got shape {array.shape}.")
    return array


def number_below(name: str, value: Any, high: float) -> float:
    """value as a float, a number known in advance in [0, high); or TypeError, ValueError."""
    if not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name} must be a number known in advance, got {value!r}.")
    if not 0 <= value < high:
        raise ValueError(f"{name} must be in [0, {high}), got {value!r}.")
    return float(value)


def choice(name: str, value: Any, allowed: tuple) -> None:
    """ValueError unless value is one of allowed."""
    if not isinstance(value, str | None) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def flag(name: str, value: Any) -> bool:
    """value as a bool, or TypeError: a string or an array would pass for true."""
    if not isinstance(value, bool | np.bool_ | int | np.integer) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False, known in advance, got {value!r}.")
    return bool(value)


def index(name: str, value: Any) -> int:
    """value as a Python int, or TypeError."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}.") from None


def durations(name: str, value: Any) -> tuple[int, ...]:
    """value as the frames of each duration, or TypeError, ValueError."""
    if isinstance(value, str | Set) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of integers, known in advance, got {value!r}.")
    found = tuple(index(name, x) for x in value)
    if min(found, default=-1) < 0 or len(set(found)) < len(found) or not any(found):
        raise ValueError(
            f"{name} must be different integers, none negative and one above 0, got {value!r}."
        )
    return found


def at_least_one(name: str, value: Any) -> int:
    """value as an int of at least 1, or TypeError, ValueError."""
    number = index(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}.")
    return number


def blank_index(blank: Any, vocabulary: int) -> int:
    """blank in [0, vocabulary) from an index that may count from the end."""
    return symbol("blank", blank, vocabulary)


def symbol(name: str, value: Any, vocabulary: int) -> int:
    """value in [0, vocabulary) from an index that may count from the end."""
    from_either_end = index(name, value)
    if not -vocabulary <= from_either_end < vocabulary:
        raise ValueError(
            f"{name} must be in [{-vocabulary}, {vocabulary}) for V = {vocabulary} symbols, "
            f"got {value}."
        )
    return from_either_end % vocabulary


def shape(name: str, array: Any, expected: tuple[int, ...], meaning: str) -> None:
    """ValueError unless array.shape is as expected."""
    if array.shape != expected:
        raise ValueError(f"{name} must have shape {expected} ({meaning}), got {array.shape}.")


def broadcasts(name: str, array: Any, expected: tuple[int, ...], axes: str) -> None:
    """ValueError unless array broadcasts to the expected shape, whose axes are called so."""
    own, wanted = array.shape, expected[max(len(expected) - len(array.shape), 0) :]
    if len(own) > len(expected) or any(x not in (1, size) for x, size in zip(own, wanted)):
        raise ValueError(f"{name} must broadcast to {axes} = {expected}, got shape {own}.")


def lengths_values(
    name: str,
    value: Integers,
    low: int,
    high: int,
    meaning: str,
    where: jax.Array | np.ndarray | None = None,
) -> np.ndarray | None:
    """Concrete lengths as a NumPy array; ValueError if one is outside [low, high].

    Lengths for which `where` is false are not checked. Returns None, and checks nothing, if the
    lengths or `where` are traced.
    """
    lengths, counted = concrete(value), True if where is None else concrete(where)
    if lengths is None or counted is None:
        return None
    bad = (lengths < low) | (lengths > high)
    _first_bad(name, lengths, bad & counted, f"[{low}, {high}] ({meaning})")
    return lengths


def labels_values(labels: Integers, used: np.ndarray, vocabulary: int) -> None:
    """ValueError if a concrete label is outside [0, V) where the mask `used` is true."""
    values = concrete(labels)
    if values is not None:
        bad = used & ((values < 0) | (values >= vocabulary))
        _first_bad("labels", values, bad, f"[0, {vocabulary}) within their lengths")


def concrete(value: jax.Array | np.ndarray) -> np.ndarray | None:
    """value as a NumPy array, or None if it is traced or not wholly in this process."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, jax.core.Tracer) or not value.is_fully_addressable:
        return None
    return np.asarray(value)


def _first_bad(name: str, values: np.ndarray, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        place = f"{name}[{', '.join(map(str, where))}]" if where else name
        raise ValueError(f"{name} must be in {expected}, got {place} = {values[where]}.")


def _numpy(name: str, value: Any) -> Integers:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        return _array(name, value)  # a list of traced numbers, or TypeError


def _array(name: str, value: Any) -> jax.Array:
    if isinstance(value, jax.Array):
        return value
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        dtype = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
        got = f"{type(value).__name__}{dtype}"
        raise TypeError(f"{name} must be an array of numbers, got {got}.") from error
