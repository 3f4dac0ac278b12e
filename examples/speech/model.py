"""The transducer: features and FastConformer, predictor, joint.

Named scopes are what a profile calls these parts by, and their gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_rnnt.flax import RNNTJoint

from . import objective
from .batches import Batch
from .conformer import Conformer, dropout
from .features import extract, spec_augment
from .predictor import make_predictor
from .settings import Settings


class Transducer(nnx.Module):
    """The network. Its only state are parameters: what is random comes from a key in each call.

    Args:
        settings: sizes and the loss.
        vocabulary: V, the blank included; the tokenizer's size.
        rngs: of the parameters.
    """

    def __init__(self, settings: Settings, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        self.settings = settings
        self.encoder = Conformer(settings, rngs=rngs)
        self.predictor_network = make_predictor(settings, vocabulary, rngs=rngs)
        width, predictor_width = settings.width, settings.predictor_width
        self.joint = RNNTJoint(
            width,
            predictor_width,
            settings.joint_width,
            vocabulary,
            durations=settings.durations if settings.loss == "tdt" else None,
            dtype=settings.dtype,
            rngs=rngs,
        )
        if settings.encoder_weight:
            self.encoder_logits = nnx.Linear(width, vocabulary, rngs=rngs)
        if settings.loss == "pruned":  # the simple joint, in float32: its posteriors need it
            self.simple_encoder = nnx.Linear(width, vocabulary, rngs=rngs)
            self.simple_predictor = nnx.Linear(predictor_width, vocabulary, rngs=rngs)

    def encode(
        self, audio: jax.Array, samples_lengths: jax.Array, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Audio to encoder frames. Features are made here, so that loaders do nothing but load.

        Args:
            audio: (N, samples).
            samples_lengths: (N,), 0 of rows that are padding.
            key: given, this is training: with SpecAugment and dropout.

        Returns:
            (N, T, E) float32 and the frames of each, 0 where there are no samples.
        """
        settings = self.settings
        with jax.named_scope("features"):
            features, lengths = extract(audio, samples_lengths, settings)
            if key is not None:
                key, mask_key = jax.random.split(key)
                features = spec_augment(features, lengths, mask_key, settings)
        with jax.named_scope("encoder"):
            return self.encoder(features, lengths, key)

    def predictor(self, labels: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """(N, U - 1) labels -> (N, U, P)."""
        with jax.named_scope("predictor"):
            return dropout(self.predictor_network(labels), self.settings.dropout, key)

    def predictor_start(self, N: int) -> Any:
        """The predictor's state before N searches."""
        return self.predictor_network.start(N)

    def predictor_step(self, state: Any, labels: jax.Array) -> tuple[Any, jax.Array]:
        """The state and the newest labels (N,) -> the next state and (N, P)."""
        return self.predictor_network.step(state, labels)

    def loss(
        self, batch: Batch, key: jax.Array | None = None, step: jax.Array | None = None
    ) -> jax.Array:
        """(N,) nats, 0 of rows that are padding.

        Args:
            batch: audio and labels.
            key: of this batch, for training, where the encoder's own loss comes to it.
            step: updates so far, of which the pruned loss's warm-up knows; None for after it.
        """
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        encoder, frames_lengths = self.encode(batch.audio, batch.samples_lengths, key=keys[0])
        predictor = self.predictor(jnp.asarray(batch.labels), key=keys[1])
        lengths = frames_lengths, jnp.asarray(batch.labels_lengths)
        with jax.named_scope("joint_loss"):
            costs = objective.costs(self, encoder, predictor, batch.labels, *lengths, keys[2], step)
            if key is not None and self.settings.encoder_weight:
                own = objective.encoder_costs(self.encoder_logits(encoder), batch.labels, *lengths)
                costs += self.settings.encoder_weight * own
            return costs
