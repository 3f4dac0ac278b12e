"""Legal calls, drawn: any values, and arrays in strange clothes."""

import jax
import jax.numpy as jnp
import numpy as np
from fuzz_signatures import Signature, Source, chance, generator
from fuzz_values import Case, draw_cotangents, draw_options, legal_values


def draw_values(source: Source, signature: Signature) -> Case:
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
        draw_options(source, signature),
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


# ---- Strange clothes


def strided(x):
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


def listed(x):
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


_CONTAINERS = [strided, _reversed, _transposed, _read_only, _unaligned, jnp.asarray, listed]
_CONTAINERS += [_of_rows, _swapped, _subclassed]


def draw_containers(source: Source, signature: Signature) -> Case:
    values, _ = legal_values(source, signature)
    arguments, used = {}, []
    for name, x in values.items():
        wear = source.choice(_CONTAINERS)
        is_float = name in signature.function.rows
        # A list has no dtype, and no shape where it is empty.
        if wear in (listed, _of_rows) and (
            0 in x.shape or (is_float and (signature.dtype == "float64") != signature.x64)
        ):
            wear = _transposed
        if wear is listed and is_float and signature.dtype not in ("float32", "float64"):
            wear = strided
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
        draw_options(source, signature),
        values=values,
        cotangents=draw_cotangents(generator(source), signature) if chance(source, 30) else None,
    )
