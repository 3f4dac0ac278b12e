"""A few of tools/fuzz.py's cases, drawn by hypothesis, which makes what fails smaller.

Illegal calls compile nothing and are of many signatures, legal ones of a few.
"""

from collections.abc import Sequence
from typing import Any

import fuzz_answers
import fuzz_cases
import hypothesis
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
@hypothesis.settings(max_examples=100)
@hypothesis.given(data=st.data())
def test_illegal_calls_name_the_argument(kind, data):
    _check(data, [kind], fuzz_cases.pool(0, 64))


@pytest.mark.parametrize("function", fuzz_cases.FUNCTIONS, ids=str)
@hypothesis.settings(max_examples=40)
@hypothesis.given(data=st.data())
def test_legal_calls_answer_as_the_oracle(function, data):
    signatures = [s for s in fuzz_cases.pool(0, 64) if s.function == function and s.jitted]
    _check(data, ["values"], signatures[:1])


def test_the_checker_sees_a_wrong_answer(monkeypatch):
    """By an answer that is off by more than rounding."""
    signatures = [s for s in fuzz_cases.pool(0, 64) if s.jitted and s.batch and 0 not in s.batch]
    right, wrong = [], []
    for index in range(4):
        source = fuzz_cases.RandomSource(0, index)
        case = fuzz_cases.draw_case(source, signatures[:1], ["values"])
        right.append(fuzz_answers.judge(case).findings)
        compare = fuzz_answers._compare

        def off(case, actual, wanted, compare=compare):
            costs = actual.costs * (1 + 1e-4)
            return compare(case, fuzz_answers.Answer(costs, actual.gradients), wanted)

        with monkeypatch.context() as patched:
            patched.setattr(fuzz_answers, "_compare", off)
            wrong.append(fuzz_answers.judge(case).findings)
    assert not any(right)
    assert any(wrong)
