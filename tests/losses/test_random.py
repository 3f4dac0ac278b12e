"""Random problems, sensible and not: every implementation against the oracle.

Shapes and dtypes come from a short list, because each compiles, and most are those of
`every_lattice`, which is compiled for other tests; everything else is drawn freely.
"""

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from support import LOSSES, Loss, Problem, evaluate, for_loss
from tolerances import assert_costs, assert_gradients

COMPILED = [(16, 4, 4, 5, "float32"), (16, 4, 4, 5, "bfloat16")]
# Of kernels, which take no time to compile.
OTHERS = [(2, 9, 4, 33, "float32"), (4, 2, 7, 2, "bfloat16"), (2, 5, 3, 9, "float16")]


@st.composite
def problems(draw, kinds, too_long: bool = True) -> tuple[Problem, np.ndarray, str]:
    """Logits (N, T, U, V) with some -inf, lengths and labels now and then senseless; cotangents.

    too_long: whether lengths may be longer than the array, of which the compact one is packed.
    """
    N, T, U, V, dtype = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.standard_normal((N, T, U, V)) * draw(st.sampled_from([0.1, 1.0, 5.0]))
    rows[rng.random(rows.shape) < draw(st.sampled_from([0, 0, 0.05, 0.5]))] = -np.inf
    margin = draw(st.sampled_from([0, 0, 0, 1]))

    def integers(low: int, high: int, count: int, above: bool = True) -> np.ndarray:
        values = st.integers(low - margin, high + margin * above)
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), np.int32)

    problem = Problem(
        rows,
        integers(0, V - 1, N * (U - 1)).reshape(N, U - 1),
        integers(1, T, N, too_long),
        integers(0, U - 1, N, too_long),
    )
    cotangents = np.round(rng.standard_normal(N).astype(np.float32), 1)
    return problem, cotangents, dtype


@pytest.mark.parametrize("loss", [p for p in LOSSES if not p.values[0].compact])
@hypothesis.settings(max_examples=100)
@hypothesis.given(data=st.data())
def test_padded_losses_are_the_oracle(loss: Loss, data):
    reference = loss.implementation == "reference"
    _check(loss, *data.draw(problems(COMPILED if reference else COMPILED + OTHERS)))


@pytest.mark.parametrize("loss", [p for p in LOSSES if p.values[0].compact])
@hypothesis.settings(max_examples=60)
@hypothesis.given(drawn=problems(COMPILED, too_long=False))
def test_compact_losses_are_the_oracle(loss: Loss, drawn):
    _check(loss, *drawn)


def _check(loss: Loss, problem: Problem, cotangents: np.ndarray, dtype: str) -> None:
    problem = for_loss(loss, problem, dtype)
    actual = evaluate(loss, problem, cotangents)
    expected = loss.expected(problem, cotangents=cotangents)
    assert actual.gradients.dtype == jnp.dtype(dtype)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients, dtype, scale=3)
    assert not actual.gradients[~np.isfinite(expected.costs)].any()
