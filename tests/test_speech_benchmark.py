"""The benchmark of the speech example: whose kernels are whose, and that every part is measured."""

import json
import pathlib
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs_on_gpu

for library in ("flax", "grain", "jiwer", "optax", "orbax", "sentencepiece", "soundfile"):
    pytest.importorskip(library)

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[1]))

from benchmarks import speech  # noqa: E402
from benchmarks.contenders import speech_ways  # noqa: E402
from benchmarks.contenders.peers import CONTENDERS  # noqa: E402
from benchmarks.measuring import scopes, timing, traces  # noqa: E402
from benchmarks.printing import speech_tables  # noqa: E402
from benchmarks.problems import recordings  # noqa: E402
from benchmarks.running import on_speech  # noqa: E402
from examples.speech import features  # noqa: E402
from examples.speech.settings import preset  # noqa: E402
from examples.speech.text import Tokenizer  # noqa: E402

SCOPES = "encoder", "joint"
# A loop whose copy has no metadata, a fusion that has none of a scope, and a custom call.
HLO = """
HloModule jit_step, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %a.1 = f32[2]{0} add(%p, %p), metadata={op_name="jit(step)/jvp(joint)/add"}
  %a.2 = f32[2]{0} add(%a.1, %p), metadata={op_name="jit(step)/jvp(joint)/add"}
  ROOT %m.1 = f32[2]{0} multiply(%a.2, %p), metadata={op_name="jit(step)/jvp(encoder)/mul"}
}

%body (q: f32[2]) -> f32[2] {
  %q = f32[2]{0} parameter(0)
  ROOT %copy.7 = f32[2]{0} copy(%q)
}

%condition (r: f32[2]) -> pred[] {
  %r = f32[2]{0} parameter(0)
  ROOT %compare.1 = pred[] constant(true)
}

ENTRY %main (x.1: f32[2]) -> f32[2] {
  %x.1 = f32[2]{0} parameter(0)
  %while.1 = f32[2]{0} while(%x.1), condition=%condition, body=%body, \
metadata={op_name="jit(step)/transpose(jvp(encoder))/while"}
  %add_fusion.3 = f32[2]{0} fusion(%while.1), kind=kLoop, calls=%fused, \
metadata={op_name="jit(step)/div"}
  %loss.1 = f32[2]{0} custom-call(%add_fusion.3), custom_call_target="kernel", \
metadata={op_name="jit(step)/shard_map/jvp(joint)/encoder/entries"}
  ROOT %copy.8 = f32[2]{0} copy(%loss.1)
}
"""
GPU = [
    {"name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
    {"name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
    {"name": "thread_name", "pid": 1, "tid": 5, "args": {"name": "Stream #5(Compute)"}},
    {"name": "thread_name", "pid": 1, "tid": 6, "args": {"name": "XLA Ops"}},
]


def kernel(name: str, begin: float, length: float, /, tid: int = 5, **about: str) -> dict:
    times = {"ts": 1e3 * begin, "dur": 1e3 * length}
    return {"name": name, "ph": "X", "pid": 1, "tid": tid, **times, "args": about}


def test_scope_of_a_name():
    def found(name):
        return scopes.of_name(name, SCOPES)

    assert found("jit(step)/transpose(jvp(encoder))/while/body/dot_general") == "encoder"
    assert found("jit(step)/jit(main)/shard_map/joint/jvp(encoder)/add") == "joint"
    assert found("joint") == "joint"
    assert found("jit(step)/Encoder.encoder_of/jointly/mul") is None


def test_scopes_of_a_program():
    found = scopes.of_program(HLO, SCOPES)
    assert found["while.1"] == found["copy.7"] == found["compare.1"] == "encoder"
    assert (found["add_fusion.3"], found["m.1"]) == ("joint", "encoder")
    assert found["loss.1"] == "joint"
    assert found["copy.8"] == scopes.OTHER


def test_kernels_of_a_gpu_by_scope():
    program = scopes.of_program(HLO, SCOPES)
    kernels = [
        kernel("void Walk<float>", 5, 2, hlo_op="loss.1", name="jit(step)/div"),
        kernel("MemcpyD2D", 0, 1, hlo_op="copy.7"),
        kernel("nvjet_tst", 2, 1, name="jit(step)/transpose(jvp(encoder))/dot_general"),
        kernel("add_fusion_3", 7, 0.5),  # of a CUDA graph
        kernel("nvjet_tst", 8, 0.25),
        kernel("copy.8", 0, 9, tid=6, hlo_op="copy.8"),
    ]
    times = scopes.milliseconds([*GPU, *kernels], program, SCOPES)
    assert times.busy == {"encoder": 2, "joint": 2.5, scopes.UNMAPPED: 0.25}
    assert times.elapsed == {"encoder": 3, "joint": 4.5, scopes.UNMAPPED: 0.75}


def test_events_of_a_cpu_by_scope():
    program = scopes.of_program(HLO, SCOPES)
    events = [
        kernel("while.1", 0, 10, hlo_op="while.1"),
        kernel("loss.1", 1, 3, hlo_op="loss.1"),
        kernel("copy.7", 5, 2, hlo_op="copy.7"),
        kernel("copy.8", 2, 4, tid=6, hlo_op="copy.8"),
        kernel("Thunk", 0, 50),
    ]
    times = scopes.milliseconds(events, program, SCOPES)
    assert times == ({"encoder": 7, "joint": 3, scopes.OTHER: 4}, None)


@needs_on_gpu(speech.NO_GRAPHS)
def test_profile_of_a_gradient_by_scope():
    def cost(x):
        with jax.named_scope("encoder"):
            x, _ = jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=3)
        with jax.named_scope("joint"):
            return jnp.sort(jnp.cos(x) @ x, 0).sum()

    x = jnp.linspace(0, 1, 128 * 128).reshape(128, 128)
    step = jax.jit(jax.grad(cost)).lower(x).compile()
    jax.block_until_ready(step(x))
    events = traces.record(lambda: jax.block_until_ready(step(x)))
    times = scopes.milliseconds(events, scopes.of_program(step.as_text(), SCOPES), SCOPES)
    assert min(times.busy["encoder"], times.busy["joint"]) > 0
    assert scopes.UNMAPPED not in times.busy
    assert sum(times.busy.values()) < 1.5 * (times.busy["encoder"] + times.busy["joint"])


def test_features_of_a_worker_are_those_of_the_step(rng):
    settings = preset("small")
    for samples in (16_000, 7_777, 100):
        audio = rng.standard_normal((1, samples), np.float32) / 10
        expected, _ = features.extract(audio, np.array([samples], np.int32), settings)
        np.testing.assert_allclose(
            speech_ways.features(audio[0], settings), expected[0], rtol=1e-4, atol=1e-4
        )


def test_both_ways_have_one_loss(rng):
    encoder, predictor = (rng.standard_normal((3, n, 8), np.float32) for n in (9, 5))
    kernel, bias = rng.standard_normal((8, 6), np.float32), rng.standard_normal(6, np.float32)
    labels = rng.integers(1, 6, (3, 4)).astype(np.int32)
    lengths = np.array([9, 4, 0], np.int32), np.array([4, 2, 0], np.int32)
    options = {"fastemit_lambda": 0.1, "where": lengths[0] > 0}
    arguments = encoder, predictor, kernel, bias, labels, *lengths
    ours, theirs = (CONTENDERS[way].make()(*arguments, **options) for way in speech_ways.WAYS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.fixture
def sizes(rng) -> np.ndarray:
    frames = rng.integers(5, 60, 400)
    return np.stack([frames, frames // 4], -1)


def test_planned_batches_are_of_the_recipe(sizes):
    settings = preset("tiny", frames_per_batch=2_000, buckets=3, max_seconds=2.0)
    buckets = recordings.planned(sizes, settings, 20)  # so many that none is left out
    assert [bucket.shape.samples for bucket in buckets] == sorted(
        {bucket.shape.samples for bucket in buckets}
    )
    assert len(buckets) == 3
    rows = sum(bucket.batches * bucket.shape.rows for bucket in buckets)
    trained = (1 - recordings.left_out(sizes, settings)) * len(sizes)
    assert 0.7 * len(sizes) < trained <= rows < trained + max(b.shape.rows for b in buckets)
    for bucket in buckets:
        audio, lengths, labels, labels_lengths = bucket.arrays(8)
        assert audio.shape == (bucket.shape.rows, bucket.shape.samples)
        assert labels.shape == (bucket.shape.rows, bucket.shape.labels)
        for row, length in zip(audio, lengths):
            assert row[:length].all()
            assert not row[length:].any()
        drawn = {(frames * 640, count) for frames, count in sizes.tolist()}
        assert {(n, u) for n, u in zip(lengths.tolist(), labels_lengths.tolist()) if n} <= drawn


def test_noise_has_the_lengths_that_it_should(sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "FILES", 5)
    settings = preset("tiny")
    recordings.write(str(tmp_path), sizes, settings)
    drawn = np.load(recordings.index_of(str(tmp_path)))
    corpus = recordings.Noise(str(tmp_path), drawn, 90, settings)
    tokenizer = Tokenizer.train(corpus.texts, settings.vocabulary)
    assert tokenizer.size <= settings.vocabulary
    labels = np.array([len(tokenizer.encode(text)) for text in corpus.texts])
    asked = np.resize(drawn[:, 1], 90)
    assert (labels >= asked).all()
    assert labels.sum() < 1.1 * asked.sum()
    for i in (0, 7):
        assert len(corpus[i].audio) == drawn[i % 5, 0] * 640
        assert corpus.seconds[i] == pytest.approx(drawn[i % 5, 0] * 0.04)


def test_rates_leave_out_the_first_report():
    def report(step, rate, utterances, waiting):
        about = {"loss": 1.0, "seconds": float(step), "compiled": 7, "compiled_after": 3.0}
        rates = {"steps_a_second": rate, "utterances_a_second": utterances, "waiting": waiting}
        return {"step": step, **about, **rates}

    reports = [report(10, 0.1, 1, 0.9), report(20, 2, 30, 0.0), report(30, 1, 30, 0.3)]
    found = on_speech.rates(reports)
    assert (found["steps"], found["first_report_s"], found["last_report_s"]) == (20, 10, 30)
    assert found["steps_a_second"] == pytest.approx(2 / 1.5)
    assert found["utterances_a_second"] == pytest.approx(30)
    assert found["waiting"] == pytest.approx(0.2)
    assert on_speech.rates(reports[:1]) == {"error": "1 reports came in time"}


def test_tables_of_several_devices_and_of_what_failed():
    bucket = {"rows": 4, "samples": 16_000, "labels": 3, "batches": 2}
    measured = {"step_ms": 12.0, "busy_ms": {"joint_loss": 1.0, "encoder": 9.0}}
    parts = {"elapsed_ms": {"joint_loss": 3.0, "encoder": 9.0}, "temporary_mib": 5.0}
    out = {**bucket, "error": "out of memory", "temporary_mib": 90_000.0}
    late = {"devices": 2, "frames_per_batch": 8, "error": "not within 9 s"}
    results = {
        "settings": {"sample_rate": 16_000, "loader_workers": 8},
        "step": {"recipe": [{**bucket, **measured, **parts}, out], "recipe_materialised": [out]},
        "training": [{"devices": 1, "frames_per_batch": 4, "steps_a_second": 50.0}, late],
        "features": [{**bucket, "numpy_cpu_ms": 40.0}, {**bucket, "error": "crashed"}],
    }
    step = speech_tables.step(results)
    assert "| joint | their mean | 2 | 12.0 | 10.0 | 1.00 |" in step
    assert "| materialised logits | 4, 1.00, 3 | 2 | out of memory |" in step
    assert "90000" in step
    assert "take 10.0% of the kernels' time, 25.0% with gaps" in step
    assert step.endswith("missed.")
    results["step"]["recipe"][0]["elapsed_ms"]["joint_loss"] = 1.0
    assert speech_tables.step(results).endswith("met.")
    results["step"]["recipe"][0]["busy_ms"][scopes.UNMAPPED] = 2.0
    assert speech_tables.step(results).endswith("missed.")
    results["step"]["recipe"][0]["busy_ms"] = {scopes.UNMAPPED: 2.0}
    results["step"]["recipe"][0]["elapsed_ms"] = {scopes.UNMAPPED: 2.0}
    assert speech_tables.step(results).endswith("no kernel could be mapped.")
    assert "| 2 | 8 | not within 9 s |" in speech_tables.training(results)
    page = speech_tables.features(results)
    assert "| 40.0 |  |  | 2.00 |" in page  # of cores, at 50 steps a second
    assert "crashed" in page


def test_whole_run_on_a_cpu(tmp_path, monkeypatch, capsys, sizes):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    quick = f"""
        import {timing.__name__} as timing

        timing.WARM_UP_SECONDS = timing.RUN_SECONDS = 1e-3
    """
    (tmp_path / "quick_clock.py").write_text(textwrap.dedent(quick))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(speech, "PLUGINS", (*speech.PLUGINS, "quick_clock"))
    monkeypatch.setattr(recordings, "FILES", 10)
    monkeypatch.setattr(speech, "WAYS", speech_ways.WAYS[:1])  # compiling is what takes the time
    np.save(tmp_path / "sizes.npy", sizes)
    path = tmp_path / "results.json"
    speech.main(
        [
            *("--json", str(path), "--librispeech", str(tmp_path / "sizes.npy")),
            *("--preset", "tiny", "--shapes", "1", "--utterances", "60", "--buckets", "1"),
            *("--layers", "1", "--width", "16", "--frames-per-batch", "800"),
            *("--steps", "8", "--evaluate-every", "4", "--seconds", "300"),
        ]
    )
    results = json.loads(path.read_text())
    (row,) = results["step"]["recipe"]
    assert min(row[name] for name in ("step_ms", "temporary_mib", "audio_ms", "features_ms")) > 0
    assert row["audio_mib"] == pytest.approx(2 * row["features_mib"])  # 160 samples, 80 bands
    assert set(on_speech.SCOPES) <= row["busy_ms"].keys()
    assert scopes.UNMAPPED not in row["busy_ms"]
    (training,) = results["training"]
    assert training["steps"] == 7
    assert training["steps_a_second"] > 0
    assert training["compiled_after_s"] < training["first_report_s"]
    (row,) = results["features"]
    assert min(row[f"{kind}_cpu_ms"] for kind in ("numpy", "jax", "load")) > 0
    page = capsys.readouterr().out
    for phrase in ("# ", "## The step", "## Trainings", "## Features", "| their mean |"):
        assert phrase in page


def test_a_part_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys, sizes):
    def fails(*_):
        raise OSError("no room")

    monkeypatch.setattr(recordings, "write", fails)
    monkeypatch.setattr(speech.processes, "run", lambda *_, **__: ({}, [], []))
    np.save(tmp_path / "sizes.npy", sizes)
    path = tmp_path / "results.json"
    speech.main(["--json", str(path), "--librispeech", str(tmp_path / "sizes.npy")])
    results = json.loads(path.read_text())
    assert results["errors"] == {"training": "OSError: no room", "features": "OSError: no room"}
    assert len(results["step"]["recipe_materialised"]) == len(results["buckets"])
    assert "The part features ended with OSError: no room." in capsys.readouterr().out
