"""debug_nans, debug_infs and disable_jit look at the ends of a loss and not inside."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import IMPLEMENTATIONS, Loss, Problem, for_loss, pack, ragged, unpack
from tolerances import assert_costs, assert_gradients

import jax_rnnt

# One label for two frames, one frame and no label: arcs that lead nowhere, rows of padding.
PROBLEM = Problem(
    np.linspace(-1, 1, 2 * 2 * 2 * 3).reshape(2, 2, 2, 3).astype(np.float32),
    np.array([[1], [-1]], np.int32),
    np.array([2, 1], np.int32),
    np.array([1, 0], np.int32),
)


@pytest.fixture(params=[False, True], ids=["jit", "disable_jit"])
def maybe_without_jit(request):
    with jax.disable_jit() if request.param else contextlib.nullcontext():
        yield


@pytest.fixture
def options(maybe_without_jit):
    """Both at once, as either raises by itself; every setting is compiled anew."""
    with jax.debug_nans(True), jax.debug_infs(True):
        yield


def _finite(function, *arguments):
    """Value and gradients, when value alone and both raise nothing and are finite."""
    value = function(*arguments)
    again, gradients = jax.value_and_grad(function, argnums=range(len(arguments)))(*arguments)
    for x in (value, again, *gradients):
        assert np.isfinite(x).all()
    assert any(np.any(x) for x in gradients)
    return again, gradients


@pytest.mark.usefixtures("options")
def test_losses(loss: Loss):
    problem = for_loss(loss, PROBLEM)
    rows, *rest = pack(problem, filler=0.0) if loss.compact else problem
    value, (gradients,) = _finite(lambda rows: loss(rows, *rest).sum(), jnp.asarray(rows))
    expected = loss.expected(problem)
    assert_costs(value, expected.costs.sum())
    gradients = np.asarray(gradients)
    assert_gradients(unpack(gradients, problem) if loss.compact else gradients, expected.gradients)


@pytest.mark.usefixtures("options")
def test_a_lattice_of_one_cell(implementation):
    """The label arc of the last column is -inf between the two halves."""

    def loss(logits):
        return jax_rnnt.rnnt_loss_from_logits(
            logits, np.zeros((1, 0), int), [1], [0], implementation=implementation
        ).sum()

    _finite(loss, jnp.zeros((1, 1, 1, 2)))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.usefixtures("options")
def test_lattice_cost(implementation, compact):
    shape = (7,) if compact else (2, 2, 2)

    def cost(arcs):
        costs = jax_rnnt.lattice_cost(
            arcs,
            arcs,
            PROBLEM.frames_lengths,
            PROBLEM.labels_lengths,
            compact=compact,
            implementation=implementation,
        )
        return costs.sum()

    _finite(cost, jnp.full(shape, -0.5, jnp.float32))


@pytest.mark.parametrize("normalize", ["softmax", "hat"])
@pytest.mark.usefixtures("options")
def test_rows(implementation, normalize):
    def total(logits):
        rows = jax_rnnt.pick_rows(
            logits,
            [1, 2],
            others=(3,),
            rest=True,
            normalize=normalize,
            durations=2,
            implementation=implementation,
        )
        return sum((x.sum() for x in rows), jnp.float32(0))

    _finite(total, jnp.arange(12, dtype=jnp.float32).reshape(2, 6))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.usefixtures("options")
def test_arcs_cost(implementation, compact):
    """With weights of -inf among those that are given."""
    shape = (7,) if compact else (2, 2, 2)
    with jax.debug_infs(False):
        never = jnp.full(shape, -jnp.inf, jnp.float32)
        begins = jnp.array([[0, -jnp.inf, 0]] * 2, jnp.float32)
    ends = {} if compact else {"initial": begins, "final": jnp.zeros((2, 3))}

    def cost(arcs):
        costs = jax_rnnt.arcs_cost(
            {(1, 0): arcs, (1, 1): arcs, (2, 1): never},
            PROBLEM.frames_lengths,
            PROBLEM.labels_lengths,
            last=[(1, 0), (1, 1)],
            **ends,
            compact=compact,
            implementation=implementation,
        )
        return costs.sum()

    _finite(cost, jnp.full(shape, -0.5, jnp.float32))


@pytest.mark.parametrize("implementation", [None, "reference"])
@pytest.mark.usefixtures("options")
def test_joint(implementation):
    joint = jnp.ones((2, 2, 4)), jnp.ones((2, 2, 4)), jnp.ones((4, 3)), jnp.zeros(3)

    def loss(*joint):
        return jax_rnnt.rnnt_loss_from_joint(
            *joint, *PROBLEM[1:], implementation=implementation
        ).sum()

    _finite(loss, *joint)


def test_an_infinite_cost_is_found(loss: Loss, rng):
    problem = for_loss(loss, ragged(rng, (2,), 2, 2, 3))
    problem.rows[:] = -np.inf
    arguments = pack(problem, filler=0.0) if loss.compact else problem
    with jax.debug_infs(True), pytest.raises(FloatingPointError, match="invalid value"):
        jax.block_until_ready(loss(*map(jnp.asarray, arguments)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_without_arcs_say_so(implementation):
    """What log_softmax_pick returns is not finite where a row has no label."""
    logits = jnp.zeros((2, 3))
    with jax.debug_infs(True), pytest.raises(FloatingPointError, match="invalid value"):
        jax_rnnt.log_softmax_pick(logits, [1, -1], implementation=implementation)
