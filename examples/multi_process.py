"""One training step in several processes under jax.distributed, and the same in one process.

On a machine with two GPUs, one process for each, which talk through NCCL:

    CUDA_VISIBLE_DEVICES=0 python -m examples.multi_process --processes 2 --process 0 &
    CUDA_VISIBLE_DEVICES=1 python -m examples.multi_process --processes 2 --process 1

On CPUs, which talk through Gloo:

    JAX_PLATFORMS=cpu python -m examples.multi_process --processes 2 --process 0 &
    JAX_PLATFORMS=cpu python -m examples.multi_process --processes 2 --process 1

On several hosts every process is also given `--coordinator HOST:PORT`, the address of process 0.
Each process holds its own part of the batch and all of the parameters. No sequence leaves its
process: what goes over the wire are the loss and the gradients of the parameters, summed.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_rnnt
from examples.data_parallel import Batch, Params, descend, make_batch, make_params, mean_loss

MOVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def mean_joint_loss(params: Params, batch: Batch) -> jax.Array:
    """`mean_loss` by rnnt_loss_from_joint, which never holds the logits."""
    history = jnp.pad(batch.labels, ((0, 0), (1, 0)))
    return jax_rnnt.rnnt_loss_from_joint(
        batch.features @ params["frames"],
        params["labels"][history],
        params["logits"],
        None,
        batch.labels,
        batch.frames_lengths,
        batch.labels_lengths,
        activation="tanh",
        reduction="mean",
    )


def make_train_step(loss: Callable) -> Callable:
    """The step, written for one device; jit runs it on the devices that hold the arrays."""

    def train_step(params: Params, batch: Batch) -> tuple[Params, jax.Array, Params]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        return descend(params, gradient), value, gradient

    return jax.jit(train_step)


def own_part(batch: Batch) -> Batch:
    """The utterances of this process. A real program would read no others."""
    parts = jax.process_count()
    return Batch(*(np.split(np.asarray(x), parts)[jax.process_index()] for x in batch))


def train_everywhere(loss: Callable, size: int) -> tuple[float, Params, list[str]]:
    """Loss, gradients and kinds of communication of a step over the devices of all processes."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(everywhere, np.asarray(x)), make_params()
    )
    batch = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(split, x), own_part(make_batch(0, size))
    )
    train_step = make_train_step(loss).lower(params, batch).compile()
    _, value, gradient = train_step(params, batch)
    text = train_step.as_text()
    moves = [move for move in MOVES if f" {move}(" in text or f" {move}-start(" in text]
    return float(value), gradient, moves


def train_alone(loss: Callable, size: int) -> tuple[float, Params]:
    """Loss and gradients of the same step on one device of this process."""
    _, value, gradient = make_train_step(loss)(make_params(), make_batch(0, size))
    return float(value), gradient


def largest_difference(actual: Params, expected: Params) -> float:
    """The largest relative difference of a parameter's gradient, norm over norm."""
    return max(
        float(np.linalg.norm(np.asarray(actual[name]) - value) / np.linalg.norm(value))
        for name, value in expected.items()
    )


def main() -> None:
    """Computes a step with all processes, then alone, and compares."""
    parser = argparse.ArgumentParser(description="jax_rnnt in several processes.")
    parser.add_argument("--coordinator", default="localhost:12355", help="default %(default)s")
    parser.add_argument("--processes", type=int, required=True, help="how many there are")
    parser.add_argument("--process", type=int, required=True, help="which this is, from 0")
    parser.add_argument("--per-device", type=int, default=4, help="utterances on each device")
    options = parser.parse_args()

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_default_matmul_precision", "highest")  # to compare the gradients
    jax.distributed.initialize(options.coordinator, options.processes, options.process)
    size = options.per_device * jax.device_count()
    print(
        f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, {size} utterances"
    )
    for name, loss in {"logits": mean_loss, "joint": mean_joint_loss}.items():
        value, gradient, moves = train_everywhere(loss, size)
        expected_value, expected = train_alone(loss, size)
        difference = largest_difference(gradient, expected)
        print(
            f"{name}: loss {value:.6f}, alone {expected_value:.6f}; gradients differ by "
            f"{difference:.1e}; communication: {', '.join(moves)}"
        )
        np.testing.assert_allclose(value, expected_value, rtol=1e-5)
        assert difference < 1e-5, "the gradients differ"
    print("loss and gradients agree")
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
