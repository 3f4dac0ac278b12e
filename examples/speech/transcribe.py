"""From recordings to text with word times, on the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .audio import read
from .settings import ExplainedError
from .streaming import Contexts, Update, stream
from .subtitles import webvtt
from .words import Word, words_of

# Attention takes time and memory by the square of a recording's length, and was trained on short
# ones: longer ones go through long chunks, with so much around them that none misses anything.
LONGEST_SECONDS = 40.0
LONG = Contexts(chunk=20.48, left=5.12, right=5.12)


def transcribe(
    checkpoint: Path,
    files: Sequence[Path],
    *,
    stream: bool = False,
    subtitles: bool = False,
    beam: int = 1,
) -> None:
    """Prints the text of each file and its words' times; `subtitles` writes FILE.vtt beside it."""
    if stream and beam > 1:
        raise ExplainedError(
            "What is spoken live is searched greedily: --stream takes a beam of 1."
        )
    from .evaluate import Recognizer

    print_transcripts(
        Recognizer.load(checkpoint), files, live=stream, subtitles=subtitles, beam=beam
    )


def print_transcripts(
    recognizer: Any,
    files: Sequence[Path],
    *,
    live: bool,
    subtitles: bool,
    beam: int,
    console: Console | None = None,
) -> None:
    """`transcribe` with a recogniser that is there."""
    console = console or Console(highlight=False)
    failed = []
    for path in map(Path, files):
        console.print(Text(str(path), style="bold"), soft_wrap=True)
        try:
            audio = recording(path, recognizer.settings.sample_rate)
            if live:
                words = show_live(stream(recognizer, audio), console)
            else:
                words = transcribed(recognizer, audio, beam)
        except ExplainedError as error:  # one of many files is no reason to leave out the others
            console.print(str(error), markup=False, soft_wrap=True)
            failed.append(str(path))
            continue
        text = " ".join(word.text for word in words)
        console.print(text, markup=False, soft_wrap=True)
        for word in words:
            console.print(f"{word.start:8.2f} {word.end:8.2f}  {word.text}", markup=False)
        if subtitles:
            target = path.with_suffix(".vtt")
            target.write_text(webvtt(words), encoding="utf-8")
            console.print(f"subtitles: {target}", markup=False, soft_wrap=True)
    if failed:
        raise ExplainedError(f"not transcribed: {', '.join(failed)}")


def recording(path: Path, sample_rate: int) -> np.ndarray:
    """The samples of a file, or an ExplainedError that says which file makes no sense."""
    import soundfile

    try:
        return read(path, sample_rate)
    except soundfile.SoundFileError as error:
        raise ExplainedError(f"{path} cannot be read as sound: {error}") from None


def transcribed(recognizer: Any, audio: np.ndarray, beam: int = 1) -> list[Word]:
    """The words of a recording of any length."""
    seconds = len(audio) / recognizer.settings.sample_rate
    if seconds > LONGEST_SECONDS:
        if beam > 1:
            raise ExplainedError(f"What is longer than {LONGEST_SECONDS:g} s takes a beam of 1.")
        *_, last = stream(recognizer, audio, LONG)
        return last.words
    (best,) = recognizer.transcribe([audio], beam=beam)
    pieces = recognizer.tokenizer.pieces(best.labels)
    return words_of(pieces, best.frames, recognizer.frame_seconds, seconds)


def show_live(updates: Iterator[Update], console: Console) -> list[Word]:
    """Shows the text as it grows, dim what may still change; returns the words at the end."""
    words: list[Word] = []
    with Live(console=console, transient=True, auto_refresh=False) as display:
        for words, stable in updates:
            text = Text(" ".join(word.text for word in words[:stable]))
            text.append("".join(f" {word.text}" for word in words[stable:]), style="dim")
            display.update(text, refresh=True)
    return words
