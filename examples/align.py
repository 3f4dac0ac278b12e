"""When was each word said? Aligns a recording with its text, by the recogniser of examples/digits.

    python -m examples.align                                       a held-out string, synthesised
    python -m examples.align --wave said.wav --text "three one four"

Trains the recogniser first, or reads it from `--checkpoint`. Prints a table of words with begin,
end and confidence, and writes subtitles (WebVTT) and a picture.
"""

import argparse
import wave
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_rnnt

from .digits import train
from .digits.checkpoint import Checkpoints
from .digits.data import BLANK, Dataset
from .digits.espeak import WORDS
from .digits.features import HOP_SECONDS, log_mel
from .digits.model import Transducer

# A word is where the model says within so many frames around the best one, of 40 ms each.
NEAR_FRAMES = 3


class Word(NamedTuple):
    """A word of the text, in seconds."""

    text: str
    begin: float
    end: float
    log_prob: float  # of its label where the path writes it
    confidence: float  # that it is written within NEAR_FRAMES of there, given the text


class Recording(NamedTuple):
    features: np.ndarray  # (frames, bands), normalised as the model's
    digits: list[int]


class Aligned(NamedTuple):
    words: list[Word]
    posteriors: np.ndarray  # (T, words), that the label is written in the frame
    frames: np.ndarray  # (words,), where the best path writes it


def main() -> None:
    arguments = parse_arguments()
    path = None if arguments.data[0] == "espeak" else Path(arguments.data[1])
    config = train.Config(
        data=arguments.data[0],
        path=path,
        steps=arguments.steps,
        checkpoint=arguments.checkpoint.expanduser(),
        cache=arguments.cache,
    )
    model, dataset = trained_model(config)
    if arguments.wave is None:
        recording = held_out(dataset)
    else:
        recording = read(arguments.wave, arguments.text, dataset)
    aligned = align(model, recording)
    print(table(aligned.words))
    arguments.vtt.write_text(subtitles(aligned.words))
    print(f"subtitles: {arguments.vtt}")
    if arguments.plot is not None:
        save_picture(arguments.plot, recording, aligned, seconds_per_frame(model))
        print(f"picture: {arguments.plot}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.align", description="Aligns spoken digits with their text."
    )
    parser.add_argument("--wave", type=Path, help="a WAV of one channel and 16 bits")
    parser.add_argument("--text", help="what it says: zero to nine, or digits")
    parser.add_argument("--data", nargs="+", default=["espeak"], metavar=("espeak | fsdd", "PATH"))
    parser.add_argument("--steps", type=int, default=train.Config().steps)
    parser.add_argument("--cache", type=Path, default=train.Config().cache)
    parser.add_argument("--checkpoint", type=Path, default=Path("~/.cache/jax_rnnt_digits/align"))
    parser.add_argument("--vtt", type=Path, default=Path("align.vtt"))
    parser.add_argument("--plot", type=Path, default=Path("align.png"))
    parser.add_argument("--no-plot", dest="plot", action="store_const", const=None)
    arguments = parser.parse_args()
    if (arguments.wave is None) != (arguments.text is None):
        parser.error("--wave and --text belong together")
    return arguments


def trained_model(config: train.Config) -> tuple[Transducer, Dataset]:
    """Trains to the last step of the checkpoints' directory, and reads it."""
    train.run(config)
    start = train.Learner(config).start
    with closing(Checkpoints(config.checkpoint)) as checkpoints:
        stored = checkpoints.restore(start, config.resumable_settings())
    if stored is None:
        raise FileNotFoundError(f"There is no checkpoint in {config.checkpoint}.")
    model = Transducer(config.model, rngs=nnx.Rngs(config.seed))
    nnx.update(model, stored[1].params)
    return model, train.load_dataset(config)


def held_out(dataset: Dataset) -> Recording:
    """The first held-out string of five digits, or the first of all."""
    batch = dataset.test_batch(dataset.test_strings)
    n = int(np.argmax(batch.labels_lengths == 5))
    labels = batch.labels[n, : batch.labels_lengths[n]]
    return Recording(batch.features[n, : batch.frames_lengths[n]], (labels - 1).tolist())


def read(path: Path, text: str, dataset: Dataset) -> Recording:
    """A recording and its text, its features on the scale of the training clips."""
    with wave.open(str(path)) as file:
        if file.getnchannels() != 1 or file.getsampwidth() != 2:
            raise ValueError(f"{path} must have one channel of 16 bits.")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
        features = log_mel(samples / 32768, file.getframerate())
    digits = digits_of(text)
    return Recording((features - dataset.mean) / dataset.deviation, digits)


