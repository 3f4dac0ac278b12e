"""Random problems, sensible and not: every implementation against the oracle.

Shapes and dtypes come from a short list, because each compiles; everything else is drawn freely.
"""

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from support import LOSSES, Loss, Problem, evaluate, for_loss
from tolerances import assert_costs, assert_gradients

KINDS = [
    (3, 4, 3, 5, "float32"),
    (2, 9, 4, 33, "float32"),
    (4, 2, 7, 2, "bfloat16"),
    (2, 5, 3, 9, "float16"),
]


@st.composite
def problems(draw) -> tuple[Problem, np.ndarray, str]:
    """Logits (N, T, U, V) with some -inf, lengths and labels now and then senseless; cotangents."""
    N, T, U, V, dtype = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.standard_normal((N, T, U, V)) * draw(st.sampled_from([0.1, 1.0, 5.0]))
    rows[rng.random(rows.shape) < draw(st.sampled_from([0, 0, 0.05, 0.5]))] = -np.inf
    margin = draw(st.sampled_from([0, 0, 0, 1]))

    def integers(low: int, high: int, count: int) -> np.ndarray:
        values = st.integers(low - margin, high + margin)
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), np.int32)

    problem = Problem(
        rows,
        integers(0, V - 1, N * (U - 1)).reshape(N, U - 1),
        integers(1, T, N),
        integers(0, U - 1, N),
    )
    cotangents = np.round(rng.standard_normal(N).astype(np.float32), 1)
    return problem, cotangents, dtype


@pytest.mark.parametrize("loss", [p for p in LOSSES if not p.values[0].compact])
@hypothesis.settings(max_examples=150)
@hypothesis.given(drawn=problems())
def test_padded_losses_are_the_oracle(loss: Loss, drawn):
    _check(loss, *drawn)


@pytest.mark.parametrize("loss", [p for p in LOSSES if p.values[0].compact])
@hypothesis.settings(max_examples=80)
@hypothesis.given(drawn=problems())
def test_compact_losses_are_the_oracle(loss: Loss, drawn):
    problem, cotangents, dtype = drawn
    hypothesis.assume(_fits(problem))
    _check(loss, problem, cotangents, dtype)


def _fits(problem: Problem) -> bool:
    """Whether all lengths lie within the padded array, from which the compact one is packed."""
    *_, T, U, _ = problem.rows.shape
    return problem.frames_lengths.max() <= T and problem.labels_lengths.max() < U


def _check(loss: Loss, problem: Problem, cotangents: np.ndarray, dtype: str) -> None:
    problem = for_loss(loss, problem, dtype)
    actual = evaluate(loss, problem, cotangents)
    expected = loss.expected(problem, cotangents=cotangents)
    assert actual.gradients.dtype == jnp.dtype(dtype)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, dtype, scale=3)
    assert not actual.gradients[~np.isfinite(expected.costs)].any()
