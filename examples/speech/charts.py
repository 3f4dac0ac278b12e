"""The report's figures, as HTML: curves, images, sentences with their errors marked.

Plots are SVG without text, stretched to their box, and labels are HTML beside them: so lines and
letters have the same size on a telephone and on a screen. Colours are those of the page's style.
"""

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .words import Word

FAINTEST = 0.02  # posteriors below it are not drawn
LEAST_ROOM = 35  # percent of the width that any word fits into


class Point(NamedTuple):
    x: float
    y: float
    note: str  # shown where the pointer is


def curve(title: str, points: Sequence[Point], *, percent: bool = False) -> str:
    """A line over training steps, logarithmic but for percentages."""
    points = [p for p in points if math.isfinite(p.y) and (percent or p.y > 0)]
    if not points:
        return f'<figure class="curve"><figcaption>{title}</figcaption><p>nothing yet</p></figure>'
    scale = (lambda y: y) if percent else math.log10
    ticks = _linear_ticks(max(p.y for p in points)) if percent else _log_ticks(p.y for p in points)
    low, high = scale(ticks[0]), scale(ticks[-1])
    last = max(p.x for p in points) or 1
    places = [(100 * p.x / last, 100 * (high - scale(p.y)) / (high - low)) for p in points]
    line = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in places)
    grid, labels = [], []
    for tick in ticks:
        y = 100 * (high - scale(tick)) / (high - low)
        grid.append(f'<path class="grid" d="M0 {y:.2f}H100"/>')
        text = f"{tick:.0%}" if percent and ticks[1] >= 0.01 else f"{tick:g}"
        labels.append(f'<span class="y" style="top:{y:.2f}%">{text}</span>')
    steps = [tick for tick in _linear_ticks(last) if tick <= last]
    for tick in steps:
        unit = " steps" if tick == steps[-1] else ""
        labels.append(
            f'<span class="x" style="left:{100 * tick / last:.2f}%">{short(tick)}{unit}</span>'
        )
    area = f'<path class="area" d="{line}V100H{places[0][0]:.2f}Z"/>' if percent else ""
    notes = html.escape(json.dumps([[*place, p.note] for place, p in zip(places, points)]))
    return f"""<figure class="curve"><figcaption>{title}</figcaption>
<div class="plot" data-points="{notes}"><svg viewBox="0 0 100 100" preserveAspectRatio="none">
{"".join(grid)}{area}<path class="line" d="{line}"/>
</svg>{"".join(labels)}<i class="dot"></i><output></output></div></figure>"""


def short(count: float) -> str:
    """2,500 as 2.5k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{letter}"
    return f"{count:g}"


def _linear_ticks(top: float) -> list[float]:
    """From 0 to at least top, in three to six steps of 1, 2 or 5."""
    rough = (top or 1) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * n for n in (1, 2, 5, 10) if size * n >= rough)
    return [round(step * n, 10) for n in range(math.ceil(top / step - 1e-9) + 1 or 2)]


def _log_ticks(values) -> list[float]:
    """1, 2 or 5 times a power of ten, around all values; powers alone where these are many."""
    values = list(values)
    exponents = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    every = [n * 10.0**e for e in exponents for n in ((1, 2, 5) if len(exponents) < 5 else (1,))]
    below = [x for x in every if x <= min(values)][-1]
    above = next((x for x in every if x >= max(values) and x > below), 10 * below)
    return [x for x in every if below <= x <= above] + ([above] if above > every[-1] else [])


def sound(audio: np.ndarray, sample_rate: int) -> str:
    """A WAV of 16 bits as a data URI."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format="WAV", subtype="PCM_16")
    return _data("audio/wav", file)


def log_mel_image(features: np.ndarray) -> str:
    """A PNG of (frames, bands) as a data URI, low bands below."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    low, high = np.percentile(features, (2, 99.8))
    imsave(file, features.T, vmin=low, vmax=high, cmap="magma", origin="lower", format="png")
    return _data("image/png", file)


def _data(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def staircase(
    words: Sequence[Word],
    rows: Sequence[np.ndarray],
    seconds: float,
    frame_seconds: float,
    wrong: Sequence[bool],
) -> str:
    """A row for each word: its posterior (T,) over time, and its text where that is."""
    cells, labels = [], []
    for n, (word, row, is_wrong) in enumerate(zip(words, rows, wrong, strict=True)):
        kind = "cell wrong" if is_wrong else "cell"
        for frame in np.flatnonzero(row > FAINTEST):
            cells.append(
                f'<rect class="{kind}" x="{frame}" y="{n}" width="1" height="1" '
                f'fill-opacity="{min(1, row[frame]):.2f}"/>'
            )
        drawn = np.flatnonzero(row > 2 * FAINTEST)
        first, last = (drawn[0], drawn[-1] + 1) if len(drawn) else (0, 0)
        left, right = (100 * x * frame_seconds / seconds for x in (first, last))
        room = max(left, 100 - right)  # on one side; none beside what is spread over everything
        side = f"right:{100 - left:.2f}%" if room == left else f"left:{right:.2f}%"
        if room < LEAST_ROOM:
            side, room = "left:0", 100
        known = "" if word.confidence is None else f", confidence {word.confidence:.2f}"
        labels.append(
            f'<button class="word{" wrong" if is_wrong else ""}" '
            f'style="top:{100 * n / len(rows):.2f}%;{side};max-width:{room:.2f}%" '
            f'data-start="{word.start:.3f}" data-end="{word.end:.3f}" '
            f'title="{word.start:.2f} to {word.end:.2f} s{known}">{html.escape(word.text)}</button>'
        )
    frames = seconds / frame_seconds
    return f"""<div class="stairs" style="--rows:{len(rows)}"><svg preserveAspectRatio="none"
viewBox="0 0 {frames:.3f} {len(rows)}">{"".join(cells)}</svg>{"".join(labels)}</div>"""


def time_axis(seconds: float) -> str:
    ticks = [t for t in _linear_ticks(seconds) if t <= seconds * 0.97]
    spans = [f'<span style="left:{100 * t / seconds:.2f}%">{t:g} s</span>' for t in ticks]
    return f'<div class="axis" aria-hidden="true">{"".join(spans)}</div>'


def pairs(reference: str, hypothesis: str) -> list[tuple[str | None, str | None]]:
    """(said, heard) words beside each other, by jiwer's alignment; None where there is none."""
    import jiwer

    said, heard = reference.split(), hypothesis.split()
    if not said:
        return [(None, word) for word in heard]
    made: list[tuple[str | None, str | None]] = []
    for chunk in jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]:
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        none = [None] * max(len(left), len(right))
        made += zip(left or none, right or none, strict=True)
    return made


def sentence(reference: str, hypothesis: str) -> str:
    """What was heard: mistaken words stand above what was said, missed ones are struck out."""
    spans = []
    for said, heard in pairs(reference, hypothesis):
        left, right = html.escape(heard or ""), html.escape(said or "")
        if said == heard:
            spans.append(f"<span>{left}</span>")
        elif heard is None:
            spans.append(f'<del class="error" title="missed">{right}</del>')
        elif said is None:
            spans.append(f'<ins class="error" title="not said">{left}</ins>')
        else:
            spans.append(
                f'<span class="error" title="said: {right}"><b>{left}</b>'
                f"<small>{right}</small></span>"
            )
    return f'<p class="sentence">{" ".join(spans)}</p>'
