"""The benchmark says what it should, at sizes where its times mean nothing."""

import dataclasses
import json
import pathlib
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import needs_native

import jax_rnnt
from jax_rnnt._xla import ffi

# Behind everything else: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[1]))

from benchmarks import family, joint, loss, plot, scaling, search
from benchmarks.contenders import quoted
from benchmarks.measuring import devices, hlo, timing, traces
from benchmarks.printing import joint_tables
from benchmarks.problems import joint_models, precision, shapes

BENCHMARKS = pathlib.Path(loss.__file__).parent
FRAGILE = """
    import os
    from benchmarks.contenders.peers import contender

    @contender("jax", requires="jax")
    def fragile():
        def costs(logits, labels, frames_lengths, labels_lengths):
            if logits.shape[0] == 2:  # of the precision's case
                os._exit(1)
            raise RuntimeError("RESOURCE_EXHAUSTED: no room")

        return costs
"""
# Imported by every process that measures.
QUICK = f"""
    import {timing.__name__} as timing

    timing.WARM_UP_SECONDS = timing.RUN_SECONDS = 1e-3
"""
HLO = """
HloModule jit_f, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%command_buffer (p.0: f32[2]) -> f32[2] {
  %p.0 = f32[2]{0} parameter(0)
  %fusion.1 = f32[2]{0} fusion(%p.0), kind=kLoop, calls=%fused
  ROOT %copy.1 = f32[2]{0} copy(%fusion.1)
}

ENTRY %main (x.1: f32[2]) -> f32[2] {
  %x.1 = f32[2]{0} parameter(0)
  %both = (f32[2]{0}, /*index=1*/s32[]) custom-call(%x.1), custom_call_target="kernel"
  %one = f32[2]{0} get-tuple-element(%both), index=0
  ROOT %call.1 = f32[2]{0} call(%one), to_apply=%command_buffer
}
"""
TRACE = [
    {"name": "process_name", "pid": 1, "args": {"name": "/device:GPU:0"}},
    {"name": "process_name", "pid": 2, "args": {"name": "/host:CPU"}},
    {"name": "thread_name", "pid": 1, "tid": 5, "args": {"name": "Stream #5(Compute)"}},
    {"name": "thread_name", "pid": 1, "tid": 6, "args": {"name": "XLA Ops"}},
    {"name": "thread_name", "pid": 2, "tid": 5, "args": {"name": "Stream of the host"}},
    {"name": "nvjet_tst_128x128", "ph": "X", "pid": 1, "tid": 5, "dur": 2000.0},
    {"name": "nvjet_tst_128x128", "ph": "X", "pid": 1, "tid": 5, "dur": 1000.0},
    {"name": "void ForwardTileKernel<float>", "ph": "X", "pid": 1, "tid": 5, "dur": 500.0},
    {"name": "loop_tanh_fusion", "ph": "X", "pid": 1, "tid": 5, "dur": 250.0},
    {"name": "dot.1", "ph": "X", "pid": 1, "tid": 6, "dur": 9000.0},
    {"name": "nvjet_tst_128x128", "ph": "X", "pid": 2, "tid": 5, "dur": 9000.0},
]


def joint_case(N, T, U, H, V, model="random", frames=None, labels=None):
    full = shapes.full(N, T, U, V)
    case = shapes.JointCase.of(full, H, V, model, scale=1.0)
    return dataclasses.replace(
        case,
        frames_lengths=frames or case.frames_lengths,
        labels_lengths=labels or case.labels_lengths,
    )


@pytest.fixture
def librispeech(tmp_path) -> str:
    sizes = np.stack([np.arange(65) % 7 + 2, np.arange(65) % 3], -1).astype(np.int16)
    path = tmp_path / "sizes.npy"
    np.save(path, sizes)
    return str(path)


