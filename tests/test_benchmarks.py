"""The benchmark says what it should, at sizes where its times mean nothing."""

import json
import pathlib
import sys
import textwrap

import numpy as np
import oracle
import pytest

from jax_rnnt import _ffi

# Behind everything else: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[1]))

from benchmarks import hlo, loss, plot, precision, shapes, timing

FRAGILE = """
    import os
    from benchmarks.peers import contender

    @contender("jax", requires="jax")
    def fragile():
        def costs(logits, labels, frames_lengths, labels_lengths):
            if logits.shape[0] == 2:  # of the precision's case
                os._exit(1)
            raise RuntimeError("RESOURCE_EXHAUSTED: no room")

        return costs
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


@pytest.fixture
def librispeech(tmp_path) -> str:
    sizes = np.stack([np.arange(65) % 7 + 2, np.arange(65) % 3], -1).astype(np.int16)
    path = tmp_path / "sizes.npy"
    np.save(path, sizes)
    return str(path)


@pytest.mark.skipif(_ffi.native_module("cpu") is None, reason="built without kernels for cpu")
def test_whole_run_on_a_cpu(tmp_path, monkeypatch, capsys, librispeech):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fragile_peer.py").write_text(textwrap.dedent(FRAGILE))
    path = tmp_path / "results.json"
    loss.main(
        [
            *("--json", str(path), "--shapes", "6,3,5", "--batches", "3"),
            *("--librispeech", librispeech, "--librispeech-batches", "1"),
            *("--peers", "reference", "fragile", "--plugin", "fragile_peer"),
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
    results = {
        "copy_gb_per_second": 3000,
        "contenders": {"torchaudio": {"missing": "no module"}, "reference": {}},
        "rows": [ours],
        "precision": [],
    }
    loss._quote(results, all_of_them=False)
    (quoted,) = (row for row in results["rows"] if row["contender"] != "jax_rnnt")
    assert (quoted["contender"], quoted["N"], quoted["quoted"]) == ("torchaudio", 16, True)
    assert "H100" in results["quoted"]["device"]


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
