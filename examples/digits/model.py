"""A recurrent RNN-T: GRU encoder over stacked frames, GRU predictor, additive joint."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jax_rnnt.flax import RNNTJoint

from .data import BLANK, SYMBOLS, Array, Batch


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network."""

    bands: int = 40
    stack: int = 4  # feature frames per encoder frame
    encoder_width: int = 128
    predictor_width: int = 64
    joint_width: int = 96


class GRU(nnx.Module):
    """A gated recurrent unit whose input projection is computed for all frames at once."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.width = width
        self.from_input = nnx.Linear(inputs, 3 * width, rngs=rngs)
        self.from_state = nnx.Linear(
            width, 3 * width, kernel_init=nnx.initializers.orthogonal(), rngs=rngs
        )

    def start(self, batch: int) -> jax.Array:
        """The state before the first frame: (batch, width)."""
        return jnp.zeros((batch, self.width))

    def step(self, state: jax.Array, projected: jax.Array) -> jax.Array:
        """State (batch, width) and projected input (batch, 3 * width) -> next state."""
        reset_in, update_in, candidate_in = jnp.split(projected, 3, axis=-1)
        reset_st, update_st, candidate_st = jnp.split(self.from_state(state), 3, axis=-1)
        reset = jax.nn.sigmoid(reset_in + reset_st)
        update = jax.nn.sigmoid(update_in + update_st)
        candidate = jnp.tanh(candidate_in + reset * candidate_st)
        return update * state + (1.0 - update) * candidate

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(batch, frames, inputs) -> (batch, frames, width)."""

        def scan_step(state: jax.Array, projected: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = self.step(state, projected)
            return state, state

        projected = jnp.swapaxes(self.from_input(inputs), 0, 1)
        _, states = jax.lax.scan(scan_step, self.start(inputs.shape[0]), projected)
        return jnp.swapaxes(states, 0, 1)


class Encoder(nnx.Module):
    """Stacks frames, then runs two GRU layers."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.stack = config.stack
        self.lower = GRU(config.stack * config.bands, config.encoder_width, rngs=rngs)
        self.upper = GRU(config.encoder_width, config.encoder_width, rngs=rngs)

    def frames_lengths(self, feature_frames: Array) -> Array:
        """The number of encoder frames for a number of feature frames."""
        return -(-feature_frames // self.stack)

    def __call__(self, features: Array) -> jax.Array:
        """(N, frames, bands) -> (N, T, encoder_width) with T = ceil(frames / stack)."""
        batch, frames, bands = features.shape
        stacked = -(-frames // self.stack)
        features = jnp.pad(features, ((0, 0), (0, stacked * self.stack - frames), (0, 0)))
        hidden = features.reshape(batch, stacked, self.stack * bands)
        return self.upper(self.lower(hidden))


class Predictor(nnx.Module):
    """Reads the symbols written so far."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(SYMBOLS, config.predictor_width, rngs=rngs)
        self.recurrent = GRU(config.predictor_width, config.predictor_width, rngs=rngs)

    def step(self, state: jax.Array, symbols: jax.Array) -> jax.Array:
        """State (N, predictor_width), newest symbols (N,) -> next state, which is the output."""
        return self.recurrent.step(state, self.recurrent.from_input(self.embedding(symbols)))

    def __call__(self, labels: Array) -> jax.Array:
        """(N, U - 1) -> (N, U, predictor_width): after nothing, after one label, ..."""
        history = jnp.pad(labels, ((0, 0), (1, 0)), constant_values=BLANK)
        return self.recurrent(self.embedding(history))


class Transducer(nnx.Module):
    """Encoder, predictor and joint."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.encoder = Encoder(config, rngs=rngs)
        self.predictor = Predictor(config, rngs=rngs)
        self.joint = RNNTJoint(
            config.encoder_width, config.predictor_width, config.joint_width, SYMBOLS, rngs=rngs
        )

    def loss(self, batch: Batch, *, implementation: str | None = None) -> jax.Array:
        """Mean over the batch, in nats."""
        return self.joint.loss(
            self.encoder(batch.features),
            self.predictor(batch.labels),
            batch.labels,
            self.encoder.frames_lengths(batch.frames_lengths),
            batch.labels_lengths,
            reduction="mean",
            blank=BLANK,
            implementation=implementation,
        )

    def __call__(self, features: Array, labels: Array) -> jax.Array:
        """(N, frames, bands), (N, U - 1) -> logits (N, T, U, SYMBOLS)."""
        return self.joint(self.encoder(features), self.predictor(labels))
