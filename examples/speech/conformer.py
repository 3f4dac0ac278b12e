"""FastConformer: convolutions that make an encoder frame of 8 (or 4) feature frames, then blocks.

What stands behind an utterance's end is set to zero before each convolution and hidden from each
attention, so that an utterance comes out the same alone and in any batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .settings import Settings


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share of its entries dropped; x itself without a key, which is not training."""
    return nnx.Dropout(rate)(x, deterministic=key is None, rngs=key)


def zero_padding(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """(N, T, ...) with zeros from each of the lengths (N,) on."""
    within = jnp.arange(x.shape[1])[None] < lengths[:, None]
    return jnp.where(within.reshape(*within.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros_like(x))


class Depthwise(nnx.Module):
    """A convolution of each channel by itself, over the axes between the first and the last.

    As a sum of shifted arrays, which XLA fuses into one pass over memory: grouped convolutions
    have slow gradients on a CPU, and no tensor cores on a GPU.
    """

    def __init__(
        self, channels: int, kernel: tuple[int, ...], stride: int, dtype: str, *, rngs: nnx.Rngs
    ) -> None:
        self.stride, self.dtype = stride, dtype
        shape = (*kernel, channels)
        inputs, channel = tuple(range(len(kernel))), len(kernel)
        spread = nnx.initializers.variance_scaling(  # each channel is one of many alike, no input
            1.0, "fan_in", "truncated_normal", in_axis=inputs, out_axis=(), batch_axis=channel
        )
        self.kernel = nnx.Param(spread(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, ..., channels) -> the same, each axis ceil(size / stride) long."""
        kernel = self.kernel[...].astype(self.dtype)
        *sizes, channels = kernel.shape
        padded = jnp.pad(x, ((0, 0), *(((k - 1) // 2, k // 2) for k in sizes), (0, 0)))
        ends = [-(-size // self.stride) * self.stride for size in x.shape[1:-1]]
        padded = jnp.pad(
            padded,
            ((0, 0), *((0, e - s) for e, s in zip(ends, x.shape[1:-1])), (0, 0)),
        )
        total = jnp.broadcast_to(
            self.bias[...].astype(self.dtype), (len(x), *(e // self.stride for e in ends), channels)
        )
        for place in np.ndindex(*sizes):
            window = tuple(slice(p, p + e, self.stride) for p, e in zip(place, ends))
            weight = kernel[place].reshape((1,) * (x.ndim - 1) + (channels,))
            total = total + padded[(slice(None), *window)] * weight
        return total


class Subsampling(nnx.Module):
    """Halves the frames three times (twice for 4), by convolutions over frames and bands.

    The first is a full one, of a single channel; the others are depthwise-separable, which is what
    makes FastConformer fast.
    """

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs) -> None:
        width, dtype = settings.width, settings.dtype
        self.dtype = dtype
        # SpecAugment's masks are zeros. With no bias all that follows would be zeros, too, where a
        # norm multiplies gradients by a thousand.
        self.first = nnx.Conv(
            1,
            width,
            (3, 3),
            strides=2,
            padding=((1, 1), (1, 1)),
            bias_init=nnx.initializers.normal(0.3),
            dtype=dtype,
            rngs=rngs,
        )
        further = settings.subsampling.bit_length() - 2
        self.depthwise = nnx.List(
            [Depthwise(width, (3, 3), 2, dtype, rngs=rngs) for _ in range(further)]
        )
        self.pointwise = nnx.List(
            [nnx.Linear(width, width, dtype=dtype, rngs=rngs) for _ in range(further)]
        )
        bands = -(-settings.bands // settings.subsampling)
        self.out = nnx.Linear(bands * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, features: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(N, frames, bands), (N,) -> (N, T, width) and its lengths."""
        x = zero_padding(features, lengths)[..., None].astype(self.dtype)
        x, lengths = jax.nn.relu(self.first(x)), (lengths + 1) // 2
        for depthwise, pointwise in zip(self.depthwise, self.pointwise):
            x = depthwise(zero_padding(x, lengths))
            x, lengths = jax.nn.relu(pointwise(x)), (lengths + 1) // 2
        return self.out(x.reshape(*x.shape[:2], -1)), lengths


def branch_end(settings: Settings, inputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """The last layer of what is added to a block's frames: small, as it is one of many."""
    small = nnx.initializers.variance_scaling(1.0 / settings.layers, "fan_in", "truncated_normal")
    return nnx.Linear(inputs, settings.width, kernel_init=small, dtype=settings.dtype, rngs=rngs)


class FeedForward(nnx.Module):
    """Four times as wide inside, SiLU between."""

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs) -> None:
        width, dtype = settings.width, settings.dtype
        self.rate = settings.dropout
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.down = branch_end(settings, 4 * width, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        return self.down(dropout(jax.nn.silu(self.up(self.norm(x))), self.rate, key))


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021) of queries or keys (N, T, heads, D).

    Products of two of them know their distance; there are no parameters, and attention stays the
    plain one, for which fused kernels exist.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** -(jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * rates[None]
    cos, sin = (f(angles).astype(x.dtype)[None, :, None] for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


class Attention(nnx.Module):
    """Self-attention over all frames of an utterance."""

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs) -> None:
        width, dtype = settings.width, settings.dtype
        self.heads = settings.heads
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.to_qkv = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = branch_end(settings, width, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        N, T, width = x.shape
        q, k, v = (
            y.reshape(N, T, self.heads, -1)
            for y in jnp.split(self.to_qkv(self.norm(x)), 3, axis=-1)
        )
        # A row without frames attends to its first one: over nothing, a softmax has no meaning.
        seen = jnp.maximum(lengths, 1)
        mixed = jax.nn.dot_product_attention(rotate(q), rotate(k), v, key_value_seq_lengths=seen)
        return self.out(mixed.reshape(N, T, width))


class Convolution(nnx.Module):
    """What stands near: a gate, a depthwise convolution over frames, SiLU.

    The norm behind it is over channels. Batch norm, which Conformers come with, would make an
    utterance depend on its batch and devices on each other.
    """

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs) -> None:
        width, dtype = settings.width, settings.dtype
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.gated = nnx.Linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.depthwise = Depthwise(width, (settings.conv_kernel,), 1, dtype, rngs=rngs)
        self.inner_norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = branch_end(settings, width, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        x = zero_padding(jax.nn.glu(self.gated(self.norm(x))), lengths)
        return self.out(jax.nn.silu(self.inner_norm(self.depthwise(x).astype(jnp.float32))))


class Block(nnx.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer.

    Conformers have a norm behind each block, too. With it, 17 blocks learn nothing from a warm-up
    of some hundred steps; without it, what the first block hears reaches the last one.
    """

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs) -> None:
        self.rate = settings.dropout
        self.before = FeedForward(settings, rngs=rngs)
        self.attention = Attention(settings, rngs=rngs)
        self.convolution = Convolution(settings, rngs=rngs)
        self.after = FeedForward(settings, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array, key: jax.Array | None) -> jax.Array:
        """(N, T, width) float32: sums over all blocks keep its precision, whatever the dtype."""
        keys = [None] * 6 if key is None else jax.random.split(key, 6)

        def plus(x: jax.Array, change: jax.Array, weight: float, key: jax.Array | None):
            return x + weight * dropout(change, self.rate, key).astype(x.dtype)

        x = plus(x, self.before(x, keys[0]), 0.5, keys[1])
        x = plus(x, self.attention(x, lengths), 1.0, keys[2])
        x = plus(x, self.convolution(x, lengths), 1.0, keys[3])
        return plus(x, self.after(x, keys[4]), 0.5, keys[5])


class Conformer(nnx.Module):
    """Subsampling, blocks, a norm. Blocks' parameters are stacked: a loop compiles one block."""

    def __init__(self, settings: Settings, *, rngs: nnx.Rngs) -> None:
        self.rate, self.layers = settings.dropout, settings.layers
        self.subsampling = Subsampling(settings, rngs=rngs)

        @nnx.split_rngs(splits=settings.layers)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(settings, rngs=rngs)

        self.blocks = stacked(rngs)
        self.norm = nnx.LayerNorm(settings.width, rngs=rngs)

    def __call__(
        self, features: jax.Array, lengths: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """(N, frames, bands) and (N,) -> (N, T, width) and its lengths; a key for training."""
        keys = None if key is None else jax.random.split(key, self.layers + 1)
        x, lengths = self.subsampling(features, lengths)
        x = dropout(x, self.rate, None if keys is None else keys[-1]).astype(jnp.float32)
        block, params = nnx.split(self.blocks)

        def next_block(x, layer):
            params, key = layer
            return nnx.merge(block, params)(x, lengths, key), None

        x, _ = jax.lax.scan(next_block, x, (params, None if keys is None else keys[:-1]))
        return self.norm(x), lengths
