"""Functions of a batch that are computed on each device's own part of it.

A loop over tiles of all sequences is opaque to a partitioner: it would gather the batch first. Here
one function says it for every way in which JAX spreads a batch: sharded jit on Auto axes
(custom_partitioning), on Explicit axes (shard_map), shard_map and pmap (already a part), and vmap.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_rnnt._xla.derivatives import refuse_derivatives
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
            result_kinds has. Its WHOLE results are sums over the batch.
        operands: a BATCH operand has num_batch_dims leading dimensions, a WHOLE one none.
        kinds: BATCH or WHOLE, of each operand.
        result_kinds: the same of each result.
        num_batch_dims: how many.
    """
    call = _vmappable(function, tuple(kinds), tuple(result_kinds), num_batch_dims)
    return call(*operands)


@functools.lru_cache(maxsize=256)  # an entry keeps its function alive
def _vmappable(function, kinds, result_kinds, num_batch_dims):
    run = _partitioned(function, kinds, result_kinds, num_batch_dims)
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
    """One entry after the other, as sums over the batch are wanted of each apart."""

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


def _partitioned(function, kinds, result_kinds, num_batch_dims):
    def flat(*operands):
        """function, its batch dimensions being one."""
        batch = next(x for x, kind in zip(operands, kinds) if kind == BATCH)
        batch = batch.shape[:num_batch_dims]
        operands = [
            x if kind == WHOLE else x.reshape(-1, *x.shape[num_batch_dims:])
            for x, kind in zip(operands, kinds)
        ]
        return [
            x if kind == WHOLE else x.reshape(*batch, *x.shape[1:])
            for x, kind in zip(function(*operands), result_kinds)
        ]

    if not num_batch_dims:
        return flat

    def specs(batch, of_kinds):
        whole = P()
        return tuple(P(*batch) if kind == BATCH else whole for kind in of_kinds)

    def local(batch, *operands):
        """One device's part; `batch`, the mesh axes of each batch dimension."""
        axes = tuple(a for axis in batch for a in (axis if isinstance(axis, tuple) else (axis,)))
        axes = tuple(axis for axis in axes if axis is not None)
        results = flat(*operands)
        if not axes:
            return results
        return [
            jax.lax.psum(x, axes) if kind == WHOLE else x for x, kind in zip(results, result_kinds)
        ]

    automatic = custom_partitioning(flat)

    def partition(mesh, shapes, result_shapes):
        first = kinds.index(BATCH)
        batch = tuple(shapes[first].sharding.spec)[:num_batch_dims]
        batch += (None,) * (num_batch_dims - len(batch))
        shardings = [
            tuple(NamedSharding(mesh, spec) for spec in specs(batch, k))
            for k in (kinds, result_kinds)
        ]

        def lower(*operands):
            # What is within one device has no shardings, though the caller's axes be Explicit.
            with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
                return local(batch, *operands)

        return mesh, lower, list(shardings[1]), shardings[0]

    def rule(mesh, operand_types, result_types):
        del mesh
        return _sharding_rule(operand_types, result_types, kinds, result_kinds, num_batch_dims)

    automatic.def_partition(partition, sharding_rule=rule)

    def run(*operands):
        is_manual = jax.sharding.get_abstract_mesh().manual_axes
        if is_manual or any(varying_axes(x) for x in operands):
            return flat(*vary_alike(*operands))
        found = _explicit_batch(operands, kinds, num_batch_dims)
        if found is None:
            return list(automatic(*operands))
        mesh, batch = found
        operands = _reshard(operands, mesh, specs(batch, kinds))
        if all(axis is None for axis in batch):
            return list(automatic(*operands))
        return jax.shard_map(
            functools.partial(local, batch),
            mesh=mesh,
            in_specs=specs(batch, kinds),
            out_specs=list(specs(batch, result_kinds)),
        )(*operands)

    return run


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
    return _reshard(operands, mesh, [P(*batch) if kind == BATCH else P() for kind in kinds])


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
    return mesh, batch_spec("rnnt_loss_from_joint", batched, num_batch_dims)


def _reshard(operands, mesh, specs):
    return [jax.sharding.reshard(x, NamedSharding(mesh, spec)) for x, spec in zip(operands, specs)]


def _sharding_rule(operand_types, result_types, kinds, result_kinds, num_batch_dims):
    """Batch dimensions may be sharded alike everywhere, all others are whole."""
    batch = [f"batch{i}" for i in range(num_batch_dims)]
    whole: list[str] = []

    def tensor(tensor_type, kind):
        own = len(batch) if kind == BATCH else 0
        start = len(whole)
        whole.extend(f"whole{start + i}" for i in range(tensor_type.rank - own))
        return " ".join(batch[:own] + whole[start:])

    left, right = (
        ", ".join(map(tensor, types, of_kinds))
        for types, of_kinds in ((operand_types, kinds), (result_types, result_kinds))
    )
    return f"{left} -> {right}", {"need_replication_factors": tuple(whole)}
