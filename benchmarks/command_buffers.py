"""Whether the loss runs in CUDA graphs, XLA's command buffers: `benchmarks.command_buffers`.

Runs a jitted train step under JAX's profiler and counts, for each step, what the host launched and
which of the package's kernels ran. Needs an NVIDIA GPU.
"""

import collections
import os
import sys

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN "
    "--xla_gpu_graph_min_graph_size=1",
)

import jax
import jax.numpy as jnp

import jax_rnnt
from benchmarks.measuring import traces

N, T, U, V = 16, 150, 40, 28
STEPS = 10


def train_step(parameters, encoder, predictor, labels, frames_lengths, labels_lengths):
    def loss(parameters):
        logits = (encoder[:, :, None] + predictor[:, None]) * parameters
        return jax_rnnt.rnnt_loss_from_logits(
            logits, labels, frames_lengths, labels_lengths, reduction="mean"
        )

    cost, gradient = jax.value_and_grad(loss)(parameters)
    return parameters - 1e-3 * gradient, cost


def main() -> None:
    if jax.default_backend() != "gpu":
        sys.exit("benchmarks.command_buffers needs an NVIDIA GPU.")
    keys = jax.random.split(jax.random.key(0), 3)
    parameters = jnp.ones(V)
    arguments = (
        jax.random.normal(keys[0], (N, T, V)),
        jax.random.normal(keys[1], (N, U, V)),
        jax.random.randint(keys[2], (N, U - 1), 1, V),
        jnp.full(N, T),
        jnp.full(N, U - 1),
    )
    step = jax.jit(train_step)
    for _ in range(3):
        parameters, _ = step(parameters, *arguments)
    jax.block_until_ready(parameters)

    def steps() -> None:
        updated = parameters
        for _ in range(STEPS):
            updated, cost = step(updated, *arguments)
        jax.block_until_ready((updated, cost))

    counts = collections.Counter(event.get("name", "") for event in traces.record(steps))
    print(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {STEPS} steps")
    print("| event | times a step |")
    print("|---|---|")
    for name, count in sorted(counts.items()):
        short = name.split("<")[0].split("(")[0]
        if "Graph" in name or "LaunchKernel" in name or "jax_rnnt" in name:
            print(f"| {short} | {count / STEPS:g} |")


if __name__ == "__main__":
    main()