@pytest.fixture
def quick(tmp_path, monkeypatch) -> str:
    """A plugin with which no more is measured than shows that it can be."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # in the processes that it starts
    for name in ("WARM_UP_SECONDS", "RUN_SECONDS"):
        monkeypatch.setattr(timing, name, 1e-3)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "quick_clock.py").write_text(textwrap.dedent(QUICK))
    return "quick_clock"


@pytest.mark.skipif(ffi.native_module("cpu") is None, reason="built without kernels for cpu")
def test_whole_run_on_a_cpu(tmp_path, monkeypatch, capsys, librispeech, quick):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "fragile_peer.py").write_text(textwrap.dedent(FRAGILE))
    path = tmp_path / "results.json"
    loss.main(
        [
            *("--json", str(path), "--shapes", "6,3,5", "--batches", "3"),
            *("--librispeech", librispeech, "--librispeech-batches", "1"),
            *("--peers", "reference", "fragile"),
            *("--plugin", "fragile_peer", "--plugin", quick),
        ]
    )
    results = json.loads(path.read_text())
    assert results["copy_gb_per_second"] > 0

    ours = [row for row in results["rows"] if row["contender"] == "jax_rnnt"]
    assert [(row["group"], row["lengths"]) for row in ours] == [
        ("synthetic", "full"),
        ("synthetic", "random"),
        ("file order", "full"),
        ("file order", "real"),
        ("sorted by T", "real"),
    ]
    assert all(row["forward_backward_over_floor"] > 0 for row in ours)
    assert ours[0]["forward_ms"] > 0
    assert ours[0]["thunks"] >= 3
    assert ours[0]["beyond_logits_mib"] >= ours[0]["temporary_mib"] + ours[0]["logits_mib"]
    peers = [row for row in results["rows"] if row["contender"] == "reference"]
    assert [row["lengths"] for row in peers] == ["full"]
    errors = [row["error"] for row in results["rows"] if row["contender"] == "fragile"]
    assert errors == ["out of memory"] * 4
    errors = [row["error"] for row in results["precision"] if row["contender"] == "fragile"]
    assert errors == ["crashed (exit status 1)"]
    relative = [row["relative"] for row in results["precision"] if "relative" in row]
    assert len(relative) == 2
    assert max(relative) < 1e-6
    assert results["train_step"][0]["temporary_mib"] >= results["train_step"][0]["logits_mib"]

    text = capsys.readouterr().out
    for phrase in ("| (6, 3, 5) | 3 | random | **jax_rnnt** |", "target at most 0.65", "GB/s"):
        assert phrase in text

    pytest.importorskip("matplotlib")
    assert all(picture.stat().st_size > 0 for picture in plot.save(results, str(tmp_path / "p")))


def test_peers_that_do_not_run_are_quoted_for_the_measured_cases():
    case = shapes.full(16, 150, 40, 28)
    ours = {"contender": "jax_rnnt", **case.key, "dtype": "float32", "forward_backward_ms": 0.1}
    gradients = {**shapes.full(2, 1500, 300, 50).key, "contender": "jax_rnnt", "relative": 1e-6}
    results = {
        "copy_gb_per_second": 3000,
        "contenders": {"apex": {"missing": "no module"}, "reference": {}},
        "rows": [ours],
        "precision": [gradients],
    }
    loss._quote(results, all_of_them=False)
    (row,) = (row for row in results["rows"] if row["contender"] != "jax_rnnt")
    assert (row["contender"], row["N"], row["quoted"]) == ("apex", 16, True)
    assert row["forward_backward_over_floor"] > 1
    assert [row["contender"] for row in results["precision"]] == ["jax_rnnt", "apex"]
    (run,) = results["quoted"]
    assert "H100" in run["device"]
    assert run["date"]

    loss._quote(results, all_of_them=True)  # what is there already is not quoted again
    names = [row["contender"] for row in results["rows"]]
    assert len(names) == len(set(names))
    assert {"apex", "nemo_triton", "warp_rnnt_compact"} < set(names)
    assert "torchaudio" not in names  # it has a function, and nothing says that it is missing


def test_the_newest_figures_are_quoted():
    case = {**shapes.full(2, 1500, 300, 50).key, "contender": "jax_rnnt", "relative": 1e-6}
    results = {"contenders": {}, "rows": [], "precision": [case, {**case, "scale": 3.0}]}
    quoted.enter(results, {"warp_rnnt"})
    newest, older = (row for row in results["precision"] if row["contender"] == "warp_rnnt")
    assert (newest["N"], newest["scale"]) == (1, 1)
    assert (older["N"], older["scale"]) == (2, 3)
    assert len(results["quoted"]) == 2


def test_the_quoted_run_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert all(path.stat().st_size > 0 for path in plot.save(quoted.newest(), str(tmp_path / "p")))


def test_float64_gradient_is_the_oracles():
    case = shapes.full(2, 7, 4, 6, scale=2)
    logits = precision.rounded_logits(case, "bfloat16")
    expected = oracle.loss(logits, *case.arrays(), from_logits=True)
    errors = precision.errors(expected.costs, expected.gradients, logits, case)
    assert max(errors.values()) < 1e-13


def test_lengths(librispeech):
    sizes = shapes.read_librispeech(librispeech)
    for case in (*shapes.file_order(sizes, 2), *shapes.sorted_by_frames(sizes, 9)):
        labels, frames_lengths, labels_lengths = case.arrays()
        assert labels.shape == (case.N, case.U - 1)
        assert (frames_lengths.max(), labels_lengths.max()) == (case.T, case.U - 1)
        assert case.group == shapes.SORTED or case.N == shapes.FILE_ORDER_BATCH
        assert case.group == shapes.FILE_ORDER or case.N * case.T <= shapes.SORTED_FRAMES
    case = shapes.random(16, 150, 40, 28)
    assert (max(case.frames_lengths), max(case.labels_lengths)) == (150, 39)
    assert min(case.frames_lengths) >= 75


def test_sorted_batches_are_as_large_as_they_may_be():
    cases = shapes.sorted_by_frames(np.full((1000, 2), (100, 3)), 99)
    assert [case.N for case in cases] == [100] * 10


def test_thunks_are_counted_in_called_computations_too():
    assert hlo.thunks(HLO) == {"custom-call": 1, "fusion": 1, "copy": 1}


def test_inputs_are_rotated_where_a_cache_would_hold_them():
    assert timing.count_inputs(1 << 30, "gpu") == 1
    assert timing.count_inputs(10 << 20, "gpu") == 5
    assert timing.count_inputs(1, "gpu") == timing.MOST_INPUTS


@pytest.mark.skipif(ffi.native_module("cpu") is None, reason="built without kernels for cpu")
def test_joint_on_a_cpu(tmp_path, monkeypatch, capsys, librispeech, quick):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(joint, "SQUARE", {"cpu": 64})
    monkeypatch.setattr(joint, "ROWS", {"cpu": 64})
    monkeypatch.setattr(joint, "H", 16)
    monkeypatch.setattr(joint, "V", 12)
    monkeypatch.setattr(joint, "PLUGINS", (*joint.PLUGINS, quick))
    # Each takes seconds to compile; the others have tests of their own.
    monkeypatch.setattr(joint, "OPTION_WAYS", ("standard", "4 hypotheses an encoder"))
    monkeypatch.setattr(joint, "OTHER_KERNELS", {"cpu": ("none",)})
    monkeypatch.setattr(joint, "WITH_OTHER_KERNELS", ("standard",))
    monkeypatch.setattr(joint, "PARTS", ("whole", "ranges", "band lattice", "full lattice"))
    path = tmp_path / "results.json"
    joint.main(
        [
            *("--json", str(path), "--dtype", "float32", "--platform", "cpu"),
            *("--shapes", "4,30,10,16,12"),
            *("--cases", "confident", "librispeech", "options", "pruned"),
            *("--librispeech", librispeech, "--librispeech-batches", "1"),
        ]
    )
    results = json.loads(path.read_text())
    assert results["tflops"] > 0
    assert [row["path"] for row in results["rows"]] == ["joint", "materialised"] * 2
    assert all(row["forward_backward_ms"] > 0 for row in results["rows"])
    real, confident = results["cases"]
    assert (confident["model"], confident["cells"]) == ("confident", 1200)
    assert (real["group"], real["N"], real["V"]) == (shapes.FILE_ORDER, 32, 12)
    assert real["cells"] < real["padded_cells"]
    for case in results["cases"]:
        assert case["kept_gradient"] > 1 - 1e-5
        assert max(case["relative_between"].values()) < 1e-4
        assert abs(case["cost_between"]) < 1e-3
    for row in results["rows"]:
        assert max(row["relative_from_truth"].values()) < 1e-4

    ways = [(row["way"], row["kernels"]) for row in results["options_rows"]]
    assert ways == [*((way, "own") for way in joint.OPTION_WAYS), ("standard", "none")]
    assert all(row["forward_backward_ms"] > 0 for row in results["options_rows"])
    assert [row["part"] for row in results["pruned"]] == list(joint.PARTS)
    assert all(row["forward_backward_ms"] > 0 for row in results["pruned"])

    text = capsys.readouterr().out
    assert "| (4, 30, 10, 16, 12) | confident | joint |" in text
    assert "| (4, 30, 10, 16, 12) | band lattice |" in text
    assert "LibriSpeech, 1 x 32 in file order" in text
    failed = results["rows"][3]
    for name in [name for name in failed if name.endswith("_ms") or "truth" in name]:
        del failed[name]
    del confident["relative_between"], confident["cost_between"]
    failed["error"] = "out of memory"
    assert "| out of memory |" in joint_tables.markdown(results)


@needs_native
def test_family(tmp_path, capsys, quick):
    path = tmp_path / "results.json"
    family.main(["--json", str(path), "--small", "--sections", "lattice", "loss", "memory"])
    results = json.loads(path.read_text())
    assert results["copy_gb_per_second"] > 0

    assert [(row["lattice"], row["arcs"]) for row in results["lattice"]] == [
        ("lattice_cost", 2),
        ("RNN-T", 2),
        ("one symbol a frame", 2),
        ("multi-blank 1, 2, 4, 8", 5),
        ("TDT 0..4", 9),
    ]
    for row in results["lattice"]:
        assert row["call_ms"] > 0
        assert (row["device_ms"] is not None) == (jax.default_backend() == "gpu")
    losses = [(row["loss"], row["V"], row["dtype"]) for row in results["loss"]]
    assert losses == [
        ("TDT 0..4", 11, "float32"),
        ("RNN-T", 11, "float32"),
        ("TDT 0..4", 11, "bfloat16"),
        ("RNN-T", 11, "bfloat16"),
        *((name, 6, "float32") for name in ("RNN-T", "modified", "constrained", "HAT")),
    ]
    assert all(row["forward_backward_over_floor"] > 0 for row in results["loss"])
    assert [(row["loss"], row["V"], row["dtype"]) for row in results["memory"]] == losses[:4]
    most = 200 if jax.default_backend() == "cpu" else 300  # of 72 cells; 247 on an H100
    for row in results["memory"]:
        assert 0 < row["donated_bytes_a_cell"] < most
        assert 0 < row["made_bytes_a_cell"] < most

    text = capsys.readouterr().out
    for phrase in ("| (9, 4) | 2 |", "| (2, 9, 4, 11) | bfloat16 | TDT 0..4 |", "GB/s"):
        assert phrase in text


@needs_native
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU alone")
def test_lattices_beside_plain_jax(tmp_path, monkeypatch, capsys, quick):
    path = tmp_path / "results.json"
    monkeypatch.setattr(family, "LATTICES", {"RNN-T": family.LATTICES["RNN-T"]})
    family.main(["--json", str(path), "--small", "--sections", "cpu"])
    (row,) = json.loads(path.read_text())["cpu"]
    assert row["ratio"] == pytest.approx(row["reference_ms"] / row["native_ms"])
    assert "| (2, 9, 4) | RNN-T |" in capsys.readouterr().out


def test_search(tmp_path, monkeypatch, capsys, quick):
    ways = {
        "GREEDY_WAYS": ("greedy_search", "scan over frames"),
        "BEAM_WAYS": ("beam 4, nothing merged",),
    }
    for name, kept in ways.items():
        every = getattr(search, name)
        monkeypatch.setattr(search, name, {way: every[way] for way in kept})
    path = tmp_path / "results.json"
    search.main(["--json", str(path), "--small"])
    results = json.loads(path.read_text())
    for section, kept in zip(("greedy", "beam"), ways.values()):
        assert [row["way"] for row in results[section]] == list(kept)
    for section in ("greedy", "beam", "stream"):
        assert all(row["right"] == row["N"] and row["ms"] > 0 for row in results[section])
    text = capsys.readouterr().out
    assert "| 2 | 20 | 16 | scan over frames |" in text
    assert "| 2 | 5 | 16 |" in text


@pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
def test_scaling(tmp_path, monkeypatch, capsys, quick):
    logits, a_joint = scaling.SMALL_CASES
    monkeypatch.setattr(scaling, "SMALL_CASES", [logits])
    path = tmp_path / "results.json"
    scaling.main(["--json", str(path), "--small", "--devices", "2"])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["way"], row["devices"]) for row in rows] == [
        ("jit", 1),
        ("jit", 2),
        ("shard_map", 1),
        ("shard_map", 2),
    ]
    for row in rows[1::2]:
        assert row["weak_ratio"] * row["weak_ms"] == pytest.approx(row["one_ms"])
        assert row["strong_ratio"] * row["strong_ms"] == pytest.approx(row["one_ms"])
    assert "| logits | 8 | (6, 4, 5) |  | float32 | shard_map | 2 |" in capsys.readouterr().out
    (row,) = scaling.measure(a_joint, "shard_map", 1)
    assert (row["loss"], row["H"]) == ("joint", 8)
    assert row["one_ms"] > 0


@pytest.mark.parametrize("sizes", [(2, 60, 20, 64, 32), (2, 100, 40, 32, 100)])
def test_confident_model_is_as_promised(sizes):
    case = joint_case(*sizes, model="confident")
    for once, again in zip(joint_models.confident(case), joint_models.confident(case)):
        np.testing.assert_array_equal(once, again)
    cost, _, cells = joint_models.truth(case, jnp.bfloat16)
    posteriors = cells.blank_posteriors + cells.label_posteriors
    np.testing.assert_allclose(posteriors.sum((1, 2)), case.T + case.U - 1, rtol=1e-4)
    assert 0.08 < joint_models.holding(posteriors, joint_models.HELD) < 0.12
    assert 0.1 < cost / (case.U - 1) < 1


@pytest.mark.parametrize("model", ["random", "confident"])
def test_truth_is_the_materialised_loss(model):
    case = joint_case(3, 9, 5, 8, 6, model, frames=(9, 4, 1), labels=(4, 0, 2))
    operands = joint_models.make(case)
    labels, frames_lengths, labels_lengths = case.arrays()

    def logits(operands):
        encoder, predictor, kernel, bias = operands
        hidden = jnp.tanh(encoder[:, :, None] + predictor[:, None])
        return jnp.matmul(hidden, kernel, precision="highest") + bias[None, None, None]

    def cost(logits):
        return jax_rnnt.rnnt_loss_from_logits(
            logits, labels, frames_lengths, labels_lengths, reduction="mean"
        )

    expected_cost, expected = jax.value_and_grad(lambda x: cost(logits(x)))(operands)
    actual_cost, actual, cells = joint_models.truth(case, jnp.float32)
    np.testing.assert_allclose(actual_cost, expected_cost, rtol=1e-5)
    for ours, theirs in zip(actual, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    norms = joint_models.gradient_norms(cells)
    inside = joint_models.within(case)
    expected_norms = case.N * jnp.abs(jax.grad(cost)(logits(operands))).sum(-1)
    np.testing.assert_allclose(norms[inside], expected_norms[inside], rtol=1e-3, atol=1e-5)
    assert not expected_norms[~inside].any()


def test_tiles_that_are_kept_hold_enough():
    weights = np.zeros((1, 5, 4))
    weights[0, 4, 3], weights[0, 0, 0], weights[0, 2, 1] = 90, 9, 1
    last_and_first = [[[True, False], [False, False], [False, True]]]
    np.testing.assert_array_equal(joint_models.kept_tiles(weights, (2, 2), 0.01), last_and_first)
    np.testing.assert_array_equal(joint_models.tiles_above(weights, (2, 2), 1), last_and_first)
    assert joint_models.kept_tiles(weights, (2, 2), 0.009).sum() == 3
    cells = joint_models.cells_of(np.array(last_and_first), (2, 2), weights.shape)
    assert (cells.shape, cells.sum()) == (weights.shape, 4 + 2)
    assert joint_models.holding(weights, 0.95) == 2 / weights.size


def test_time_of_a_call_is_the_median_over_calls(monkeypatch):
    def traced(*durations):
        kernels = [
            {"name": "WalkKernel", "ph": "X", "pid": 1, "tid": 5, "ts": 10.0 * i, "dur": duration}
            for i, duration in enumerate(durations)
        ]
        monkeypatch.setattr(traces, "record", lambda call: [*TRACE[:5], *reversed(kernels)])
        return traces.median_ms(lambda: None)

    monkeypatch.setattr(traces, "CALLS", 3)
    assert traced(1e3, 2e3, 5e3, 6e3, 1e3, 3e3) == 4
    assert traced(1e3, 2e3, 3e3, 6e3) == 4  # an event is missing: the mean
    assert traced() is None
    assert traces.by_kind({"void WalkKernel<Topo>": 1.0})["lattice"] == 1


def test_times_on_the_device_are_of_its_streams_alone():
    times = traces.device_ms(TRACE)
    assert times == {
        "nvjet_tst_128x128": 3.0,
        "void ForwardTileKernel<float>": 0.5,
        "loop_tanh_fusion": 0.25,
    }
    kinds = {kind: ms for kind, ms in traces.by_kind(times).items() if ms}
    assert kinds == {"rows": 0.5, "products": 3.0, "other": 0.25}


def test_a_gpu_is_called_by_its_name_and_clock(monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA L4")
    answer = types.SimpleNamespace(stdout="NVIDIA A100, 1410\nNVIDIA L4, 2040\n")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: answer)
    assert devices.name(gpu) == "NVIDIA L4, 2040 MHz"

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(devices.subprocess, "run", missing)
    assert devices.name(gpu) == "NVIDIA L4"
