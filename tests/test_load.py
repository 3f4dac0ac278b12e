"""A little of `tools/load.py`: changing shapes, repeated bits, first calls from many threads."""

import json
import pathlib
import sys

import numpy as np
import pytest

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[1]))

from tools import load


def test_training_of_changing_shapes():
    """All verdicts but those on the host's memory, which settles after more steps."""
    results = load.steps(load.parse(["steps", "--steps", "200", "--cases", "2"]))
    verdicts = results["verdicts"]
    assert len(verdicts) == 6
    wrong = {text for text, is_so in verdicts.items() if not is_so}
    assert {text for text in wrong if not text.startswith(("the host's", "nor by"))} == set()
    assert all(len(run["samples"]) > 100 for run in results["runs"])


def test_first_calls_of_many_threads(tmp_path, capsys):
    path = tmp_path / "results.json"
    load.main(["threads", "--cases=2", "--rounds=2", "--runs=1", "--json", str(path)])
    results = json.loads(path.read_text())
    assert [run["calls"] for run in results["runs"]] == [8 * 2 * 2]
    for run in results["runs"]:
        assert [len(digests) for digests in run["digests"]] == [1, 1]
    assert "yes 8 threads get the bits that one gets" in capsys.readouterr().out


@pytest.mark.parametrize(("leak", "slope"), [(0, 0), (300, 300_000)])
def test_growth_is_of_every_step(leak, slope):
    """The median slope counts a leak at every step, and no leaps of an allocator."""
    step = np.arange(0, 10_001, 100)
    host = 2**28 + leak * step + 2**22 * (step > 3000) + 2**22 * (step > 7500)
    found = load.growth(np.stack([step, host], 1).tolist(), 1)
    assert found["median_per_1000_steps"] == pytest.approx(slope)
    assert found["last"] == found["largest"] == host.max()
