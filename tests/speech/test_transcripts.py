"""Words, subtitles, streams and transcripts of examples/speech."""

import io
import pathlib
import sys

import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2]))  # the package under test is installed

pytest.importorskip("flax")
soundfile = pytest.importorskip("soundfile")
for library in ("grain", "optax", "orbax.checkpoint", "sentencepiece"):
    pytest.importorskip(library)
rich_console = pytest.importorskip("rich.console")

from stand_in import StandInRecognizer, noise  # noqa: E402

from examples.speech import transcribe  # noqa: E402
from examples.speech.streaming import Contexts, Stream, stream  # noqa: E402
from examples.speech.subtitles import cues, webvtt  # noqa: E402
from examples.speech.words import Word, words_of  # noqa: E402

DURATIONS = pytest.mark.parametrize("durations", [None, (0, 1, 2, 3)], ids=["rnnt", "tdt"])


def test_words_and_their_times():
    pieces, frames = ["▁to", "day", "▁is", "▁fri", "day"], [3, 6, 10, 10, 40]
    words = words_of(pieces, frames, 0.08, 3.3)
    assert [word.text for word in words] == ["today", "is", "friday"]
    # Until the next word, 0.4 s behind its last frame at most, a frame at least, and not for ever.
    np.testing.assert_allclose(
        [word[1:3] for word in words], [(0.24, 0.8), (0.8, 0.88), (0.8, 3.3)]
    )
    assert words_of(["▁a", "▁b"], [0, 20], 0.08, 3.0)[0].end == pytest.approx(0.48)
    assert words_of([], [], 0.08, 1.0) == []
    assert words_of(["ing"], [0], 0.08, 1.0)[0].text == "ing"


def test_subtitles_are_cut_at_pauses_and_full_lines():
    words = [Word("a&b", 3599.9996, 3600.2), Word("<c>", 3600.3, 3600.5), Word("d", 3602.0, 3602.1)]
    assert webvtt(words) == (
        "WEBVTT\n\n01:00:00.000 --> 01:00:00.500\na&amp;b &lt;c&gt;\n\n"
        "01:00:02.000 --> 01:00:02.100\nd\n"
    )
    said = [Word("word", 0.3 * n, 0.3 * n + 0.3) for n in range(50)]
    lines = cues(said)
    assert [word for line in lines for word in line] == said
    assert max(len(" ".join(word.text for word in line)) for line in lines) <= 42
    assert webvtt([]) == "WEBVTT\n"


@DURATIONS
def test_a_stream_in_chunks_finds_what_the_whole_holds(durations):
    """The encoder hears one frame on each side: that context is all of it."""
    recognizer = StandInRecognizer(durations=durations)
    audio = noise(6.3)
    (whole,) = recognizer.transcribe([audio])
    assert len(whole.labels) > 10
    running = Stream(recognizer, Contexts(chunk=0.32, left=0.16, right=0.08))
    shown = []
    for first in range(0, len(audio), 3001):  # no multiple of anything
        update = running.feed(audio[first : first + 3001])
        stable = update.words[: update.stable]
        assert stable[: len(shown)] == shown  # what has been shown stays, times included
        shown = stable
    assert running.labels == whole.labels[: len(running.labels)]
    last = running.finish()
    assert last.stable == len(last.words)
    assert last.words[: len(shown)] == shown
    assert (running.labels, running.frames) == (whole.labels, whole.frames)
    assert last.words == transcribe.transcribed(recognizer, audio)
    assert len(running._kept) <= running.left + running.chunk + running.right


def test_a_stream_without_context_hears_something_else():
    recognizer = StandInRecognizer()
    audio = noise(6.3)
    running = Stream(recognizer, Contexts(chunk=0.32, left=0, right=0))
    running.feed(audio)
    running.finish()
    assert running.labels != recognizer.transcribe([audio])[0].labels


def test_streams_of_nothing_and_of_little():
    recognizer = StandInRecognizer()
    contexts = Contexts(chunk=0.32, left=0.16, right=0.08)
    *_, last = stream(recognizer, noise(0.0), contexts)
    assert last == ([], 0)
    *_, last = stream(recognizer, noise(0.1), contexts)
    assert last.words == transcribe.transcribed(recognizer, noise(0.1))


def test_transcripts_with_word_times_and_subtitles(tmp_path, monkeypatch):
    recognizer = StandInRecognizer()
    path = tmp_path / "said.wav"
    soundfile.write(path, np.stack([noise(2.0)] * 2, 1), 16_000, subtype="FLOAT")
    printed = {}
    for live in (False, True):
        console = rich_console.Console(file=io.StringIO(), width=300)
        transcribe.print_transcripts(
            recognizer, [path], live=live, subtitles=True, beam=1, console=console
        )
        printed[live] = console.file.getvalue()
    words = transcribe.transcribed(recognizer, noise(2.0))
    assert " ".join(word.text for word in words) in printed[False]
    assert f"{words[1].start:8.2f} {words[1].end:8.2f}  {words[1].text}" in printed[False]
    assert path.with_suffix(".vtt").read_text() == webvtt(words)
    assert printed[False].splitlines()[1:] == printed[True].splitlines()[-len(words) - 2 :]
    monkeypatch.setattr(transcribe, "LONGEST_SECONDS", 1.0)
    with pytest.raises(ValueError, match="longer"):
        transcribe.transcribed(recognizer, noise(2.0), beam=4)
    with pytest.raises(ValueError, match="cannot be read"):
        transcribe.recording(path.with_suffix(".vtt"), 16_000)


def test_a_stream_takes_no_beam(tmp_path):
    with pytest.raises(ValueError, match="--stream takes a beam of 1"):
        transcribe.transcribe(tmp_path, [tmp_path / "a.wav"], stream=True, beam=4)


def test_one_file_that_is_no_sound_stops_no_other(tmp_path):
    recognizer, said, broken = StandInRecognizer(), tmp_path / "said.wav", tmp_path / "[b].wav"
    soundfile.write(said, noise(9.0), 16_000, subtype="FLOAT")
    broken.write_bytes(said.read_bytes()[:20])
    console = rich_console.Console(file=io.StringIO(), width=40)
    with pytest.raises(ValueError, match=r"not transcribed: .*\[b\]\.wav"):
        transcribe.print_transcripts(
            recognizer, [broken, said], live=False, subtitles=False, beam=1, console=console
        )
    lines = console.file.getvalue().splitlines()
    assert lines[0] == str(broken)
    assert "cannot be read" in lines[1]
    words = transcribe.transcribed(recognizer, noise(9.0))
    assert lines[2:4] == [str(said), " ".join(word.text for word in words)]
