"""When was each word of a known text said, and how sure is that?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jax_rnnt

from .padding import padded
from .programs import jit
from .settings import ExplainedError
from .text import normalise
from .transcribe import recording
from .words import Word, word_spans, words_of

# A piece is where the alignment says within so many frames around it: more is another place.
NEAR_FRAMES = 2
# Frames whose arcs exist at a time: an hour of sound takes megabytes.
BLOCK_FRAMES = 1024
# Frames and labels are padded to multiples of these, so that few shapes are compiled.
ROOM_FRAMES = 64
ROOM_LABELS = 16


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
    audio = recording(file, recognizer.settings.sample_rate)
    (aligned,) = align_audios(recognizer, [audio], [text])
    Console().print(table(aligned))


def table(aligned: Aligned) -> Table:
    """The words, a row each."""
    made = Table("word", "begin", "end", "log P", "confidence")
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


def align_audios(
    recognizer: Any, audios: Sequence[np.ndarray], texts: Sequence[str]
) -> list[Aligned]:
    """Of each text in its recording the best alignment, and the posteriors of all."""
    labels = [recognizer.tokenizer.encode(text) for text in texts]
    if not all(labels):
        raise ExplainedError("There is no word in the text.")
    if not all(map(len, audios)):
        raise ExplainedError("There is no sound in the recording.")
    encoder, frames_lengths = recognizer.encode(audios)
    labels_lengths = np.array([len(row) for row in labels], np.int32)
    rows = padded(labels, np.int32, room=ROOM_LABELS)
    path, posteriors = jax.tree.map(
        np.asarray,
        _aligned(
            recognizer.model,
            jnp.pad(encoder, ((0, 0), (0, -encoder.shape[1] % ROOM_FRAMES), (0, 0))),
            rows,
            frames_lengths,
            labels_lengths,
        ),
    )
    if (path.label_frames[rows > 0] < 0).any():
        raise ValueError("The text has no alignment: the model's logits are not finite.")
    return [
        _in_words(
            recognizer,
            text,
            labels[n],
            len(audios[n]) / recognizer.settings.sample_rate,
            path.label_frames[n, : len(labels[n])],
            path.label_log_probs[n, : len(labels[n])],
            posteriors[n, : frames_lengths[n], : len(labels[n])],
        )
        for n, text in enumerate(texts)
    ]


def _in_words(
    recognizer: Any,
    text: str,
    labels: list[int],
    seconds: float,
    frames: np.ndarray,
    label_log_probs: np.ndarray,
    posteriors: np.ndarray,
) -> Aligned:
    """From an alignment of labels to one of words."""
    near = np.abs(np.arange(len(posteriors))[:, None] - frames) <= NEAR_FRAMES
    confidence = np.where(near, posteriors, 0).sum(0).clip(0, 1)
    pieces = recognizer.tokenizer.pieces(labels)
    words = words_of(pieces, frames.tolist(), recognizer.frame_seconds, seconds)
    spans, texts = word_spans(pieces), normalise(text).split()
    if len(texts) == len(words):  # rather than pieces, of which some may be unknown
        words = [word._replace(text=own) for word, own in zip(words, texts)]
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


@jit
def _aligned(
    model: Any,
    encoder: jax.Array,
    labels: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
) -> tuple[jax_rnnt.Alignment, jax.Array]:
    """The best paths, and posteriors (N, T, labels)."""
    form = _regular if model.joint.durations is None else _with_durations
    predictor = model.predictor(labels)
    path, posteriors = form(model.joint, encoder, predictor, labels, frames_lengths, labels_lengths)
    return path, posteriors[:, :, :-1]


def _regular(
    joint: Any,
    encoder: jax.Array,
    predictor: jax.Array,
    labels: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
) -> tuple[jax_rnnt.Alignment, jax.Array]:
    """By the joint's forms: logits (N, T, U, V) never exist."""
    arguments = labels, frames_lengths, labels_lengths
    path = jax_rnnt.rnnt_align_from_joint(
        joint.project_encoder(encoder).astype(jnp.float32),
        joint.project_predictor(predictor).astype(jnp.float32),
        joint.kernel[...].astype(jnp.float32),
        None if joint.bias is None else joint.bias[...].astype(jnp.float32),
        *arguments,
        activation=joint.activation,
        block_frames=BLOCK_FRAMES,
    )

    def cost(label_bias: jax.Array) -> jax.Array:
        return joint.loss(encoder, predictor, *arguments, label_bias=label_bias, reduction="sum")

    # A label's bias is added to its log-probability: the derivative is minus the arc's posterior.
    nothing = jnp.zeros((*encoder.shape[:2], predictor.shape[1]))
    return path, -jax.grad(cost)(nothing)


def _with_durations(
    joint: Any,
    encoder: jax.Array,
    predictor: jax.Array,
    labels: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
) -> tuple[jax_rnnt.Alignment, jax.Array]:
    """By the arcs of tokens and durations, from logits (N, T, U, V + D): some minutes of sound."""
    logits = joint(encoder, predictor).astype(jnp.float32)
    D = len(joint.durations)
    is_label = jnp.arange(predictor.shape[1])[None] < labels_lengths[:, None]
    columns = jnp.where(is_label, jnp.pad(labels, ((0, 0), (0, 1))), -1)  # -1: none leaves it
    rows = jnp.broadcast_to(columns[:, None], logits.shape[:-1])
    blank, label = jax_rnnt.log_softmax_pick(logits[..., :-D], rows)
    durations = jnp.moveaxis(jax.nn.log_softmax(logits[..., -D:]), -1, 0)
    by_duration = dict(zip(joint.durations, durations, strict=True))
    blanks = {(d, 0): blank + x for d, x in by_duration.items() if d}
    written = {(d, 1): label + x for d, x in by_duration.items()}
    lattice = blanks | written, frames_lengths, labels_lengths
    path = jax_rnnt.arcs_align(*lattice, last=tuple(blanks))
    _, posteriors = jax_rnnt.arcs_posteriors(*lattice, last=tuple(blanks))
    return path, sum(posteriors[arc] for arc in written)
