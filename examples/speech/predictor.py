"""What the labels so far say about the next one: two networks with one interface.

`predictor(labels)` is for training, all columns at once; `start` and `step` are for a search, label
by label, and compute the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .settings import Settings

# Of embeddings. Flax's own, by the square root of the width smaller, makes an LSTM's features 60
# times as small as an encoder's, and the joint hears no labels at first.
SPREAD = nnx.initializers.normal(1.0)


def after_blank(labels: jax.Array) -> jax.Array:
    """(N, U - 1) -> (N, U): a sequence begins with the blank."""
    return jnp.pad(labels, ((0, 0), (1, 0)))


class LSTMPredictor(nnx.Module):
    """An LSTM over all labels so far; float32, since steps this small wait and do not compute."""

    def __init__(self, settings: Settings, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        width = settings.predictor_width
        self.width = width
        self.embedding = nnx.Embed(vocabulary, width, embedding_init=SPREAD, rngs=rngs)
        self.cell = nnx.OptimizedLSTMCell(width, width, rngs=rngs)

    def start(self, N: int) -> Any:
        """The state before the first label."""
        return jnp.zeros((N, self.width)), jnp.zeros((N, self.width))

    def step(self, state: Any, labels: jax.Array) -> tuple[Any, jax.Array]:
        """The state and labels (N,) -> the next state and (N, P)."""
        return self.cell(state, self.embedding(labels))

    def __call__(self, labels: jax.Array) -> jax.Array:
        """(N, U - 1) -> (N, U, P)."""
        inputs = self.embedding(after_blank(labels).T)  # (U, N, P)
        _, outputs = jax.lax.scan(self.cell, self.start(len(labels)), inputs)
        return outputs.swapaxes(0, 1)


class StatelessPredictor(nnx.Module):
    """The last two labels alone (Ghodsi et al. 2020), weighed channel by channel."""

    CONTEXT = 2

    def __init__(self, settings: Settings, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        width = settings.predictor_width
        self.embedding = nnx.Embed(vocabulary, width, embedding_init=SPREAD, rngs=rngs)
        self.weights = nnx.Param(jax.random.normal(rngs.params(), (self.CONTEXT, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def start(self, N: int) -> jax.Array:
        """The labels before the newest one: blanks."""
        return jnp.zeros((N, self.CONTEXT - 1), jnp.int32)

    def step(self, state: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The labels before and the newest (N,) -> the same a label later and (N, P)."""
        context = jnp.concatenate([state, labels[:, None]], 1)
        return context[:, 1:], self._mix(context)

    def __call__(self, labels: jax.Array) -> jax.Array:
        """(N, U - 1) -> (N, U, P)."""
        U = labels.shape[1] + 1
        history = jnp.pad(after_blank(labels), ((0, 0), (self.CONTEXT - 1, 0)))
        return self._mix(jnp.stack([history[:, i : i + U] for i in range(self.CONTEXT)], -1))

    def _mix(self, context: jax.Array) -> jax.Array:
        """(..., CONTEXT) labels -> (..., P)."""
        mixed = jnp.einsum("...cp,cp->...p", self.embedding(context), self.weights[...])
        return jax.nn.relu(mixed + jnp.expand_dims(self.bias[...], range(mixed.ndim - 1)))


def make_predictor(settings: Settings, vocabulary: int, *, rngs: nnx.Rngs):
    """The predictor that the settings name."""
    kinds = {"lstm": LSTMPredictor, "stateless": StatelessPredictor}
    return kinds[settings.predictor](settings, vocabulary, rngs=rngs)
