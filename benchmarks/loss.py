"""Time and memory of the loss: `python -m benchmarks.loss [--json FILE] [--reference]`.

Each time is the median over runs, after at least half a second of warm-up, of a batch of calls that
are enqueued together: what a train step sees. Memory is what XLA's own analysis says a call needs
beyond its arguments and results.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt

SHAPES = ((150, 40, 28), (150, 20, 5000), (1500, 300, 50))
BATCHES = {"gpu": (1, 16, 32, 64), "cpu": (1, 4)}
RUNS, WARM_UP_SECONDS, RUN_SECONDS = 7, 0.5, 0.2


def measure(call, *arguments) -> float:
    """Median seconds per call of a compiled function."""
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < WARM_UP_SECONDS:
        jax.block_until_ready(call(*arguments))
        calls += 1
    batch = max(1, int(RUN_SECONDS / (WARM_UP_SECONDS / calls)))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        results = None
        for _ in range(batch):
            results = call(*arguments)
        jax.block_until_ready(results)
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times)


def benchmark(N, T, U, V, dtype, implementation):
    rng = np.random.default_rng(0)
    logits = jax.random.normal(jax.random.key(0), (N, T, U, V), dtype)
    labels = jnp.asarray(rng.integers(1, V, (N, U - 1)), jnp.int32)
    frames_lengths = jnp.full(N, T, jnp.int32)
    labels_lengths = jnp.full(N, U - 1, jnp.int32)

    def loss(logits, labels, frames_lengths, labels_lengths):
        return jax_rnnt.rnnt_loss_from_logits(
            logits,
            labels,
            frames_lengths,
            labels_lengths,
            reduction="sum",
            implementation=implementation,
        )

    arguments = logits, labels, frames_lengths, labels_lengths
    forward, both = (
        jax.jit(function).lower(*arguments).compile()
        for function in (loss, jax.value_and_grad(loss))
    )
    memory = both.memory_analysis()
    return {
        "N": N,
        "T": T,
        "U": U,
        "V": V,
        "dtype": jnp.dtype(dtype).name,
        "implementation": implementation,
        "forward_ms": 1e3 * measure(forward, *arguments),
        "forward_backward_ms": 1e3 * measure(both, *arguments),
        "temporary_mib": memory.temp_size_in_bytes / 2**20 if memory else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--reference", action="store_true", help="time the pure-JAX path too")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, JAX {jax.__version__}, jax_rnnt {jax_rnnt.__version__}")
    print("| (T, U, V) | N | dtype | implementation | forward ms | forward+backward ms | MiB |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for T, U, V in SHAPES:
        for N in BATCHES.get(device.platform, BATCHES["cpu"]):
            for implementation in ("native", "reference")[: 1 + arguments.reference]:
                row = benchmark(N, T, U, V, arguments.dtype, implementation)
                rows.append(row)
                print(
                    f"| ({T}, {U}, {V}) | {N} | {row['dtype']} | {implementation} "
                    f"| {row['forward_ms']:.3f} | {row['forward_backward_ms']:.3f} "
                    f"| {row['temporary_mib']:.0f} |",
                    flush=True,
                )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"device": device.device_kind, "jax": jax.__version__, "rows": rows}, file)


if __name__ == "__main__":
    main()
