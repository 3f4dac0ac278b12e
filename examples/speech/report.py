"""What a training has led to: one HTML file that needs neither a server nor a network."""

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from . import charts
from .align import Aligned, align_audios
from .corpus import Utterance
from .features import frames_of, log_mel
from .files import read_records
from .padding import padded
from .programs import jit
from .text import normalise

TEMPLATE = Path(__file__).with_name("report.html.txt")
EXAMPLES = 6  # recordings in the report: half a megabyte for each four seconds
MOST_SECONDS = 12.0  # of an example: more is hard to see
STAGES = 6  # evaluations that show how a sentence was learnt


class Example(NamedTuple):
    """A held-out recording and what the recogniser makes of it."""

    audio: np.ndarray
    features: np.ndarray  # (frames, bands), for the picture
    reference: str
    hypothesis: str
    aligned: Aligned  # of the reference


class History(NamedTuple):
    """The records of history.jsonl."""

    losses: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]


def report(run_dir: Path, out: Path = Path("report.html"), *, examples: int = EXAMPLES) -> None:
    """Writes the report of the run in run_dir."""
    from . import corpus
    from .evaluate import Recognizer

    run_dir = Path(run_dir)
    recognizer = Recognizer.load(run_dir)
    settings = recognizer.settings
    _, held_out = corpus.load(settings)
    numbers = chosen(held_out.seconds, held_out.texts, examples)
    shown = examples_of(recognizer, [held_out[n] for n in numbers])
    history = read_history(run_dir / "history.jsonl")
    page = render(history, shown, settings, recognizer.frame_seconds)
    Path(out).write_text(page, encoding="utf-8")


def chosen(seconds: Sequence[float], texts: Sequence[str], count: int) -> list[int]:
    """Some utterances from all over the corpus, none picked for what becomes of it.

    Where few are short enough, the shortest ones. What has no word or no sound has no alignment.
    """
    spoken = np.array([bool(normalise(text)) for text in texts]) & (np.asarray(seconds) > 0)
    lengths = np.where(spoken, seconds, np.inf)
    longest = max(MOST_SECONDS, *np.sort(lengths)[:count])
    short = np.flatnonzero(spoken & (lengths <= longest))
    places = np.linspace(0, len(short) - 1, min(count, len(short)))
    return short[places.round().astype(int)].tolist()


def examples_of(recognizer: Any, utterances: Sequence[Utterance]) -> list[Example]:
    """Recognises recordings, and aligns each with what is said in it."""
    settings = recognizer.settings
    audios = [utterance.audio for utterance in utterances]
    if not audios:
        return []
    features = np.asarray(jit(lambda x: log_mel(x, settings))(padded(audios, np.float32)))
    hypotheses = recognizer.transcribe(audios, beam=settings.beam)
    alignments = align_audios(recognizer, audios, [utterance.text for utterance in utterances])
    return [
        Example(
            audio=utterance.audio,
            features=features[n, : frames_of(len(utterance.audio), settings)],
            reference=normalise(utterance.text),
            hypothesis=hypotheses[n].text,
            aligned=alignments[n],
        )
        for n, utterance in enumerate(utterances)
    ]


def read_history(path: Path) -> History:
    """The records of a run; of a run that was resumed, the last of each step."""
    losses: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    for record in read_records(path):
        if "loss" in record:
            losses[record["step"]] = record
        if "word_error_rate" in record:
            evaluations[record["step"]] = record
    return History(*([kept[step] for step in sorted(kept)] for kept in (losses, evaluations)))


def render(
    history: History, examples: Sequence[Example], settings: Any, frame_seconds: float
) -> str:
    """The page."""
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        description=html.escape(_description(settings)),
        tiles="".join(_tile(*tile) for tile in _tiles(history)),
        curves=_curves(history),
        examples="".join(_example(x, settings.sample_rate, frame_seconds) for x in examples),
        learning=_learning(history.evaluations),
        sentences=_sentences(history.evaluations),
        settings=html.escape(settings.to_json()),
    )


