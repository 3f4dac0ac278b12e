"""Functions of a batch that are computed on each device's own part of it.

A loop over tiles of all sequences is opaque to a partitioner: it would gather the batch first. Here
one function says it for every way in which JAX spreads a batch: sharded jit on Auto axes (parts),
on Explicit axes (shard_map), shard_map and pmap (already a part), and vmap.

On Auto axes only XLA's partitioner learns how the batch is spread, after this function is lowered.
So the batch is cut into parts, and the function is mapped over them: the part is then a leading
dimension of every array and any partitioner leaves it where it is. A dimension that is spread
evenly has a number of shards that divides its size and the number of devices, hence their greatest
common divisor, which is the number of parts. One device has one part.
`jax.experimental.custom_partitioning`, which learns the sharding, was tried first: it writes an
address into the program, whose key in the persistent compilation cache is then a new one in every
process, it has no serial form, under GSPMD it ended the process, and on several TPUs it is reported
not to compile.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_rnnt._xla.derivatives import refuse_derivatives
from jax_rnnt._xla.primitive import run_eagerly
from jax_rnnt._xla.sharding import batch_spec, vary_alike, varying_axes

BATCH, WHOLE = "batch", "whole"


def per_shard(
    function: Callable[..., Sequence[jax.Array]],
    *operands: jax.Array,
    kinds: Sequence[str],
    result_kinds: Sequence[str],
    num_batch_dims: int,
) -> list[jax.Array]:
    """function(*operands) with every BATCH operand and result staying on its devices.

    Args:
        function: hashable, of operands whose batch dimensions are one; returns as many results as
            result_kinds has. Its WHOLE results are sums over the batch. The keyword argument
            `parts` names the axes over which it is mapped, none where it is not: one loop runs for
            all parts, so its number of steps must be the largest of any (`jax.lax.pmax`).
        operands: a BATCH operand has num_batch_dims leading dimensions, a WHOLE one none.
        kinds: BATCH or WHOLE, of each operand.
        result_kinds: the same of each result.
        num_batch_dims: how many.
    """
    call = _vmappable(function, tuple(kinds), tuple(result_kinds), num_batch_dims)
    return call(*operands)


@functools.lru_cache(maxsize=256)  # an entry keeps its function alive
def _vmappable(function, kinds, result_kinds, num_batch_dims):
    run = _per_shard(function, kinds, result_kinds, num_batch_dims)
    call = custom_vmap(run)

    @call.def_vmap
    def rule(size, mapped, *operands):
        shares = not any(m for m, kind in zip(mapped, kinds) if kind == WHOLE)
        if shares and WHOLE not in result_kinds:
            operands = [
                x if m or kind == WHOLE else jnp.broadcast_to(x, (size, *x.shape))
                for x, m, kind in zip(operands, mapped, kinds)
            ]
            wider = _vmappable(function, kinds, result_kinds, num_batch_dims + 1)
            results = wider(*operands)
        else:
            results = _each_entry(call, mapped, operands, len(result_kinds))
        return results, [True] * len(results)

    guarded = jax.custom_jvp(call)
    guarded.defjvp(refuse_derivatives)
    return guarded


def _each_entry(call, mapped, operands, result_count):
    """The entries one after the other, as each has sums over its batch of its own."""

    def run(*operands):
        def one(entry):
            every = iter(entry)
            return call(*(next(every) if m else x for x, m in zip(operands, mapped)))

        return jax.lax.map(one, [x for x, m in zip(operands, mapped) if m])

    sharded = [jax.typeof(x).sharding for x, m in zip(operands, mapped) if m]
    sharded = [sharding for sharding in sharded if sharding.spec and sharding.spec[0] is not None]
    if not sharded or jax.sharding.get_abstract_mesh().manual_axes:
        return run(*operands)
    mesh, entries = sharded[0].mesh, P(sharded[0].spec[0])
    specs = tuple(entries if m else P() for m in mapped)
    spread = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=[entries] * result_count)
    return spread(*_reshard(operands, mesh, specs))


def _per_shard(function, kinds, result_kinds, num_batch_dims):
    flat = _flat(function, kinds, result_kinds, num_batch_dims)
    if not num_batch_dims:
        return flat

    def run(*operands):
        is_manual = jax.sharding.get_abstract_mesh().manual_axes
        if is_manual or any(varying_axes(x) for x in operands):
            return flat(*vary_alike(*operands))
        found = _explicit_batch(operands, kinds, num_batch_dims)
        if found is not None:
            mesh, batch = found
            operands = _reshard(operands, mesh, _specs(batch, kinds))
            if axes := _axes(batch):
                return jax.shard_map(
                    functools.partial(_local, flat, result_kinds, axes, ()),
                    mesh=mesh,
                    in_specs=_specs(batch, kinds),
                    out_specs=list(_specs(batch, result_kinds)),
                )(*operands)
        return _in_parts.bind(
            *operands,
            function=function,
            kinds=kinds,
            result_kinds=result_kinds,
            num_batch_dims=num_batch_dims,
        )

    return run


def _specs(batch, kinds):
    return tuple(P(*batch) if kind == BATCH else P() for kind in kinds)


def _axes(batch):
    """The mesh axes of the batch dimensions, in one tuple."""
    axes = (axis if isinstance(axis, tuple) else (axis,) for axis in batch)
    return tuple(axis for each in axes for axis in each if axis is not None)


def _local(function, result_kinds, axes, parts, *operands):
    """function of one part, what is summed over the batch being summed over these axes."""
    results = function(*operands, parts=parts)
    if not axes:
        return results
    return [jax.lax.psum(x, axes) if kind == WHOLE else x for x, kind in zip(results, result_kinds)]


def _flat(function, kinds, result_kinds, num_batch_dims):
    """function, of operands of num_batch_dims batch dimensions."""

    def flat(*operands, parts=()):
        batch = next(x for x, kind in zip(operands, kinds) if kind == BATCH)
        batch = batch.shape[:num_batch_dims]
        operands = [
            x if kind == WHOLE else x.reshape(-1, *x.shape[num_batch_dims:])
            for x, kind in zip(operands, kinds)
        ]
        return [
            x if kind == WHOLE else x.reshape(*batch, *x.shape[1:])
            for x, kind in zip(function(*operands, parts=parts), result_kinds)
        ]

    return flat


def _in_parts_abstract(*operands, function, kinds, result_kinds, num_batch_dims):
    flat = _flat(function, kinds, result_kinds, num_batch_dims)
    types = jax.eval_shape(flat, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands))
    return [
        operands[0].update(shape=x.shape, dtype=x.dtype, weak_type=False, sharding=x.sharding)
        for x in types
    ]


def _in_parts_lowering(ctx, *values, function, kinds, result_kinds, num_batch_dims):
    batch = ctx.avals_in[kinds.index(BATCH)].shape[:num_batch_dims]
    devices = _device_count(ctx)
    counts = {dim: math.gcd(size, devices) for dim, size in enumerate(batch)}
    parts = {dim: f"jax_rnnt_part_{dim}" for dim, count in counts.items() if count > 1}
    flat = _flat(function, kinds, result_kinds, num_batch_dims)
    run = functools.partial(
        _local, flat, result_kinds, tuple(parts.values()), tuple(parts.values())
    )
    for dim, name in parts.items():
        run = _cut(run, dim, counts[dim], name, kinds, result_kinds)
    return mlir.lower_fun(run, multiple_results=True)(ctx, *values)


def _device_count(ctx):
    """The number of devices over which the batch may be spread."""
    meshes = [x.sharding.mesh for x in ctx.avals_in]
    if any(set(mesh.axis_types) == {AxisType.Explicit} for mesh in meshes):
        return 1  # Explicit axes have said that it is not.
    # The program of one device among several, as pmap's, has no such number.
    return max(getattr(ctx.module_context.axis_context, "num_devices", 1), 1)


def _cut(function, dim, count, name, kinds, result_kinds):
    """function, mapped over so many parts of a batch dimension."""
    in_axes, out_axes = ([dim if k == BATCH else None for k in ks] for ks in (kinds, result_kinds))
    mapped = jax.vmap(function, in_axes, out_axes, axis_name=name)

    def run(*operands):
        cut = [x if kind == WHOLE else _split(x, dim, count) for x, kind in zip(operands, kinds)]
        return [
            x if kind == WHOLE else _joined(x, dim) for x, kind in zip(mapped(*cut), result_kinds)
        ]

    return run


def _split(x, dim, count):
    return x.reshape(*x.shape[:dim], count, x.shape[dim] // count, *x.shape[dim + 1 :])


def _joined(x, dim):
    return x.reshape(*x.shape[:dim], x.shape[dim] * x.shape[dim + 1], *x.shape[dim + 2 :])


_in_parts = Primitive("rnnt_in_parts")
_in_parts.multiple_results = True
_in_parts.def_impl(functools.partial(run_eagerly, _in_parts))
_in_parts.def_abstract_eval(_in_parts_abstract)
mlir.register_lowering(_in_parts, _in_parts_lowering)


def spread_alike(
    *operands: jax.Array, kinds: Sequence[str], num_batch_dims: int
) -> Sequence[jax.Array]:
    """The operands as per_shard takes them on Explicit axes: each of its kind, spread alike.

    Outside a custom_vjp function, so that gradients come back as each operand was.
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        return operands
    found = _explicit_batch(operands, kinds, num_batch_dims)
    if found is None:
        return operands
    mesh, batch = found
    return _reshard(operands, mesh, _specs(batch, kinds))


def _explicit_batch(operands, kinds, num_batch_dims):
    """The mesh and the Explicit axes of the batch dimensions; None where none is of any operand."""
    types = [jax.typeof(x) for x in operands]
    mesh = next((x.sharding.mesh for x in types if any(x.sharding.spec)), None)
    if mesh is None:
        return None
    batched = [
        x.update(sharding=x.sharding.update(spec=P(*tuple(x.sharding.spec)[:num_batch_dims])))
        for x, kind in zip(types, kinds)
        if kind == BATCH
    ]
    return mesh, batch_spec("a loss from a joint", batched, num_batch_dims)


def _reshard(operands, mesh, specs):
    return [jax.sharding.reshard(x, NamedSharding(mesh, spec)) for x, spec in zip(operands, specs)]
