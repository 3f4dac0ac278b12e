"""float32 keeps its precision however long the sequences are."""

import jax
import numpy as np
import oracle
import pytest
from support import Loss, Problem, evaluate, full
from tolerances import GRADIENT_ERROR, relative_error

import jax_rnnt

SIZES = [(150, 40, 28, 1), (400, 100, 128, 1), (1500, 300, 50, 1), (1500, 300, 50, 3)]
LONGEST = (1500, 300)


@pytest.fixture(scope="module", params=SIZES, ids=lambda p: "T{}-U{}-V{}-x{}".format(*p))
def solved(request) -> tuple[Problem, oracle.Result]:
    T, U, V, scale = request.param
    problem = full(np.random.default_rng(0), (2,), T, U + 1, V)
    problem = problem._replace(rows=problem.rows * np.float32(scale))
    return problem, oracle.loss(*problem, from_logits=True)


def test_long_sequences_are_as_precise_as_short_ones(solved, implementation):
    problem, expected = solved
    actual = evaluate(Loss(from_logits=True, implementation=implementation), problem)
    one_ulp = np.spacing(expected.costs.astype(np.float32)).astype(np.float64)
    assert np.all(np.abs(actual.costs.astype(np.float64) - expected.costs) <= one_ulp)
    assert relative_error(actual.gradients, expected.gradients) < GRADIENT_ERROR


@pytest.mark.parametrize("spread", [1, 3])
def test_posteriors_of_each_frame_and_of_each_label_sum_to_one(implementation, spread, rng):
    T, U = LONGEST
    logits = rng.standard_normal((3, 2, T, U + 1)) * spread
    arcs = oracle.log_softmax(np.moveaxis(logits, 0, -1)).astype(np.float32)
    lengths = np.array([T, T // 2], np.int32), np.array([U // 3, U], np.int32)
    blank, label = -np.asarray(_arc_gradients(implementation)(arcs[..., 0], arcs[..., 1], *lengths))
    for n, (frames, labels) in enumerate(zip(*lengths, strict=True)):
        np.testing.assert_allclose(blank[n].sum(-1)[:frames], 1, atol=2e-5)
        np.testing.assert_allclose(label[n].sum(-2)[:labels], 1, atol=2e-5)
        assert not blank[n, frames:].any()
        assert not label[n, :, labels:].any()


def _arc_gradients(implementation: str):
    def total(arcs, *lengths):
        return jax_rnnt.lattice_cost(*arcs, *lengths, implementation=implementation).sum()

    return jax.jit(lambda blank, label, *lengths: jax.grad(total)((blank, label), *lengths))
