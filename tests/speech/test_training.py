"""The speech example learns, and goes on where it was killed, or with other settings."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from support import SAME_BITS, needs_on_gpu

for library in ("espeakng_loader", "flax", "grain", "jiwer", "optax", "orbax", "sentencepiece"):
    pytest.importorskip(library)
pytest.importorskip("soundfile")

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

from flax import nnx  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from examples.speech import train  # noqa: E402
from examples.speech.checkpoint import Checkpoints, History  # noqa: E402
from examples.speech.evaluate import Recognizer  # noqa: E402
from examples.speech.progress import COMPILATIONS, Progress  # noqa: E402
from examples.speech.settings import Settings, preset  # noqa: E402
from examples.speech.step import TrainingState  # noqa: E402

STEPS, HALF = 40, 20
LEARN = """
import sys, jax
from examples.speech import train
from examples.speech.settings import Settings
train.run(Settings.from_json(sys.argv[1]), sys.argv[2], devices=jax.devices()[:1], quiet=True)
"""
READ = """
import sys, jax
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[3]))
jax.devices()
if jax.process_index() == 0:
    from examples.speech.evaluate import Recognizer
    Recognizer.load(sys.argv[2])
"""
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compilations.append(event) if "backend_compile" in event else None
)


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """`tiny` with all that is random: dropout, masks, order."""
    return preset(
        "tiny",
        cache=str(tmp_path_factory.mktemp("cache")),
        train_sentences=120,
        valid_sentences=6,
        buckets=1,
        steps=STEPS,
        warmup_steps=8,
        evaluate_every=HALF,
        joint_dropout=0.1,
        beam=1,
    )


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """A folder of compiled programs, for all runs of this file, whatever their process."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder)
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def trained(settings, compiled_once, tmp_path_factory):
    """The folder of a run that was never stopped, and how much was compiled before each step."""
    run_dir, counts = tmp_path_factory.mktemp("run"), []
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        step = Progress.step
        patch.setattr(
            Progress,
            "step",
            lambda *arguments: (counts.append(len(compilations)), step(*arguments)),
        )
        train.run(settings, run_dir, devices=jax.devices()[:1], quiet=True)
    return run_dir, counts


def history(run_dir, key: str) -> list:
    records = map(json.loads, (run_dir / "history.jsonl").read_text().splitlines())
    return [record[key] for record in records if key in record]


def test_loss_falls(trained):
    losses = history(trained[0], "loss")
    assert len(losses) == STEPS / (HALF // 10)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert all(rate >= 0 for rate in history(trained[0], "word_error_rate"))
    assert len(history(trained[0], "samples")[-1]) == 6


def test_nothing_is_compiled_after_the_first_steps(trained):
    """An evaluation and a checkpoint are between the first steps and the last."""
    _, counts = trained
    assert len(counts) == STEPS
    assert counts[-1] == counts[1]


def test_history_says_how_fast_it_went_and_what_was_compiled(trained):
    records = [json.loads(line) for line in (trained[0] / "history.jsonl").read_text().splitlines()]
    reports = [record for record in records if "loss" in record]
    for report in reports:
        assert report["steps_a_second"] > 0
        assert report["utterances_a_second"] > report["steps_a_second"]
        assert 0 <= report["waiting"] < 1
        assert report["compiled_after"] < reports[0]["seconds"]
    assert reports[-1]["compiled"] == reports[0]["compiled"] > 0


def test_last_line_of_a_training_counts_what_was_compiled(tmp_path, capsys):
    progress = Progress(History(tmp_path, 0), 1)
    before = COMPILATIONS.count
    jax.block_until_ready(jax.jit(lambda x: x * 3 + 1)(np.float32(before)))
    time.sleep(0.6)  # is not until the newest program
    progress.trained()
    count, after = re.findall(r"\d+", capsys.readouterr().out)
    assert int(count) == COMPILATIONS.count == before + 1
    assert int(after) == 0


def test_saving_compiles_nothing_on_several_devices(tmp_path):
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    everywhere = NamedSharding(Mesh(np.asarray(jax.devices()[:4]), ("data",)), P())
    arrays = [jax.device_put(np.ones((64, 8 + i), np.float32), everywhere) for i in range(4)]
    state = TrainingState(*({"x": x} for x in arrays[:3]), arrays[3])
    before = len(compilations)
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, state, {}, 0.5)
    checkpoints.close()
    assert (tmp_path / "checkpoints" / "1").exists()
    assert len(compilations) == before


@needs_on_gpu(SAME_BITS)
def test_killed_run_goes_on_with_the_same_bits(settings, trained, compiled_once, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
        "JAX_COMPILATION_CACHE_DIR": compiled_once,
    }
    command = [sys.executable, "-P", "-c", LEARN, settings.to_json(), str(tmp_path)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            while not (tmp_path / "checkpoints" / str(HALF)).exists():
                assert process.poll() is None, "it ended too early"
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
    assert STEPS not in map(int, os.listdir(tmp_path / "checkpoints"))

    # As the fixture's run and the process: other options of the compiler are other bits.
    jax.config.update("jax_disable_most_optimizations", False)
    train.run(settings, tmp_path, devices=jax.devices()[:1], quiet=True)
    for key in ("step", "loss", "word_error_rate", "samples"):
        assert history(tmp_path, key) == history(trained[0], key)
    models = [Recognizer.load(run_dir).model for run_dir in (tmp_path, trained[0])]
    for resumed, alone in zip(*map(jax.tree.leaves, map(nnx.state, models)), strict=True):
        np.testing.assert_array_equal(resumed, alone)


def test_other_settings_do_not_go_on(settings, trained):
    changed = Settings.from_json(settings.to_json().replace("0.1", "0.2"))
    with pytest.raises(ValueError, match=r"joint_dropout 0\.1 \(now 0\.2\)"):
        train.run(changed, trained[0], quiet=True)


def test_a_run_may_become_longer_on_other_devices(settings, trained, tmp_path):
    """The checkpoints of before stay what they are, and so does the past."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained[0], run_dir)
    longer = dataclasses.replace(settings, steps=STEPS + 2, evaluate_every=2)
    train.run(longer, run_dir, devices=jax.devices()[:2], quiet=True)
    assert history(run_dir, "loss")[:-2] == history(trained[0], "loss")
    assert history(run_dir, "step")[-1] == STEPS + 2
    assert np.isfinite(history(run_dir, "loss")).all()


def test_one_process_of_several_reads_a_run(trained):
    """As the first of them does for its report, when the others have ended."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-P", "-c", READ, str(port), str(trained[0])]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen([*command, str(n)], env=environment))
            for n in range(2)
        ]
        try:
            assert [process.wait(timeout=90) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()


def test_recognizer(trained):
    recognizer = Recognizer.load(trained[0])
    rng = np.random.default_rng(0)
    audios = [rng.standard_normal(n).astype(np.float32) / 10 for n in (16_000, 30_000)]
    encoder, lengths = recognizer.encode(audios)
    assert encoder.shape == (2, 50, recognizer.settings.width)  # of four seconds
    assert lengths.tolist() == [13, 24]  # ceil(ceil(ceil(100 / 2) / 2) / 2)
    assert recognizer.frame_seconds == pytest.approx(0.08)
    both = recognizer.transcribe(audios)
    assert [len(one.labels) for one in both] == [len(one.frames) for one in both]
    assert np.isfinite([one.log_prob for one in both]).all()
