"""WebVTT subtitles from words with their times."""

import html
from collections.abc import Sequence

from .words import Word

# What broadcasters ask for: a cue is a line that can be read at a glance, and ends at a pause.
MOST_LETTERS = 42
MOST_SECONDS = 6.0
PAUSE_SECONDS = 0.8


def cues(words: Sequence[Word]) -> list[list[Word]]:
    """The words, cut where a line is full or the speaker pauses."""
    lines: list[list[Word]] = []
    for word in words:
        line = lines[-1] if lines else []
        is_full = sum(len(w.text) + 1 for w in line) + len(word.text) > MOST_LETTERS
        if (
            not line
            or is_full
            or word.start - line[-1].end > PAUSE_SECONDS
            or word.end - line[0].start > MOST_SECONDS
        ):
            lines.append([])
        lines[-1].append(word)
    return lines


def webvtt(words: Sequence[Word]) -> str:
    """A WebVTT file, one cue for each line of `cues`."""
    parts = ["WEBVTT\n"]
    for line in cues(words):
        text = html.escape(" ".join(word.text for word in line), quote=False)
        parts.append(f"{clock(line[0].start)} --> {clock(line[-1].end)}\n{text}\n")
    return "\n".join(parts)


def clock(seconds: float) -> str:
    """WebVTT's time: hours:minutes:seconds.thousandths."""
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{thousandths / 1000:06.3f}"
