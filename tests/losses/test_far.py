"""Certain, uniform, masked, hopeless sequences: benchmarks/problems/far_cases.py, made small."""

import pathlib
import sys

import jax
import numpy as np
import pytest
from support import needs_native
from tolerances import GRADIENT_ERROR, assert_costs, assert_gradients, relative_error

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

from benchmarks import far_out
from benchmarks.problems import far_cases

CASES = {case.name: case for case in far_cases.CASES if case.small}
# In these cases the float32 log-probabilities of logits are good to 4e-6 nats or worse: gradients
# are as good as those of log-probabilities that are off by their last bit.
BLURRED = "labels at exp(-1e2)", "labels at exp(-1e3)", "labels at exp(-1e4)"


def _parameters():
    for name, case in CASES.items():
        for loss in case.losses:
            for implementation in far_out.implementations(loss, case):
                marks = [needs_native] if implementation == far_out.NATIVE else []
                label = f"{name}-{loss}-{implementation or 'default'}"
                yield pytest.param(case, loss, implementation, marks=marks, id=label)


@pytest.mark.parametrize(("case", "loss", "implementation"), list(_parameters()))
def test_costs_and_gradients_far_out(case, loss, implementation, rng):
    rows = far_out.make(case, case.small)
    inputs = far_out.inputs_of(loss, rows)
    rest = rows.labels, case.fastemit_lambda
    truth = far_out.truth_of(loss, inputs, *rest)
    actual = far_out.evaluate(loss, implementation, inputs, *rest)
    assert_costs(actual.cost, float(truth.cost))
    for gradient, expected in zip(actual.gradients, truth.gradients, strict=True):
        if loss == far_cases.LOGITS and case.name in BLURRED:
            (log_probs,) = far_out.inputs_of(far_cases.LOG_PROBS, rows)
            direction = np.float32(np.inf) * rng.choice(np.float32([-1, 1]), log_probs.shape)
            blurred = (np.nextafter(log_probs, direction),)
            (other,) = far_out.truth_of(loss, blurred, *rest).gradients
            assert np.abs(gradient - expected).max() < 2 * np.abs(other - expected).max()
        elif loss == far_cases.JOINT:  # sums over cells, which may cancel
            assert relative_error(gradient, expected) < GRADIENT_ERROR
        else:
            assert_gradients(gradient, expected, scale=1 + case.fastemit_lambda)
    if actual.sums and np.isfinite(truth.cost):
        assert far_out.violation(actual.sums) < GRADIENT_ERROR


def test_cases_are_what_they_say():
    def truth(name):
        rows = far_out.make(CASES[name], CASES[name].small)
        loss = CASES[name].losses[0]
        return far_out.truth_of(loss, far_out.inputs_of(loss, rows), rows.labels, 0.0)

    assert abs(truth("one path of 1 - 1e-30").cost) < 1e-27
    assert truth("checkerboard: no path").cost == np.inf
    (blank, label) = truth("checkerboard: one path").gradients
    assert np.isin(blank, (0, -1)).all()
    assert np.isin(label, (0, -1)).all()
    blank, _ = truth("two equal paths, far apart").gradients
    assert blank[len(blank) // 2, [0, -1]].astype(float) == pytest.approx([-0.5, -0.5], abs=0.01)


@needs_native
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere rounding grows with sqrt(T)")
@pytest.mark.parametrize("U", [1, 2, 33])
def test_rounding_does_not_grow_with_the_length(U, rng):
    T = 20000
    rows = far_cases.normal()(rng, T, U)
    inputs = far_out.inputs_of(far_cases.LATTICE, rows)
    actual = far_out.evaluate(far_cases.LATTICE, far_out.NATIVE, inputs, rows.labels)
    assert far_out.violation(actual.sums) < 2e-6


@needs_native
def test_table_sets_runs_side_by_side():
    rows = list(far_out.measure(CASES["uniform"], far_cases.SMALL))
    assert all(row["gradient_error"] < GRADIENT_ERROR for row in rows)
    run = {"device": "some", "versions": {}, "mantissa_bits_of_the_truth": 64, "rows": rows}
    lines = far_out.markdown([run | {"rows": rows[1:]}, run]).splitlines()
    cells = [line.split("|") for line in lines if line.startswith("| uniform")]
    assert len(cells) == len(rows) == 5
    assert len({len(line) for line in cells}) == 1
    assert cells[0][6:10] == cells[0][10:14]  # of the line that both runs have
    assert [cell.strip() for cell in cells[-1][6:10]] == [""] * 4
    assert "64 bits" in lines[0]