def digits_of(text: str) -> list[int]:
    """`three one 42` as 3, 1, 4, 2."""
    digits = []
    for word in text.lower().split():
        if word not in WORDS and not word.isdecimal():
            raise ValueError(f"The text must be {', '.join(WORDS)}, or digits: got {word!r}.")
        digits += [WORDS.index(word)] if word in WORDS else [int(digit) for digit in word]
    return digits


def seconds_per_frame(model: Transducer) -> float:
    return model.encoder.stack * HOP_SECONDS


def align(model: Transducer, recording: Recording) -> Aligned:
    """The words of the text in the recording."""
    features = jnp.asarray(recording.features)[None]
    labels = jnp.asarray(recording.digits, jnp.int32) + 1
    logits = nnx.jit(lambda model, *inputs: model(*inputs))(model, features, labels[None])[0]
    frames, columns, _ = logits.shape
    path = jax_rnnt.rnnt_align(logits, labels, frames, columns - 1, blank=BLANK)

    # What else the label's frame could be: the posteriors of its arcs.
    rows = jnp.broadcast_to(jnp.append(labels, -1), (frames, columns))  # -1: no label leaves it
    blank, label = jax_rnnt.log_softmax_pick(logits, rows, blank=BLANK)
    arcs = {(1, 0): blank, (0, 1): label}
    _, posteriors = jax_rnnt.arcs_posteriors(arcs, frames, columns - 1, last=[(1, 0)])
    written = np.asarray(posteriors[0, 1])[:, :-1]
    best = np.asarray(path.label_frames)
    near = np.abs(np.arange(frames)[:, None] - best) <= NEAR_FRAMES
    confidence = np.where(near, written, 0).sum(0)
    words = spans(
        [WORDS[digit] for digit in recording.digits],
        best * seconds_per_frame(model),
        frames * seconds_per_frame(model),
        np.asarray(path.label_log_probs),
        confidence,
    )
    return Aligned(words, written, best)


def spans(
    texts: Sequence[str],
    written: np.ndarray,
    seconds: float,
    log_probs: np.ndarray,
    confidence: np.ndarray,
) -> list[Word]:
    """Words from the times at which they are written.

    This model writes a word once it is heard: it ends there, and begins where the one before ended,
    but no more than 0.6 seconds before. The last one lasts no longer than the recording.
    """
    words = []
    for n, text in enumerate(texts):
        before = written[n - 1] if n else 0.0
        begin = max(float(before), float(written[n]) - 0.6, 0.0)
        end = min(max(float(written[n]), begin + HOP_SECONDS), seconds)
        words.append(Word(text, begin, end, float(log_probs[n]), float(confidence[n])))
    return words


def table(words: Sequence[Word]) -> str:
    lines = [f"{'word':<8} {'begin':>7} {'end':>7} {'log P':>8} {'confidence':>11}"]
    for word in words:
        lines.append(
            f"{word.text:<8} {word.begin:7.2f} {word.end:7.2f} {word.log_prob:8.2f} "
            f"{word.confidence:11.3f}"
        )
    return "\n".join(lines)


def subtitles(words: Sequence[Word]) -> str:
    """WebVTT with one cue for each word."""
    cues = [f"{_clock(w.begin)} --> {_clock(w.end)}\n{w.text}\n" for w in words]
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:06.3f}"


def save_picture(path: Path, recording: Recording, aligned: Aligned, step: float) -> None:
    """The log-mel above the labels at their frames, with the posteriors behind them."""
    from matplotlib.figure import Figure

    seconds = len(recording.features) * HOP_SECONDS
    texts = [word.text for word in aligned.words]
    figure = Figure(figsize=(8.0, 4.0), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    bands = recording.features.shape[1]
    above.imshow(recording.features.T, origin="lower", aspect="auto", extent=(0, seconds, 0, bands))
    above.set_ylabel("band")
    for word, frame in zip(aligned.words, aligned.frames, strict=True):
        above.axvline((frame + 0.5) * step, color="white", linewidth=0.8)
        above.text((frame + 0.5) * step, bands, word.text, ha="center", va="bottom", fontsize=8)
    extent = (0, len(aligned.posteriors) * step, len(texts) - 0.5, -0.5)
    image = below.imshow(
        aligned.posteriors.T, aspect="auto", extent=extent, vmin=0, vmax=1, cmap="magma"
    )
    below.plot((aligned.frames + 0.5) * step, range(len(texts)), "o", mfc="none", mec="cyan")
    below.set_yticks(range(len(texts)), texts)
    below.set_xlabel("seconds")
    figure.colorbar(image, ax=below, label="probability", pad=0.01)
    figure.savefig(path)


if __name__ == "__main__":
    main()
