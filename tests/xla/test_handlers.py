"""The native handlers called by themselves, with buffers that fit and with buffers that do not.

Python never passes them the latter, so they are asked directly. Each call must end in XLA's error,
and in nothing else: a handler that believed what it was told would read or write out of bounds.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import HAS_NATIVE, PLATFORM, needs_native

from jax_rnnt._xla import ffi
from jax_rnnt.rows import joint_fused

pytestmark = needs_native

N, T, U, S, R, C, V, H = 3, 4, 3, 20, 4, 3, 6, 16
F32, BITS, I32 = "float32", "uint32", "int32"
ENTRIES: tuple[tuple[str, Any], ...] = (
    ("blank", np.int64(1)),
    ("tokens", np.int64(V - 1)),
    ("without_blank", np.int64(1)),
    ("without_label", np.int64(0)),
    ("picks", np.array([V - 1, 0])),
)


class Buffer(NamedTuple):
    shape: tuple[int, ...]
    dtype: str

    def zeros(self) -> np.ndarray:
        return np.zeros(self.shape, jnp.dtype(self.dtype))

    @property
    def aval(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, jnp.dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class Call:
    """One handler's operands, results and attributes."""

    operands: tuple[Buffer, ...]
    results: tuple[Buffer, ...]
    attributes: tuple[tuple[str, Any], ...] = ()

    def run(self, name: str) -> list[np.ndarray]:
        ffi.register(PLATFORM)
        target = ffi.target_name(name, PLATFORM)
        call = jax.ffi.ffi_call(target, [b.aval for b in self.results])
        run = jax.jit(lambda *operands: call(*operands, **dict(self.attributes)))
        return list(map(np.asarray, run(*(b.zeros() for b in self.operands))))


def _rows(kernel: str) -> dict[str, Call]:
    """The calls of a row kernel, forward and backward, with labels by row and by column."""
    attributes = ENTRIES if kernel == "entries" else ENTRIES[:1]
    results, cotangents = {"pick": (4, 2), "entries": (6, 5)}[kernel]
    found = {}
    for suffix, batch, labels in (
        ("", (N,), (Buffer((N,), I32),)),
        ("_columns", (N, R, C), (Buffer((N, C), I32), Buffer((N,), I32))),
    ):
        rows, one_a_row = Buffer((*batch, V), F32), Buffer(batch, F32)
        backward = (rows, *labels, *(one_a_row,) * (2 + cotangents))
        found |= {
            f"{kernel}_forward{suffix}": Call((rows, *labels), (one_a_row,) * results, attributes),
            f"{kernel}_backward{suffix}": Call(backward, (rows,), attributes),
        }
    return found


