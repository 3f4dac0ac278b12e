"""One JAX primitive for each native kernel.

A kernel treats every leading dimension of its operands as batch, so vmap only adds a dimension and
a sharded batch never has to be merged with another axis. For a partitioner to keep the batch
sharded without communication, a custom call needs three things at once: the batch-partitionable
registration (see `ffi`), the attribute `num_batch_dims` and a Shardy rule. Kernels are primitives,
and not calls of `jax.ffi.ffi_call`, for these three, and for types that follow explicit sharding
and shard_map's varying axes.

Dimensions are written as one letter each: "TU" is an operand (..., T, U), "" one (...). A star, as
in "TU*", stands for any number of such operands, or results, one after the other.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from jax_rnnt._xla import ffi
from jax_rnnt._xla.derivatives import refuse_derivatives
from jax_rnnt._xla.dtypes import accumulator_dtype, bits_dtype, floats_dtype
from jax_rnnt._xla.overwriting import may_overwrite
from jax_rnnt._xla.residuals import from_bits
from jax_rnnt._xla.sharding import batch_spec, sharding_rule

KERNELS: dict[str, "Kernel"] = {}
Dims = str | Sequence[str | int]


class Kernel:
    """A native kernel as a primitive, with a fallback in jax.numpy for platforms without a kernel.

    Args:
        name: of the primitive, and stem of the custom call targets.
        operands: the dimensions of each operand behind the batch dimensions. One of them may end in
            a star.
        results: the dimensions of each result behind the batch dimensions: a string of letters and
            digits, one a dimension; a sequence of letters and numbers; or, for a result of one
            dimension, a function from the sizes by letter to its size. One of the strings may end
            in a star: there are as many of that result as of the operand with a star or, where no
            operand has one, as `repeats` says, an attribute that is only for this.
        result_dtype: "accumulator" or "operand": float32 or float64, or the first operand's own. A
            call with an attribute `dtype`, the name of one, has that in place of the operand's; the
            fallback takes the attribute, the handler does not.
        kept: indices of the results that only another kernel reads. They are unsigned integers as
            wide as the accumulator, so that debug_nans takes no unwritten memory for a NaN.
        accumulated: indices of the results that have the accumulator's dtype, whatever
            result_dtype is.
        integers: indices of the results that are int32.
        bits: indices of the float operands that may also be given as the integers of
            `residuals.to_bits`. As integers they show no NaN or inf to debugging options, even
            where each operation is a program of its own.
        fallback: the same function of the same operands and attributes in jax.numpy; None where
            every call insists on the kernel.
        overwrites: result 0 may be written over operand 0 (of the same shape), if it has its dtype.
        scratch: for each platform, the dimensions, as of results, of the buffers (of the
            accumulator's dtype) which its handler takes as further results; the primitive does not
            return them.
        platforms: the platforms that have the kernel.
    """

    def __init__(
        self,
        name: str,
        *,
        operands: Sequence[str],
        results: Sequence[Dims | Callable[[dict[str, int]], int]],
        result_dtype: str,
        kept: Sequence[int] = (),
        accumulated: Sequence[int] = (),
        integers: Sequence[int] = (),
        bits: Sequence[int] = (),
        overwrites: bool = False,
        fallback: Callable[..., Sequence[jax.Array]] | None = None,
        scratch: Mapping[str, Sequence[Dims | Callable[[dict[str, int]], int]]] | None = None,
        platforms: Sequence[str] = ("cpu", "cuda"),
    ):
        self.name, self.operands, self.results = name, tuple(operands), tuple(results)
        self.fallback = fallback
        self._result_dtype, self._kept, self._accumulated = result_dtype, kept, accumulated
        self._integers, self._bits = integers, frozenset(bits)
        self._scratch = scratch or {}
        self.platforms = tuple(platforms)
        self._primitive = self._make_primitive()
        by_platform = self._primitive
        if overwrites:
            # The rule of this primitive must see whose array an operand is, which a cached rule
            # does not. JAX 0.11 and newer take no uncached rules of several platforms at once: a
            # second primitive has the rules by platform.
            by_platform = self._by_platform = self._make_primitive()
            mlir.register_lowering(self._primitive, self._lower_overwriting, cacheable=False)
        mlir.register_lowering(by_platform, self._lower_fallback)
        for platform in self.platforms:
            rule = functools.partial(self._lower_native, platform, False)
            mlir.register_lowering(by_platform, rule, platform=platform)
        KERNELS[name] = self

    def __call__(self, *operands: jax.Array, insist: bool, **attributes: Any) -> list[jax.Array]:
        """The kernel's results for operands whose leading dimensions agree.

        Args:
            insist: raise NotImplementedError on a platform without the kernel.
            attributes: numbers and tuples of integers that the handler and the fallback take,
                `repeats` and `dtype`.
        """
        num_batch_dims = operands[0].ndim - len(self.operands[0].rstrip("*"))
        return self._primitive.bind(
            *operands, num_batch_dims=num_batch_dims, insist=insist, attributes=_freeze(attributes)
        )

    def _make_primitive(self) -> Primitive:
        primitive = Primitive(f"rnnt_{self.name}")
        primitive.multiple_results = True
        primitive.def_impl(functools.partial(run_eagerly, primitive))
        primitive.def_abstract_eval(self._abstract_eval)
        batching.primitive_batchers[primitive] = functools.partial(self._batch, primitive)
        ad.primitive_jvps[primitive] = refuse_derivatives
        return primitive

    def _abstract_eval(self, *operands, num_batch_dims, insist, attributes):
        del insist
        repeats = self._repeats(len(operands), attributes)
        own_operands = [dims for dims, _ in _expand(self.operands, repeats)]
        sizes: dict[str, int] = {}
        batch = operands[0].shape[:num_batch_dims]
        for operand, dims in zip(operands, own_operands, strict=True):
            wrong = (
                operand.ndim != num_batch_dims + len(dims)
                or operand.shape[:num_batch_dims] != batch
            )
            for dim, size in zip(dims, operand.shape[num_batch_dims:]):
                wrong |= sizes.setdefault(dim, size) != size
            if wrong:
                shapes = ", ".join(str(o.shape) for o in operands)
                raise ValueError(f"{self.name}: operands of shapes {shapes} do not fit together.")
        spec = batch_spec(self.name, operands, num_batch_dims)
        # The mesh of whichever operand is sharded; the first one's may be empty.
        sharded = (o for o in operands if any(axis is not None for axis in o.sharding.spec))
        sharding = next(sharded, operands[0]).sharding
        like = operands[0].update(sharding=sharding.update(spec=PartitionSpec()))
        return [
            self._aval(like, dims, dtype, sizes, num_batch_dims, spec)
            for dims, dtype in self._result_types(self._own_dtype(operands[0], attributes), repeats)
        ]

    def _repeats(self, count, attributes):
        """How often the operand or result with a star occurs in a call with `count` operands."""
        if any(dims.endswith("*") for dims in self.operands):
            return count - len(self.operands) + 1
        return dict(attributes).get("repeats", 1)

    def _own_dtype(self, first_operand, attributes):
        given = dict(attributes).get("dtype")
        if given is not None:
            return jnp.dtype(given)
        is_bits = 0 in self._bits and first_operand.dtype.kind == "u"
        return floats_dtype(first_operand.dtype) if is_bits else first_operand.dtype

    def _floats(self, ctx, values):
        """The avals and MLIR values of the operands, with those given as bits made floats."""
        avals, values = list(ctx.avals_in), list(values)
        expanded = _expand(self.operands, self._repeats(len(avals), ()))
        for i, (_, own_index) in enumerate(expanded):
            if own_index in self._bits and avals[i].dtype.kind == "u":
                floats = avals[i].update(dtype=floats_dtype(avals[i].dtype))
                lower = mlir.lower_fun(from_bits, multiple_results=True)
                own = ctx.replace(avals_in=[avals[i]], avals_out=[floats])
                avals[i], (values[i],) = floats, lower(own, values[i])
        return avals, values

    def _result_types(self, dtype, repeats, platform=""):
        accumulator = accumulator_dtype(dtype)
        own = accumulator if self._result_dtype == "accumulator" else dtype
        special = dict.fromkeys(self._kept, bits_dtype(accumulator))
        special |= dict.fromkeys(self._accumulated, accumulator)
        special |= dict.fromkeys(self._integers, np.dtype(np.int32))
        yield from ((dims, special.get(i, own)) for dims, i in _expand(self.results, repeats))
        yield from ((dims, accumulator) for dims in self._scratch.get(platform, ()))

    def _aval(self, like, dims, dtype, sizes, num_batch_dims, spec):
        own = (dims(sizes),) if callable(dims) else tuple(_size(dim, sizes) for dim in dims)
        shape = like.shape[:num_batch_dims] + own
        sharding = like.sharding.update(spec=PartitionSpec(*spec, *(None,) * len(own)))
        return like.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)

    def _batch(self, primitive, operands, batch_dims, **params):
        size = next(x.shape[d] for x, d in zip(operands, batch_dims) if d is not None)
        operands = [
            jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
            for x, d in zip(operands, batch_dims)
        ]
        params["num_batch_dims"] += 1
        results = primitive.bind(*operands, **params)
        return results, [0] * len(results)

    def _lower_fallback(self, ctx, *operands, num_batch_dims, insist, attributes):
        del num_batch_dims
        call = self.fallback
        platforms = ctx.platforms or ctx.module_context.platforms
        faults = [fault for platform in platforms if (fault := ffi.fault(platform))]
        if insist or call is None:
            missing = (
                f"jax_rnnt has no {self.name} kernel for {', '.join(platforms)} here; "
                "`python -m jax_rnnt` lists what there is."
            )
            raise NotImplementedError(f"implementation='native': {(*faults, missing)[0]}")
        for fault in faults:
            ffi.warn_once(fault)

        def fallback(*arrays):
            return list(call(*arrays, **_without(attributes, "repeats")))

        avals_in, operands = self._floats(ctx, operands)
        lower = mlir.lower_fun(fallback, multiple_results=True)
        return lower(ctx.replace(avals_in=avals_in), *operands)

    def _lower_overwriting(self, ctx, *operands, **params):
        platforms = ctx.platforms or ctx.module_context.platforms
        if len(platforms) == 1 and platforms[0] in self.platforms:
            overwrites = may_overwrite(operands[0], platforms[0], ctx.module_context.module)
            return self._lower_native(platforms[0], overwrites, ctx, *operands, **params)
        lower = mlir.lower_fun(self._by_platform.bind, multiple_results=True)
        return lower(ctx, *operands, **params)

    def _lower_native(
        self, platform, overwrites, ctx, *operands, num_batch_dims, insist, attributes
    ):
        if not ffi.register(platform):
            return self._lower_fallback(
                ctx,
                *operands,
                num_batch_dims=num_batch_dims,
                insist=insist,
                attributes=attributes,
            )
        avals_in, operands = self._floats(ctx, operands)
        like = avals_in[0]
        repeats = self._repeats(len(avals_in), attributes)
        own_operands = [dims for dims, _ in _expand(self.operands, repeats)]
        sizes = _sizes(avals_in, own_operands, num_batch_dims)
        own_dtype = self._own_dtype(like, attributes)
        types = list(self._result_types(own_dtype, repeats, platform))
        spec = (None,) * num_batch_dims
        results = [
            self._aval(like, dims, dtype, sizes, num_batch_dims, spec)
            for dims, dtype in types[len(ctx.avals_out) :]
        ]
        avals_out = [*ctx.avals_out, *results]
        extra = None
        static = all(isinstance(size, int) for aval in avals_in for size in aval.shape)
        if num_batch_dims and static:
            rule = sharding_rule(
                [(aval, dims) for aval, dims in zip(avals_in, own_operands)],
                [
                    (aval, (f"size{i}",) if callable(dims) else dims)
                    for i, (aval, (dims, _)) in enumerate(zip(avals_out, types))
                ],
                num_batch_dims,
            )
            extra = {
                "mhlo.frontend_attributes": mlir.ir_attribute(
                    {"num_batch_dims": str(num_batch_dims)}
                ),
                "sdy.sharding_rule": mlir.ir.Attribute.parse(rule),
            }
        lower = jax.ffi.ffi_lowering(
            ffi.target_name(self.name, platform),
            operand_output_aliases={0: 0} if overwrites and own_dtype == like.dtype else None,
            extra_attributes=extra,
        )
        own = ctx.replace(avals_in=avals_in, avals_out=avals_out)
        attributes = _without(attributes, "repeats", "dtype")
        values = lower(own, *operands, **{k: _array(x) for k, x in attributes.items()})
        return values[: len(ctx.avals_out)]


def run_eagerly(primitive: Primitive, *operands: jax.Array, **params: Any) -> list[jax.Array]:
    """The implementation of a primitive: its lowering, compiled."""
    with jax.disable_jit(False):
        return _jitted(primitive, _freeze(params))(*operands)


@functools.cache
def _jitted(primitive, params):
    def run(*operands):
        return primitive.bind(*operands, **dict(params))

    run.__name__ = primitive.name
    # As JAX marks its own, so that debug_nans does not re-run it op by op.
    run.__dict__["_apply_primitive"] = True
    return jax.jit(run)


def _expand(all_dims: Sequence, repeats: int) -> list[tuple[Any, int]]:
    """Dimensions without a star, each with the index of what it was written as."""
    expanded = []
    for i, dims in enumerate(all_dims):
        is_repeated = isinstance(dims, str) and dims.endswith("*")
        own = dims[:-1] if is_repeated else dims
        expanded += [(own, i)] * (repeats if is_repeated else 1)
    return expanded


def _without(attributes: tuple, *names: str) -> dict[str, Any]:
    return {key: value for key, value in attributes if key not in names}


def _array(attribute: Any) -> Any:
    """A tuple of integers as handlers take it, anything else as it is."""
    return np.asarray(attribute, np.int64) if isinstance(attribute, tuple) else attribute


def _freeze(params: dict) -> tuple:
    return tuple(sorted(params.items()))


def _size(dim: str | int, sizes: dict[str, int]) -> int:
    return sizes[dim] if dim in sizes else int(dim)


def _sizes(avals, operands, num_batch_dims) -> dict[str, int]:
    return {
        dim: size
        for aval, dims in zip(avals, operands)
        for dim, size in zip(dims, aval.shape[num_batch_dims:])
    }
