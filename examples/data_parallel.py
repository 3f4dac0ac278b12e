"""A few training steps on one device and on all devices, by jit with NamedSharding and by pmap.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m examples.data_parallel
    python -m examples.data_parallel            # on a machine with several GPUs

The batch is split over the devices, and every device has all parameters. No device sends a lattice
to another: the devices exchange the loss and the gradient of the parameters, at the end of a step.
"""

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jax_rnnt

BANDS, WIDTH, SYMBOLS = 20, 64, 32
LEARNING_RATE = 0.03

Params = dict[str, jax.Array]


class Batch(NamedTuple):
    """N utterances of up to T frames and U - 1 labels."""

    features: jax.Array  # (N, T, BANDS)
    frames_lengths: jax.Array  # (N,)
    labels: jax.Array  # (N, U - 1)
    labels_lengths: jax.Array  # (N,)


def make_params() -> Params:
    """The parameters of a small network: an additive joint of a frame and the last label."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "frames": jax.random.normal(keys[0], (BANDS, WIDTH)) / BANDS**0.5,
        "labels": jax.random.normal(keys[1], (SYMBOLS, WIDTH)),
        "logits": jax.random.normal(keys[2], (WIDTH, SYMBOLS)) / WIDTH**0.5,
    }


def make_batch(step: int, size: int, frames: int = 60, labels: int = 12) -> Batch:
    """Random utterances of random lengths."""
    rng = np.random.default_rng(step)
    return Batch(
        features=jnp.asarray(rng.normal(size=(size, frames, BANDS)), jnp.float32),
        frames_lengths=jnp.asarray(rng.integers(labels, frames + 1, size), jnp.int32),
        labels=jnp.asarray(rng.integers(1, SYMBOLS, (size, labels)), jnp.int32),
        labels_lengths=jnp.asarray(rng.integers(1, labels + 1, size), jnp.int32),
    )


def mean_loss(params: Params, batch: Batch) -> jax.Array:
    """Mean RNN-T loss of a batch."""
    encoded = batch.features @ params["frames"]  # (N, T, WIDTH)
    history = jnp.pad(batch.labels, ((0, 0), (1, 0)))  # (N, U): the blank, then the labels
    predicted = params["labels"][history]  # (N, U, WIDTH)
    hidden = jnp.tanh(encoded[:, :, None] + predicted[:, None])
    return jax_rnnt.rnnt_loss_from_logits(
        hidden @ params["logits"],
        batch.labels,
        batch.frames_lengths,
        batch.labels_lengths,
        reduction="mean",
    )


def descend(params: Params, gradient: Params) -> Params:
    """One step of gradient descent."""
    return jax.tree.map(lambda value, slope: value - LEARNING_RATE * slope, params, gradient)


def train_step(params: Params, batch: Batch) -> tuple[Params, jax.Array]:
    """The step, written for one device; jit runs it on the devices that hold the arrays."""
    loss, gradient = jax.value_and_grad(mean_loss)(params, batch)
    return descend(params, gradient), loss


def pmap_step(params: Params, batch: Batch) -> tuple[Params, jax.Array]:
    """The step as each device runs it on its part of the batch."""
    loss, gradient = jax.value_and_grad(mean_loss)(params, batch)
    loss, gradient = jax.lax.pmean((loss, gradient), axis_name="devices")
    return descend(params, gradient), loss


def losses_on_one_device(steps: int, size: int) -> list[float]:
    """The reference: no parallelism."""
    step_function, params, losses = jax.jit(train_step), make_params(), []
    for step in range(steps):
        params, loss = step_function(params, make_batch(step, size))
        losses.append(float(loss))
    return losses


def losses_with_sharding(steps: int, size: int) -> list[float]:
    """jit, with the batch split over a mesh of all devices."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    step_function, params, losses = jax.jit(train_step), make_params(), []
    params = jax.device_put(params, everywhere)
    for step in range(steps):
        batch = jax.device_put(make_batch(step, size), split)
        params, loss = step_function(params, batch)
        losses.append(float(loss))
    return losses


def losses_with_pmap(steps: int, size: int) -> list[float]:
    """pmap, with the parameters and a part of the batch for each device."""
    devices = jax.device_count()
    step_function, losses = jax.pmap(pmap_step, axis_name="devices"), []
    params = jax.tree.map(lambda value: jnp.stack([value] * devices), make_params())
    for step in range(steps):
        batch = jax.tree.map(
            lambda value: value.reshape(devices, size // devices, *value.shape[1:]),
            make_batch(step, size),
        )
        params, loss = step_function(params, batch)
        losses.append(float(loss[0]))
    return losses


def main() -> None:
    """Trains a few steps each way and compares the losses."""
    parser = argparse.ArgumentParser(description="Data-parallel training with jax_rnnt.")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--per-device", type=int, default=4, help="utterances on each device")
    options = parser.parse_args()
    size = options.per_device * jax.device_count()
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {size} utterances a step")

    single = losses_on_one_device(options.steps, size)
    sharded = losses_with_sharding(options.steps, size)
    mapped = losses_with_pmap(options.steps, size)
    print("step  one device  jit + NamedSharding      pmap")
    for step, losses in enumerate(zip(single, sharded, mapped, strict=True)):
        print("{:4d}  {:10.5f}  {:19.5f}  {:8.5f}".format(step, *losses))
    np.testing.assert_allclose(sharded, single, rtol=1e-3)
    np.testing.assert_allclose(mapped, single, rtol=1e-3)
    print("the losses agree")


if __name__ == "__main__":
    main()
