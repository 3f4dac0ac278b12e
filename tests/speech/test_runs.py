"""The command line of examples.speech and the folder of a run: what goes on, what is refused."""

import dataclasses
import json
import pathlib
import sys
import unittest.mock

import numpy as np
import pytest

for library in ("flax", "grain", "jiwer", "optax", "orbax.checkpoint", "rich", "sentencepiece"):
    pytest.importorskip(library)

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

from examples.speech import __main__ as command_line  # noqa: E402
from examples.speech import align, train  # noqa: E402
from examples.speech.checkpoint import Checkpoints, History, keep_settings, settings_before  # noqa: E402
from examples.speech.files import alone_in, read_records, replace  # noqa: E402
from examples.speech.optimizer import MOST_BAD_BATCHES  # noqa: E402
from examples.speech.progress import Progress  # noqa: E402
from examples.speech.settings import ExplainedError, Settings, preset  # noqa: E402
from examples.speech.step import Totals  # noqa: E402


def test_a_file_is_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "run" / "some"
    replace(path, b"old")
    replace(path, b"new")
    settings = preset("tiny")
    keep_settings(tmp_path, settings)

    def killed(path: pathlib.Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        replace(path, b"newer")
    assert path.read_bytes() == b"new"
    with pytest.raises(KeyboardInterrupt):
        keep_settings(tmp_path, dataclasses.replace(settings, steps=7))
    assert Settings.from_json((tmp_path / "settings.json").read_text()) == settings


def test_a_history_that_a_kill_cut_off(tmp_path):
    path = tmp_path / "history.jsonl"
    lines = [json.dumps({"step": n, "seconds": 2.0 * n, "loss": 1.0}) for n in (10, 20, 30)]
    path.write_text("\n".join(lines)[:-9])
    assert [record["step"] for record in read_records(path)] == [10, 20]
    history = History(tmp_path, 20)
    assert history.seconds == 40.0
    history.append(step=25, seconds=50.0, loss=0.5)
    assert [record["step"] for record in read_records(path)] == [10, 20, 25]


def test_command_line_has_every_setting():
    options = command_line.parse_arguments(
        ["train", "--data", "librispeech", "DIR", "--speeds", "0.9", "1.1", "--loss=tdt"]
    )
    expected = preset("small", data="librispeech", path="DIR", loss="tdt", speeds=(0.9, 1.1))
    assert command_line.settings_of(options) == expected


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speech", "transcribe", "run", "a.wav"])
    monkeypatch.setitem(sys.modules, "examples.speech.transcribe", None)
    with pytest.raises(SystemExit, match=r'examples\.speech\.transcribe.* pip install -e "\.\[sp'):
        command_line.main()


def test_only_what_a_message_explains_has_no_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speech", "align", "run", "a.wav", "text"])
    for error, shown in ((ExplainedError("no"), SystemExit), (ValueError("shapes"), ValueError)):
        monkeypatch.setattr(align, "align", unittest.mock.Mock(side_effect=error))
        with pytest.raises(shown, match=str(error)):
            command_line.main()


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with alone_in(tmp_path), pytest.raises(ValueError, match="Another training goes on in"):
        train.run(preset("tiny", cache=str(tmp_path / "cache")), tmp_path, quiet=True)
    assert not (tmp_path / "settings.json").exists()
    with alone_in(tmp_path):
        pass


def test_which_settings_may_change(tmp_path):
    first = preset("tiny", steps=100)
    keep_settings(tmp_path, first)
    longer = dataclasses.replace(first, steps=200, learning_rate=1e-3, beam=1, loader_workers=2)
    wider = dataclasses.replace(longer, width=32)
    # Nothing has been learnt: memory was too small for the first, say.
    (tmp_path / "checkpoints" / "100.unfinished").mkdir(parents=True)
    (tmp_path / "tokenizer.model").touch()
    assert settings_before(tmp_path, wider) == wider
    assert not (tmp_path / "tokenizer.model").exists()
    (tmp_path / "checkpoints" / "100").mkdir()
    (tmp_path / "tokenizer.model").touch()
    assert settings_before(tmp_path, longer) == first
    with pytest.raises(ValueError, match=r"width 64 \(now 32\).* What may change is .*steps"):
        settings_before(tmp_path, wider)
    assert (tmp_path / "tokenizer.model").exists()
    said = train._going_on(50, first, longer)
    assert "from step 50 with steps 100 (now 200), learning_rate 0.003 (now 0.001)" in said
    assert train._going_on(50, longer, longer) == "; going on from step 50"
    assert train._going_on(0, first, longer) == ""


def test_a_corpus_that_is_not_there_leaves_no_settings(tmp_path):
    with pytest.raises(ValueError, match="no corpus 'mine'"):
        train.run(preset("tiny", data="mine"), tmp_path, quiet=True)
    assert not (tmp_path / "settings.json").exists()


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint in"):
        Checkpoints(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_bad_batch_is_no_part_of_the_loss(tmp_path):
    """So many on end are the end: what comes later would be without sense, too."""
    progress = Progress(History(tmp_path, 0), 2, quiet=True)

    def batch(cost: float) -> None:
        progress.batch(Totals(*map(np.float32, (cost, 2, 7))), 0.0)

    for step, cost in enumerate((6.0, np.nan, np.inf, 8.0), 1):
        batch(cost)
        progress.step(step, 10, lambda: 2)
    batch(np.nan)
    progress.step(6, 10, lambda: 3)
    losses = [record["loss"] for record in read_records(tmp_path / "history.jsonl")]
    np.testing.assert_array_equal(losses, [3.0, 4.0, np.nan])
    for _ in range(MOST_BAD_BATCHES):
        batch(np.nan)
    with pytest.raises(ExplainedError, match=r"21 batches on end is not finite"):
        batch(1.0)


def test_what_no_step_did_is_not_in_its_speed(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    printed = []
    progress = Progress(History(tmp_path, 0), 1, quiet=True)
    monkeypatch.setattr(progress.console, "print", lambda line, **_: printed.append(line))
    now[0] = 60.0  # compiling
    progress.begin()
    now[0] = 60.5
    progress.batch(Totals(*map(np.float32, (6, 2, 7))), 0.1)
    progress.step(1, 10, lambda: 0)
    assert "2.00 steps/s  4 utterances/s  waiting 20.0%" in printed[0]
