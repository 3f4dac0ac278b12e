"""A recogniser of random weights with the interface of examples/speech/evaluate.py.

Its encoder hears a frame and its two neighbours, so that a test knows how much context is all.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_rnnt
from examples.speech.settings import preset
from examples.speech.text import normalise
from jax_rnnt.flax import RNNTJoint

E, P, H = 24, 16, 20
PIECES = [
    "<blank>",
    "<unk>",
    "▁",
    *(f"▁{x}" for x in ("the", "a", "in", "on")),
    *"aeinorst",
    "ing",
    "er",
]


class StandInTokenizer:
    """Pieces that are known beforehand; the longest that fits is taken."""

    size = len(PIECES)

    def encode(self, text: str) -> list[int]:
        rest, labels = "".join(f"▁{word}" for word in normalise(text).split()), []
        while rest:
            known = [piece for piece in PIECES if rest.startswith(piece)]
            labels.append(PIECES.index(max(known, key=len)) if known else 1)
            rest = rest[len(max(known, key=len)) if known else 1 :]
        return labels

    def pieces(self, ids: list[int]) -> list[str]:
        return [PIECES[label] for label in ids]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces(ids)).replace("▁", " ").strip()


class StandInHypothesis(NamedTuple):
    text: str
    labels: list[int]
    frames: list[int]
    log_prob: float


class StandInModel(nnx.Module):
    """An encoder of three frames' sound, a predictor of the last label, and the joint."""

    def __init__(self, frame: int, durations: tuple[int, ...] | None, *, rngs: nnx.Rngs) -> None:
        self.frame = frame
        self.sound = nnx.Linear(frame, E, rngs=rngs)
        self.neighbours = nnx.Conv(E, E, (3,), padding="SAME", rngs=rngs)
        self.embedding = nnx.Embed(len(PIECES), P, rngs=rngs)
        self.joint = RNNTJoint(E, P, H, len(PIECES), durations=durations, rngs=rngs)
        # Loud enough that logits differ, and a blank in most frames and after most labels.
        self.joint.kernel[...] *= 4
        self.joint.bias[...] = self.joint.bias[...].at[0].add(5.0)
        self.embedding.embedding[...] *= 4

    def encode(self, audio, samples_lengths, *, key=None):
        N, S = audio.shape
        T = -(-S // self.frame)
        audio = jnp.pad(jnp.asarray(audio), ((0, 0), (0, T * self.frame - S)))
        lengths = -(-jnp.asarray(samples_lengths) // self.frame)
        hidden = self.sound(audio.reshape(N, T, self.frame))
        hidden *= (jnp.arange(T)[None] < lengths[:, None])[..., None].astype(hidden.dtype)
        return 3 * jnp.tanh(self.neighbours(3 * hidden)), lengths

    def predictor(self, labels):
        return self.embedding(jnp.pad(labels, ((0, 0), (1, 0))))

    def predictor_start(self, batch: int):
        return jnp.zeros((batch, 0))

    def predictor_step(self, state, labels):
        return state, self.embedding(labels)


class StandInRecognizer:
    """`Recognizer` of a StandInModel, with frames of 80 ms."""

    frame_seconds = 0.08

    def __init__(self, *, durations: tuple[int, ...] | None = None, seed: int = 0) -> None:
        self.settings = preset("tiny")
        self.tokenizer = StandInTokenizer()
        self.model = StandInModel(1280, durations, rngs=nnx.Rngs(seed))

    def encode(self, audios: list[np.ndarray]) -> tuple[jax.Array, np.ndarray]:
        padded = np.zeros((len(audios), max(map(len, audios))), np.float32)
        for row, audio in zip(padded, audios):
            row[: len(audio)] = audio
        encoder, lengths = self.model.encode(padded, np.array([len(audio) for audio in audios]))
        return encoder, np.asarray(lengths)

    def transcribe(self, audios: list[np.ndarray], beam: int = 1) -> list[StandInHypothesis]:
        hypotheses = []
        for audio in audios:
            found = greedy(self.model, self.encode([audio])[0])
            count = int(found.labels_lengths[0])
            labels = np.asarray(found.labels[0, :count]).tolist()
            frames = np.asarray(found.label_frames[0, :count]).tolist()
            text = self.tokenizer.decode(labels)
            hypotheses.append(
                StandInHypothesis(text, labels, frames, float(found.state.log_probs[0]))
            )
        return hypotheses


@nnx.jit
def greedy(model, encoder):
    def step(state, labels):
        state, output = model.predictor_step(state, labels)
        return state, model.joint.project_predictor(output)

    T = encoder.shape[1]
    return jax_rnnt.greedy_search(
        model.joint.project_encoder(encoder),
        [T],
        jax_rnnt.search_start(step, model.predictor_start(1)),
        step,
        model.joint.from_projected,
        max_labels=10 * T,
        durations=model.joint.durations,
    )


@functools.cache
def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound in which every frame is another's neighbour."""
    samples = round(seconds * 16_000)
    return np.random.default_rng(seed).normal(0, 0.2, samples).astype(np.float32)
