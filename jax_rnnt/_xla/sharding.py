"""How operands and results are sharded: in batch dimensions only, and all of them alike."""

import jax


def batch_spec(name, operands, num_batch_dims) -> tuple:
    """The explicit sharding of the batch dimensions, from whichever operand has one."""
    spec: list = [None] * num_batch_dims
    for operand in operands:
        own = tuple(operand.sharding.spec)
        own += (None,) * (operand.ndim - len(own))
        if any(axis is not None for axis in own[num_batch_dims:]):
            raise ValueError(
                f"{name}: an operand of shape {operand.shape} is sharded as "
                f"{operand.sharding.spec}; only its first {num_batch_dims} dimensions may be: "
                "reshard it first (jax.sharding.reshard)."
            )
        for dim, axis in enumerate(own[:num_batch_dims]):
            if axis is not None and spec[dim] not in (None, axis):
                raise ValueError(
                    f"{name}: operands are sharded over different mesh axes in dimension {dim}: "
                    f"{spec[dim]} and {axis}; reshard one of them first (jax.sharding.reshard)."
                )
            spec[dim] = spec[dim] if axis is None else axis
    return tuple(spec)


def sharding_rule(operands, results, num_batch_dims) -> str:
    """The Shardy rule: batch dimensions are sharded alike in all arrays, all others are whole."""
    names: dict[str, str] = {}
    sizes: dict[str, int] = {}

    def factor(key: str, size: int) -> str:
        # Shardy's own names of factors, in order: i, j, ..., z, z_1, z_2, ...
        index = len(names)
        name = names.setdefault(key, chr(ord("i") + index) if index < 18 else f"z_{index - 17}")
        sizes[name] = size
        return name

    def tensor(aval, dims) -> str:
        keys = [*(f"batch{i}" for i in range(num_batch_dims)), *map(str, dims)]
        return "[" + ", ".join(factor(k, s) for k, s in zip(keys, aval.shape, strict=True)) + "]"

    left = ", ".join(tensor(*operand) for operand in operands)
    right = ", ".join(tensor(*result) for result in results)
    all_sizes = ", ".join(f"{name}={size}" for name, size in sizes.items())
    whole = [name for key, name in names.items() if not key.startswith("batch")]
    replicated = f" need_replication={{{', '.join(whole)}}}," if whole else ""
    return f"#sdy.op_sharding_rule<({left})->({right}) {{{all_sizes}}}{replicated} custom>"


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each varying over every manual mesh axis over which any of them varies.

    Inside shard_map with check_vma a primitive's operands must agree in this.
    """
    varying = [varying_axes(x) for x in arrays]
    union = frozenset().union(*varying)
    return [
        jax.lax.pcast(x, tuple(union - axes), to="varying") if union - axes else x
        for x, axes in zip(arrays, varying)
    ]


def varying_axes(x) -> frozenset:
    aval = jax.typeof(x)
    if hasattr(aval, "manual_axis_type"):  # JAX 0.11 and newer
        return aval.manual_axis_type.varying
    return aval.vma
