"""The costs and gradients that the other RNN-T losses publish for their own test cases."""

import numpy as np
import oracle
import peer_vectors
import pytest
from support import IMPLEMENTATIONS, Loss, Problem, evaluate
from tolerances import assert_costs

CASES = [pytest.param(case, id=case.name) for case in peer_vectors.CASES]
PUBLISHED_DIGITS = 1e-7


def _problem(case: peer_vectors.Case, dtype: type) -> Problem:
    lengths = (np.array(x, np.int32) for x in (case.frames_lengths, case.labels_lengths))
    return Problem(np.array(case.logits, dtype), np.array(case.labels, np.int32), *lengths)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("align", [oracle.enumerate_paths, oracle.alpha_beta])
def test_oracle_agrees_with_the_peers(case, align):
    problem = _problem(case, np.float64)
    actual = oracle.loss(*problem, from_logits=True, blank=case.blank, align=align)
    np.testing.assert_allclose(actual.costs, case.costs, rtol=1e-12)
    if case.logits_gradients is not None:
        np.testing.assert_allclose(actual.gradients, case.logits_gradients, atol=PUBLISHED_DIGITS)


@pytest.mark.parametrize("case", CASES)
def test_costs_and_gradients_of_log_probs(case):
    loss = Loss(from_logits=False)
    problem = _problem(case, np.float64)
    problem = problem._replace(rows=loss.rows(problem.rows))
    actual = evaluate(loss, problem, blank=case.blank)
    assert_costs(actual.costs, case.costs)
    if case.log_probs_gradients is not None:
        np.testing.assert_allclose(actual.gradients, case.log_probs_gradients, atol=1e-6)


def _implementations_and_cases():
    """All pairs, but that plain JAX, slow to compile, has the case which holds another one."""
    for implementation in IMPLEMENTATIONS:
        for case in peer_vectors.CASES:
            if implementation.id == "native" or case.name == "ragged batch":
                name = f"{implementation.id}-{case.name}"
                marks = implementation.marks
                yield pytest.param(*implementation.values, case, marks=marks, id=name)


@pytest.mark.parametrize(("implementation", "case"), list(_implementations_and_cases()))
def test_costs_and_gradients_of_logits(implementation, case):
    loss = Loss(from_logits=True, implementation=implementation)
    actual = evaluate(loss, _problem(case, np.float32), blank=case.blank)
    assert_costs(actual.costs, case.costs)
    if case.logits_gradients is not None:
        np.testing.assert_allclose(actual.gradients, case.logits_gradients, atol=1e-6)