def _biased() -> dict[str, Call]:
    """Rows with labels by column and a bias for all, whose gradient has two parts of 32 rows."""
    rows, one_a_row, bias = Buffer((N, R, C, V), F32), Buffer((N, R, C), F32), Buffer((V,), F32)
    operands = (rows, Buffer((N, C), I32), Buffer((N,), I32), bias)
    attributes = _rows("entries")["entries_forward"].attributes
    return {
        "entries_forward_biased": Call(operands, (one_a_row,) * 6, attributes),
        "entries_backward_biased": Call(
            (*operands, *(one_a_row,) * 8), (rows, Buffer((N, 2 * V // N), F32)), attributes
        ),
    }


def _scratch(kind: str, cells: tuple[int, ...]) -> tuple[Buffer, ...]:
    """The buffers that CUDA's handlers of lattices write to on their way."""
    alphas, one_a_sequence = Buffer((*cells, 2), F32), Buffer((N, 2), F32)
    scratch = {"cost": (alphas, one_a_sequence, one_a_sequence), "forward": (one_a_sequence,)}
    return scratch.get(kind, ()) if PLATFORM == "cuda" else ()


def _lattice(kind: str, compact: bool) -> Call:
    cells = (S,) if compact else (N, T, U)
    batch = (N,)
    arcs, lengths, costs = Buffer(cells, F32), Buffer(batch, I32), Buffer(batch, F32)
    kept, totals = Buffer((*cells, 4), BITS), Buffer((*batch, 2), BITS)
    operands = (arcs, arcs, lengths, lengths) + ((lengths,) if compact else ())
    more = {
        "cost": ((), (costs,)),
        "forward": ((), (costs, kept, totals)),
        "backward": ((kept, totals, costs), (arcs, arcs)),
    }
    extra, results = more[kind]
    results += _scratch(kind, cells)
    attributes = (("max_labels", np.int64(U - 1)),) if compact else ()
    return Call((*operands, *extra), results, attributes)


def _arcs(kind: str, compact: bool) -> Call:
    """Arcs (1, 0), (2, 0), (0, 1) and (1, 1), with initial and final where they may be given."""
    cells, batch = ((S,) if compact else (N, T, U)), (N,)
    arc, lengths, costs = Buffer(cells, F32), Buffer(batch, I32), Buffer(batch, F32)
    arcs, end = (arc,) * 4, Buffer((0,) if compact else (N, T + 1), F32)
    kept, totals = Buffer((*cells, 4), BITS), Buffer((*batch, 2), BITS)
    operands = (*arcs, lengths, lengths) + ((lengths,) if compact else ()) + (end, end)
    more = {
        "cost": ((), (costs,)),
        "forward": ((), (costs, kept, totals)),
        "backward": ((kept, totals, costs), (end, end, *arcs)),
    }
    extra, results = more[kind]
    results += _scratch(kind, cells)
    own = {"dt": (1, 2, 0, 1), "du": (0, 0, 1, 1), "last": (1, 1, 1, 0)}
    attributes = tuple((name, np.array(x, np.int64)) for name, x in own.items())
    attributes += (("max_labels", np.int64(U - 1)),) if compact else ()
    return Call((*operands, *extra), results, attributes)


def _align(compact: bool) -> dict[str, Call]:
    """The walk and the trace of best paths."""
    cells, batch = ((S,) if compact else (N, T, U)), (N,)
    arcs, lengths = Buffer(cells, F32), (Buffer(batch, I32),) * (3 if compact else 2)
    scores, words = Buffer((N, U, 2), BITS), Buffer((N, U), I32)  # fewer than 32 frames
    if compact:
        words = Buffer((S // 32 + N * (U + 1),), I32)
    between = Buffer((2 * (S // 32 + 1),) if compact else (N, T, 2), F32)
    scratch = (between,) if PLATFORM == "cuda" else ()
    attributes = (("max_labels", np.int64(U - 1)),) if compact else ()
    walk = Call((arcs, arcs, *lengths, scores), (scores, words, *scratch), attributes)
    results = Buffer(batch, F32), Buffer((N, U), I32)
    trace = Call((Buffer((N, U, 2), F32), words, *lengths), results)
    suffix = "_compact" * compact
    return {f"lattice_align{suffix}": walk, f"lattice_trace{suffix}": trace}


def _joint() -> dict[str, Call]:
    """CUDA's alone; 16 x 8 cells to a tile, of which R are listed."""
    # The handlers' checks are of any capability.
    capability = joint_fused.capability() or 80
    module = ffi.native_module("cuda")
    kernel_bytes, bias_bytes = module.joint_packed_sizes(capability, H, V)
    bias_parts = Buffer((R, module.joint_bias_parts(capability), V), F32)
    packed = Buffer((kernel_bytes // 4,), BITS), Buffer((bias_bytes // 4,), BITS)
    half, cells = "bfloat16", Buffer((N, T, U), F32)
    sides = Buffer((N, T, H), half), Buffer((N, U, H), half)
    kernel, labels = Buffer((H, V), half), (Buffer((N, U), I32), Buffer((N,), I32))
    tiles, places = Buffer((R,), I32), (Buffer((N,), I32), Buffer((2,), I32))
    own = (("capability", np.int64(capability)),)
    network = (("activation", "tanh"), ("dropout", np.int64(100)))
    options = (*own, *network, *ENTRIES)
    joint = (*sides, kernel, *packed, *labels, *places)
    return {
        "joint_pack": Call((kernel, Buffer((V,), half)), packed, own),
        "joint_forward": Call(joint, (cells,) * 6, options),
        "joint_gradients": Call(
            (*joint, tiles, Buffer((N,), F32), *(cells,) * 7),
            (Buffer((R, 16, 8, H), half), Buffer((R, 16, 8, V), half), bias_parts),
            options,
        ),
        "joint_hidden": Call(
            (Buffer((R, 16, 8, H), half), *sides, *labels, tiles, *places),
            (Buffer((R, 16, H), F32), Buffer((R, 8, H), F32)),
            (*network, ("symbols", np.int64(V - 1))),
        ),
        "add_blocks": Call(
            (Buffer((N, H), F32), Buffer((R,), I32), Buffer((R, H), F32)), (Buffer((N, H), F32),)
        ),
    }


@functools.cache
def calls() -> dict[str, Call]:
    """A call that fits for each handler."""
    found = _rows("pick") | _rows("entries") | _biased()
    for kind, compact in itertools.product(("cost", "forward", "backward"), (False, True)):
        found[f"lattice_{kind}" + "_compact" * compact] = _lattice(kind, compact)
        found[f"arcs_{kind}" + "_compact" * compact] = _arcs(kind, compact)
    found |= _align(compact=False) | _align(compact=True)
    return found | (_joint() if PLATFORM == "cuda" else {})


NAMES = sorted(ffi.native_module(PLATFORM).registrations()) if HAS_NATIVE else []
each_handler = pytest.mark.parametrize("name", NAMES)
FUSED = ("joint_pack", "joint_forward", "joint_gradients")


def _runs(name: str) -> bool:
    """Whether this machine has the handler's kernel."""
    return name not in FUSED or joint_fused.capability() is not None


def test_every_handler_is_here():
    assert set(calls()) == set(NAMES)


@each_handler
def test_what_fits_runs(name):
    if not _runs(name):
        pytest.skip("no GPU of 8.0 or later")
    for result, buffer in zip(calls()[name].run(name), calls()[name].results, strict=True):
        assert result.shape == buffer.shape


def _replaced(buffers: tuple[Buffer, ...], i: int, *new: Buffer) -> tuple[Buffer, ...]:
    return (*buffers[:i], *new, *buffers[i + 1 :])


def _wrong_counts(call: Call) -> Iterator[tuple[str, Call]]:
    for field in ("operands", "results"):
        buffers = getattr(call, field)
        if len(buffers) > 1:  # a call without results is no call
            yield f"one of the {field} less", dataclasses.replace(call, **{field: buffers[:-1]})
        more = (*buffers, buffers[-1])
        yield f"one of the {field} more", dataclasses.replace(call, **{field: more})
    yield "no operands", dataclasses.replace(call, operands=())


def _wrong_dtypes(call: Call) -> Iterator[tuple[str, Call]]:
    for field in ("operands", "results"):
        buffers = getattr(call, field)
        for i, buffer in enumerate(buffers):
            for dtype in ("int8", "complex64", "float32", "uint32"):
                if dtype != buffer.dtype:
                    new = _replaced(buffers, i, buffer._replace(dtype=dtype))
                    yield f"{field}[{i}] of {dtype}", dataclasses.replace(call, **{field: new})


def _wrong_sizes(call: Call) -> Iterator[tuple[str, Call]]:
    for field in ("operands", "results"):
        buffers = getattr(call, field)
        for i, buffer in enumerate(buffers):
            larger = (buffer.shape[0] + 1, *buffer.shape[1:])
            for shape in (larger, (buffer.shape[0] - 1, *buffer.shape[1:]), (0,), ()):
                if -1 in shape or shape == buffer.shape:
                    continue
                new = _replaced(buffers, i, buffer._replace(shape=shape))
                if field == "results" and len(new) == 1 and 0 in shape:
                    continue  # XLA drops a call whose results have no elements
                yield f"{field}[{i}] {shape}", dataclasses.replace(call, **{field: new})


def _wrong_attributes(call: Call) -> Iterator[tuple[str, Call]]:
    for i, (name, value) in enumerate(call.attributes):
        others = call.attributes[:i] + call.attributes[i + 1 :]
        yield f"no {name}", dataclasses.replace(call, attributes=others)
        wrong: list[Any] = [np.float32(1), np.int32(1), True, np.zeros(3, np.int64)]
        wrong += ["softmax", ""] if isinstance(value, str) else ["tanh", np.int64(-1)]
        if name == "blank":
            wrong += [np.int64(V), np.int64(2**40)]
        if name == "tokens":
            wrong += [np.int64(0), np.int64(1), np.int64(V + 1), np.int64(2**40)]
        if name.startswith("without"):
            wrong += [np.int64(2), np.int64(2**32)]
        if name == "picks":
            wrong += [np.array(x) for x in ([], [0], [0, V], [-1, 0], [0, 2**32])]
            wrong += [np.zeros(2, np.int32), np.zeros(2)]
        if name == "symbols":
            wrong += [np.int64(0), np.int64(2**31)]
        if name == "max_labels":
            wrong += [np.int64(-(2**63))]
        if isinstance(value, np.ndarray):
            wrong += [value.astype(np.int32), value[:-1], value + 8, -value]
            wrong += [] if name in ("last", "picks") else [value[::-1].copy()]
            wrong += [np.array([2**40, *value[1:]]), np.zeros(0, np.int64)]
        for new in wrong:
            changed = (*others, (name, new))
            yield f"{name} of {new!r}", dataclasses.replace(call, attributes=changed)
    if call.attributes:  # XLA does not count them where a handler takes none
        more = (*call.attributes, ("other", np.int64(1)))
        yield "one attribute more", dataclasses.replace(call, attributes=more)


def is_refused(name: str, call: Call) -> bool:
    try:
        call.run(name)
    except jax.errors.JaxRuntimeError:
        return True
    return False


@each_handler
@pytest.mark.parametrize(
    "wrong",
    [_wrong_counts, _wrong_dtypes, _wrong_sizes, _wrong_attributes],
    ids=["count", "dtype", "size", "attribute"],
)
def test_what_does_not_fit_is_refused(name, wrong):
    taken = [
        what
        for what, call in wrong(calls()[name])
        if not _fits_all_the_same(name, call) and not is_refused(name, call)
    ]
    assert not taken


def _fits_all_the_same(name: str, call: Call) -> bool:
    """A packed kernel's H is rounded up: its neighbours have the same packed sizes.

    A packed trace knows no number of cells, and looks at no word that is not there.
    """
    fits = calls()[name]
    if name == "lattice_trace_compact" and len(call.operands) == len(fits.operands):
        _, words, *_ = call.operands
        own = dataclasses.replace(call, operands=_replaced(call.operands, 1, fits.operands[1]))
        return own == fits and words.dtype == I32 and len(words.shape) == 1
    is_other = call.operands != fits.operands and call.operands[1:] == fits.operands[1:]
    if name != "joint_pack" or not is_other:
        return False
    kernel, _ = call.operands
    capability = joint_fused.capability() or 80
    sizes = functools.partial(ffi.native_module("cuda").joint_packed_sizes, capability)
    return (
        call.results == fits.results
        and kernel.dtype == fits.operands[0].dtype
        and kernel.shape[1:] == (V,)
        and sizes(*kernel.shape) == sizes(H, V)
    )


@pytest.mark.parametrize("name", ["entries_forward", "entries_backward"])
@pytest.mark.parametrize("count", [0, 1, 16, 17])
def test_number_of_picks(name, count):
    call = calls()[name]
    picks = dict(call.attributes) | {"picks": np.arange(count, dtype=np.int64) % V}
    more = (Buffer((N,), F32),) * count
    call = dataclasses.replace(
        call,
        operands=call.operands if "forward" in name else (*call.operands[:-2], *more),
        results=call.results if "backward" in name else (*call.results[:-2], *more),
        attributes=tuple(picks.items()),
    )
    assert is_refused(name, call) == (count > 16)


def test_arcs_must_be_short_and_ascending():
    fits = calls()["arcs_cost"]

    def refused(*arcs: tuple[int, int]) -> bool:
        own = zip(("dt", "du"), np.array(arcs, np.int64).T.copy(), strict=True)
        attributes = (*own, ("last", np.ones(len(arcs), np.int64)))
        operands = (fits.operands[0],) * len(arcs) + fits.operands[4:]
        return is_refused(
            "arcs_cost", dataclasses.replace(fits, operands=operands, attributes=attributes)
        )

    most = [(dt, du) for du in (0, 1) for dt in range(9) if dt + du]
    assert not refused(*most)
    assert not refused((0, 1))
    assert refused(*most, (9, 1))
    assert refused((9, 0), (0, 1))
    assert refused((1, 0), (0, 2))
    assert refused((0, 0), (0, 1))
    assert refused((-1, 1), (0, 1))
    assert refused((1, 0), (1, 0))
    assert refused((0, 1), (1, 0))


@pytest.mark.parametrize("lattice", ["lattice", "arcs"])
@pytest.mark.parametrize("kind", ["cost", "forward", "backward"])
@pytest.mark.parametrize(
    ("arcs", "lengths"),
    [((2, S), (3, N)), ((1, S), (2, N)), ((3, S), (2, N)), ((S,), (2, N)), ((S,), (2 * N,))],
)
def test_packed_groups_must_be_as_many_as_groups_of_lengths(lattice, kind, arcs, lengths):
    """All sizes agree with one another but for the number of groups."""
    name = f"{lattice}_{kind}_compact"
    call = calls()[name]

    def resized(buffer: Buffer) -> Buffer:
        shape = {S: arcs, N: lengths, 0: (*lengths[:-1], 0)}[buffer.shape[0]]
        return buffer._replace(shape=(*shape, *buffer.shape[1:]))

    call = dataclasses.replace(
        call,
        operands=tuple(map(resized, call.operands)),
        results=tuple(map(resized, call.results)),
    )
    if arcs == (S,) and len(lengths) == 1:
        call.run(name)  # one group of six
    else:
        assert is_refused(name, call)


@pytest.mark.parametrize("name", [n for n in NAMES if "joint" not in n and n != "add_blocks"])
@pytest.mark.parametrize("size", [2**31, 2**40, 2**62])
def test_sizes_whose_product_overflows(name, size):
    """Arrays without an element, all of whose other dimensions are beyond 32 bits."""
    call = calls()[name]

    def grown(buffer: Buffer) -> Buffer:
        more = len(buffer.shape) - 1
        return buffer._replace(shape=(0, *(size,) * more)) if more else buffer

    operands = tuple(map(grown, call.operands))
    if operands == call.operands:
        pytest.skip("all of one dimension")
    changed = dataclasses.replace(call, operands=operands)
    try:
        changed.run(name)
    except (jax.errors.JaxRuntimeError, ValueError, TypeError, OverflowError):
        return  # JAX may refuse such an array by itself
    pytest.fail(f"{name} took arrays of no rows for {N} sequences")


@each_handler
def test_nothing_to_do(name):
    """No sequences, no rows: nothing is refused and nothing is touched."""
    if not _runs(name) or name in ("joint_pack", "joint_gradients", "joint_hidden"):
        pytest.skip("a joint has no empty form")
    call = calls()[name]

    def emptied(buffer: Buffer) -> Buffer:
        if buffer.shape[0] not in (N, R):
            return buffer
        return buffer._replace(shape=(0, *buffer.shape[1:]))

    changed = dataclasses.replace(
        call,
        operands=tuple(map(emptied, call.operands)),
        results=tuple(map(emptied, call.results)),
    )
    for result, buffer in zip(changed.run(name), changed.results, strict=True):
        assert result.shape == buffer.shape
        if name.endswith("_backward_compact"):
            assert not result.any()
