"""When was each word of a known text said, and how sure is that?"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

import jax_rnnt

from .audio import read
from .words import Word, word_spans, words_of

# A piece is where the alignment says within so many frames around it: more is another place.
NEAR_FRAMES = 2
# Frames whose arcs exist at a time: an hour of sound takes megabytes.
BLOCK_FRAMES = 1024


class Aligned(NamedTuple):
    """A text in its recording.

    A word's confidence is the share of all alignments, each by its probability, that write its
    pieces within NEAR_FRAMES of where the best one does; of its pieces' it is the least.
    """

    words: list[Word]
    log_probs: list[float]  # of each word's pieces where they are written: is this what is said?
    spans: list[tuple[int, int]]  # of each word: its first label, and the one behind its last
    frames: np.ndarray  # (labels,), where the best alignment writes each
    posteriors: np.ndarray  # (T, labels), that a label is written in a frame


def align(checkpoint: Path, file: Path, text: str) -> None:
    """Prints the words of the text with begin, end and confidence."""
    from .evaluate import Recognizer

    recognizer = Recognizer.load(checkpoint)
    audio = read(Path(file), recognizer.settings.sample_rate)
    Console().print(table(align_audio(recognizer, audio, text)))


def table(aligned: Aligned) -> Table:
    """The words, a row each."""
    made = Table("word", *(("begin", "end", "log P", "confidence")))
    for column in made.columns[1:]:
        column.justify = "right"
    for word, log_prob in zip(aligned.words, aligned.log_probs, strict=True):
        made.add_row(
            word.text,
            f"{word.start:.2f}",
            f"{word.end:.2f}",
            f"{log_prob:.2f}",
            f"{word.confidence:.3f}",
        )
    return made


def align_audio(recognizer: Any, audio: np.ndarray, text: str) -> Aligned:
    """The best alignment of the text, and the posteriors of all."""
    labels = recognizer.tokenizer.encode(text)
    if not labels:
        raise ValueError("There is no word in the text.")
    encoder = recognizer.encode(audio)
    path, posteriors = _aligned(recognizer.model, encoder, jnp.array(labels, jnp.int32))
    frames, posteriors = np.asarray(path.label_frames), np.asarray(posteriors)
    if (frames < 0).any():
        raise ValueError("The text has no alignment: the model's logits are not finite.")
    near = np.abs(np.arange(len(posteriors))[:, None] - frames) <= NEAR_FRAMES
    confidence = np.where(near, posteriors, 0).sum(0).clip(0, 1)
    pieces = recognizer.tokenizer.pieces(labels)
    seconds = len(audio) / recognizer.settings.sample_rate
    words = words_of(pieces, frames.tolist(), recognizer.frame_seconds, seconds)
    spans = word_spans(pieces)
    label_log_probs = np.asarray(path.label_log_probs)
    return Aligned(
        words=[
            word._replace(confidence=float(confidence[slice(*span)].min()))
            for word, span in zip(words, spans, strict=True)
        ],
        log_probs=[float(label_log_probs[slice(*span)].sum()) for span in spans],
        spans=spans,
        frames=frames,
        posteriors=posteriors,
    )


@nnx.jit
def _aligned(
    model: Any, encoder: jax.Array, labels: jax.Array
) -> tuple[jax_rnnt.Alignment, jax.Array]:
    """The best path of one sequence, and its labels' posteriors (T, labels)."""
    predictor = model.predictor(labels[None])
    if model.joint.durations is None:
        return _regular(model.joint, encoder, predictor, labels)
    return _with_durations(model.joint, encoder[0], predictor[0], labels)


def _regular(
    joint: Any, encoder: jax.Array, predictor: jax.Array, labels: jax.Array
) -> tuple[jax_rnnt.Alignment, jax.Array]:
    """By the joint's forms: logits (T, U, V) never exist."""
    T, U = encoder.shape[1], predictor.shape[1]
    lengths = jnp.array([T], jnp.int32), jnp.array([U - 1], jnp.int32)
    path = jax_rnnt.rnnt_align_from_joint(
        joint.project_encoder(encoder).astype(jnp.float32),
        joint.project_predictor(predictor).astype(jnp.float32),
        joint.kernel[...].astype(jnp.float32),
        None if joint.bias is None else joint.bias[...].astype(jnp.float32),
        labels[None],
        *lengths,
        activation=joint.activation,
        block_frames=BLOCK_FRAMES,
    )

    def cost(label_bias: jax.Array) -> jax.Array:
        return joint.loss(
            encoder, predictor, labels[None], *lengths, label_bias=label_bias, reduction="sum"
        )

    # A label's bias is added to its log-probability: the derivative is minus the arc's posterior.
    posteriors = -jax.grad(cost)(jnp.zeros((1, T, U)))
    return jax.tree.map(lambda x: x[0], path), posteriors[0, :, :-1]


def _with_durations(
    joint: Any, encoder: jax.Array, predictor: jax.Array, labels: jax.Array
) -> tuple[jax_rnnt.Alignment, jax.Array]:
    """By the arcs of a token-and-duration transducer, from logits (T, U, V + D): some minutes."""
    logits = joint(encoder, predictor).astype(jnp.float32)
    T, U, _ = logits.shape
    D = len(joint.durations)
    rows = jnp.broadcast_to(jnp.append(labels, jnp.int32(-1)), (T, U))  # -1: none leaves the last
    blank, label = jax_rnnt.log_softmax_pick(logits[..., :-D], rows)
    by_duration = dict(
        zip(joint.durations, jnp.moveaxis(jax.nn.log_softmax(logits[..., -D:]), -1, 0))
    )
    blanks = {(d, 0): blank + x for d, x in by_duration.items() if d}
    written = {(d, 1): label + x for d, x in by_duration.items()}
    arcs, last = blanks | written, tuple(blanks)
    path = jax_rnnt.arcs_align(arcs, T, U - 1, last=last)
    _, posteriors = jax_rnnt.arcs_posteriors(arcs, T, U - 1, last=last)
    return path, sum(posteriors[arc] for arc in written)[:, :-1]