def _description(settings: Any) -> str:
    names = {"rnnt": "RNN-T", "tdt": "token-and-duration (TDT)", "pruned": "pruned RNN-T"}
    loss = names.get(settings.loss, settings.loss)
    frame = settings.subsampling * settings.hop * 1000 // settings.sample_rate
    return (
        f"FastConformer of {settings.layers} blocks of width {settings.width}, "
        f"frames of {frame} ms, {settings.vocabulary} pieces, {loss} loss, "
        f"trained on {settings.data}."
    )


def _tiles(history: History) -> list[tuple[str, str]]:
    records = history.losses + history.evaluations
    steps = max((r["step"] for r in records), default=0)
    seconds = max((r["seconds"] for r in records), default=0.0)
    tiles = [("training steps", f"{steps:,}"), ("training time", duration(seconds))]
    if history.losses:
        tiles.append(("loss, nats a sentence", nats(history.losses[-1]["loss"])))
    if history.evaluations:
        rate = history.evaluations[-1]["word_error_rate"]
        tiles.insert(0, ("word error rate", percent(rate)))
    return tiles


def _tile(label: str, value: str) -> str:
    return f'<div class="tile"><b>{value}</b><span>{label}</span></div>'


def duration(seconds: float) -> str:
    """8 min 20 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def nats(loss: float) -> str:
    """Three digits."""
    return f"{loss:.0f}" if loss >= 100 else f"{loss:.3g}"


def percent(rate: float) -> str:
    return f"{rate:.1%}"


def _curves(history: History) -> str:
    def points(records: Sequence[dict[str, Any]], name: str, said: Callable) -> list[charts.Point]:
        return [
            charts.Point(
                record["step"],
                record[name],
                f"{said(record[name])} at step {record['step']:,}, {duration(record['seconds'])}",
            )
            for record in records
        ]

    rates = points(history.evaluations, "word_error_rate", percent)
    losses = points(history.losses, "loss", nats)
    return charts.curve("Word error rate on held-out speech", rates, percent=True) + charts.curve(
        "Training loss, nats a sentence", losses
    )


def _example(example: Example, sample_rate: int, frame_seconds: float) -> str:
    """A player: sentence, log-mel, and the posterior of each word below it."""
    seconds = len(example.audio) / sample_rate
    aligned = example.aligned
    pairs = charts.pairs(example.reference, example.hypothesis)
    wrong = [said != heard for said, heard in pairs if said is not None]
    if len(wrong) != len(aligned.words):  # where unknown letters have joined two words
        wrong = [False] * len(aligned.words)
    rows = [aligned.posteriors[:, slice(*span)].max(1) for span in aligned.spans]
    stairs = charts.staircase(aligned.words, rows, seconds, frame_seconds, wrong)
    return f"""<article class="example">
<header><button class="play" aria-label="play"></button>
<div>{charts.sentence(example.reference, example.hypothesis)}</div></header>
<audio preload="auto" src="{charts.sound(example.audio, sample_rate)}"></audio>
<div class="stage" data-seconds="{seconds:.3f}"><div class="mel"><img alt="log-mel spectrogram"
src="{charts.log_mel_image(example.features)}"><i class="span"></i></div>
{stairs}<i class="head"></i></div>
{charts.time_axis(seconds)}</article>
"""


def _learning(evaluations: Sequence[dict[str, Any]]) -> str:
    """One sentence after each of some evaluations."""
    with_samples = [e for e in evaluations if e.get("samples")]
    if not with_samples:
        return "<p>nothing yet</p>"
    places = np.linspace(0, len(with_samples) - 1, min(STAGES, len(with_samples)))
    rows = []
    for place in places.round().astype(int):
        evaluation = with_samples[place]
        reference, hypothesis = evaluation["samples"][0]
        rows.append(
            f"<li><b>{evaluation['step']:,} steps</b>{charts.sentence(reference, hypothesis)}</li>"
        )
    return f'<ol class="stages">{"".join(rows)}</ol>'


def _sentences(evaluations: Sequence[dict[str, Any]]) -> str:
    samples = evaluations[-1].get("samples", []) if evaluations else []
    return "".join(f"<li>{charts.sentence(*sample)}</li>" for sample in samples)
