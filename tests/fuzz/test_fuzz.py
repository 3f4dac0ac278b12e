"""A few of tools/fuzz.py's cases, drawn by hypothesis, which makes what fails smaller.

Illegal calls compile nothing and are of many signatures, legal ones of a few.
"""

from collections.abc import Sequence
from typing import Any

import fuzz_answers
import fuzz_cases
import fuzz_functions
import fuzz_joints
import fuzz_places
import fuzz_signatures
import hypothesis
import jax
import numpy as np
import philox
import pytest
from hypothesis import strategies as st


class HypothesisSource:
    """Draws from hypothesis."""

    def __init__(self, data: st.DataObject):
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def choice(self, options: Sequence) -> Any:
        return self._data.draw(st.sampled_from(options))


def _check(data: st.DataObject, kinds: Sequence[str], signatures: list) -> None:
    case = fuzz_cases.draw_case(HypothesisSource(data), signatures, kinds)
    hypothesis.note(str(case))
    assert not fuzz_answers.judge(case).findings


@pytest.mark.parametrize("kind", ["range", "dtype", "shape", "option"])
@hypothesis.settings(max_examples=60)
@hypothesis.given(data=st.data())
def test_illegal_calls_name_the_argument(kind, data):
    _check(data, [kind], fuzz_signatures.pool(0, 64))


def _cheap(function: fuzz_functions.Function, count: int = 512) -> list[fuzz_signatures.Signature]:
    """Signatures of `count` of several sequences with several alignments; joints drop units."""
    signatures = [s for s in fuzz_signatures.pool(0, count) if s.function == function and s.jitted]
    signatures = [s for s in signatures if sum(s.batch) >= 3 and s.T >= 4 and s.U >= 3]
    return [s for s in signatures if s.K != 1 and (s.drops or not s.function.is_joint)]


@pytest.mark.parametrize("function", fuzz_functions.FUNCTIONS, ids=str)
@hypothesis.settings(max_examples=30)
@hypothesis.given(data=st.data())
def test_legal_calls_answer_as_the_oracle(function, data):
    _check(data, ["values"], _cheap(function)[:1])


def _costs_off(answer: fuzz_places.Answer) -> None:
    answer.costs = (answer.costs * (1 + 1e-5)).astype(answer.costs.dtype)


def _gradients_off(answer: fuzz_places.Answer) -> None:
    answer.gradients = {k: (g * 1.0001).astype(g.dtype) for k, g in answer.gradients.items()}


def _everything_has_a_gradient(answer: fuzz_places.Answer) -> None:
    answer.gradients = {k: g + np.asarray(1e-7, g.dtype) for k, g in answer.gradients.items()}


@pytest.mark.parametrize("spoil", [_costs_off, _gradients_off, _everything_has_a_gradient])
def test_wrong_answers_are_seen(monkeypatch, spoil):
    signatures = _cheap(fuzz_functions.FUNCTIONS[1], 4096)
    # Half dtypes round a small fault away, and a cost of inf shows none.
    wanted = {("rnnt_type", "regular"), ("reduction", None), ("average_frames", False)}
    signature = next(s for s in signatures if s.dtype == "float32" and wanted <= set(s.options))
    sources = [fuzz_signatures.RandomSource(0, i) for i in range(20)]
    cases = [fuzz_cases.draw_case(s, [signature], ["values"]) for s in sources]
    right = fuzz_answers.answers

    def wrong(case, values=None):
        answers = right(case, values)
        for answer in answers.values():
            spoil(answer)
        return answers

    assert not any(fuzz_answers.judge(case).findings for case in cases)
    monkeypatch.setattr(fuzz_answers, "answers", wrong)
    assert sum(bool(fuzz_answers.judge(case).findings) for case in cases) > 5


def _another_mask(key, *sizes):
    return philox.dropout_mask(jax.random.fold_in(key, 1), *sizes)


_JOINT_FAULTS = {
    "mask": (fuzz_joints, "dropout_mask", _another_mask),
    "clamp": (fuzz_joints.Joint, "clamp", lambda joint, dense: dense),
}


@pytest.mark.parametrize("fault", _JOINT_FAULTS)
def test_wrong_joints_are_seen(monkeypatch, fault):
    function = next(f for f in fuzz_functions.FUNCTIONS if str(f).endswith("joint, biased"))
    signature = _cheap(function)[0]  # compiled already
    assert dict(signature.options)["clamp"]
    sources = [fuzz_signatures.RandomSource(0, i) for i in range(20)]
    cases = [fuzz_cases.draw_case(s, [signature], ["values"]) for s in sources]
    monkeypatch.setattr(*_JOINT_FAULTS[fault])
    assert sum(bool(fuzz_answers.judge(case).findings) for case in cases) > 5
