"""From one device to all that there are, in one run: `python -m benchmarks.scaling`.

Times forward and backward of the mean cost, as a data-parallel train step has them: of logits,
where only the mean goes from device to device, and of a joint network, where the gradients of its
kernel and bias are summed over devices. Weak scaling gives every device N sequences, strong scaling
shares N among them. A ratio is the time of one device over this one: weak, at best 1; strong, at
best the number of devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m benchmarks.scaling --small

shows that it runs; devices that share one CPU say nothing of scaling.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_rnnt
from benchmarks.measuring import timing
from benchmarks.measuring.devices import name as device_name
from benchmarks.printing.markdown import grid, number
from benchmarks.printing.results import write

AXIS = "data"


class Case(NamedTuple):
    """Logits (N, T, U, V), or a joint network of H hidden units that would make them."""

    N: int
    T: int
    U: int
    V: int
    H: int | None = None
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return "logits" if self.H is None else "joint"


CASES = (
    Case(32, 150, 20, 5000),
    Case(32, 1500, 300, 50),
    Case(32, 400, 100, 1024, H=640, dtype="bfloat16"),
)
SMALL_CASES = Case(8, 6, 4, 5), Case(8, 6, 4, 5, H=8)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Scaling of the losses over devices.")
    parser.add_argument("--json", metavar="FILE", default="scaling.json")
    parser.add_argument("--small", action="store_true", help="sizes that only show that it runs")
    parser.add_argument("--devices", type=int, help="at most so many; default: all")
    options = parser.parse_args(arguments)
    device, count = jax.devices()[0], options.devices or jax.device_count()
    results: dict[str, Any] = {
        "device": device_name(device),
        "devices": count,
        "versions": {"jax_rnnt": jax_rnnt.__version__, "jax": jax.__version__},
        "rows": [],
    }
    for case in SMALL_CASES if options.small else CASES:
        for way in WAYS:
            results["rows"] += measure(case, way, count)
            write(options.json, results)
    print(f"# {count} x {device.device_kind}, JAX {jax.__version__}\n\n{markdown(results['rows'])}")


def measure(case: Case, way: str, most: int) -> list[dict]:
    """A row for every power of two of devices up to all, each with the time of one device."""
    key = {**case._asdict(), "loss": case.name, "way": way}
    one = time(case, way, 1)
    rows = [{**key, "devices": 1, "one_ms": 1e3 * one}]
    for devices in (2**i for i in range(1, most.bit_length())):
        row = {**key, "devices": devices, "one_ms": 1e3 * one}
        for scaling, N in (("weak", case.N * devices), ("strong", case.N)):
            seconds = time(case._replace(N=N), way, devices)
            row |= {f"{scaling}_ms": 1e3 * seconds, f"{scaling}_ratio": one / seconds}
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict]) -> str:
    columns = (
        *("loss", "N", "(T, U, V)", "H", "dtype", "through", "devices", "one, ms"),
        *("weak, ms", "one / weak", "strong, ms", "one / strong"),
    )
    figures = "one_ms", "weak_ms", "weak_ratio", "strong_ms", "strong_ratio"
    return grid(
        columns,
        [
            (
                *(row["loss"], row["N"], f"({row['T']}, {row['U']}, {row['V']})", row["H"] or ""),
                *(row["dtype"], row["way"], row["devices"]),
                *(number(row.get(name)) for name in figures),
            )
            for row in rows
        ],
    )


def time(case: Case, way: str, devices: int) -> float:
    """Seconds of one step."""
    mesh = jax.make_mesh(
        (devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    step = WAYS[way](mesh, case)
    operands, batch = make_operands(case, mesh), make_batch(case, mesh)

    def call(_):
        results = step(operands, batch)
        # XLA on CPU hangs where a device runs ahead of the others by more than there are threads.
        return jax.block_until_ready(results) if jax.default_backend() == "cpu" else results

    return timing.measure(call, jax.block_until_ready)


def mean_cost(case: Case, operands: Sequence[jax.Array], batch: Sequence[jax.Array]) -> jax.Array:
    """The mean over the sequences of `batch`, which may be a part of the case's."""
    loss = jax_rnnt.rnnt_loss_from_logits if case.H is None else jax_rnnt.rnnt_loss_from_joint
    return loss(*operands, *batch, reduction="mean")


def specs(case: Case) -> tuple[P, ...]:
    """Of the operands: the batch is split, kernel and bias are everywhere."""
    return (P(AXIS),) if case.H is None else (P(AXIS), P(AXIS), P(), P())


def make_operands(case: Case, mesh: Mesh) -> tuple[jax.Array, ...]:
    """Standard normal numbers, in every sequence the same; the kernel's over the root of H."""
    N, T, U, V, H, dtype = case
    if H is None:
        shapes, scales = [(N, T, U, V)], [1.0]
    else:
        shapes, scales = [(N, T, H), (N, U, H), (H, V), (V,)], [1.0, 1.0, H**-0.5, 1.0]
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs(case))

    @functools.partial(jax.jit, out_shardings=shardings)
    def make():
        keys = jax.random.split(jax.random.key(0), len(shapes))
        return tuple(
            jnp.broadcast_to(
                scale * jax.random.normal(key, shape[1:] if spec == P(AXIS) else shape, dtype),
                shape,
            )
            for key, shape, scale, spec in zip(keys, shapes, scales, specs(case))
        )

    return make()


def make_batch(case: Case, mesh: Mesh) -> tuple[jax.Array, ...]:
    """Labels and full lengths."""
    arrays = (
        jnp.broadcast_to(1 + jnp.arange(case.U - 1) % (case.V - 1), (case.N, case.U - 1)),
        jnp.full(case.N, case.T),
        jnp.full(case.N, case.U - 1),
    )
    return jax.device_put(arrays, NamedSharding(mesh, P(AXIS)))


def _jit(mesh: Mesh, case: Case) -> Callable:
    del mesh  # it is the operands'
    return jax.jit(jax.value_and_grad(functools.partial(mean_cost, case)))


def _shard_map(mesh: Mesh, case: Case) -> Callable:
    def step(operands, batch):
        def mean(operands):
            return jax.lax.pmean(mean_cost(case, operands, batch), AXIS)

        return jax.value_and_grad(mean)(operands)

    return jax.jit(
        jax.shard_map(
            step, mesh=mesh, in_specs=(specs(case), P(AXIS)), out_specs=(P(), specs(case))
        )
    )


WAYS = {"jit": _jit, "shard_map": _shard_map}


if __name__ == "__main__":
    main()
