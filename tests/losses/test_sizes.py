"""Sizes at which kernels change their ways: multiples of warps, blocks and panels, and their edges.

Rows and lattices are tested apart, since neither knows of the other's sizes, and each size stands
beside a different other one instead of beside all of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import IMPLEMENTATIONS, Loss, evaluate, for_loss, needs_native, ragged
from tolerances import assert_costs, assert_gradients

import jax_rnnt

LATTICES = [  # T, U
    (33, 1),
    (1, 31),
    (2, 32),
    (31, 33),
    (33, 64),
    (2, 65),
    (31, 127),
    (33, 129),
    (2, 1023),
    (31, 1024),
    (33, 1025),
    (1025, 2),
]
ROWS = [  # rows, V, dtype
    (1000, 1, "float32"),
    (257, 2, "bfloat16"),
    (129, 3, "float32"),
    (65, 31, "float16"),
    (63, 32, "float32"),
    (33, 33, "bfloat16"),
    (31, 127, "float32"),
    (17, 128, "float16"),
    (16, 129, "float32"),
    (5, 1023, "bfloat16"),
    (3, 5000, "float32"),
    (1, 5000, "float16"),
    (4, 1025, "float64"),
]


# Plain JAX has no sizes of its own, and takes long to compile.
REFERENCE_LATTICES = [(33, 1), (1, 31), (31, 33)]


def _name(size: tuple) -> str:
    return "-".join(map(str, size))


def _lattices():
    for implementation in IMPLEMENTATIONS:
        reference = implementation.id == "reference"
        for size in REFERENCE_LATTICES if reference else LATTICES:
            name = f"{implementation.id}-{_name(size)}"
            yield pytest.param(*implementation.values, size, marks=implementation.marks, id=name)


@pytest.mark.parametrize(("implementation", "size"), list(_lattices()))
def test_lattice_of_any_size(implementation, size, rng):
    _check_lattice(implementation, *size, rng)


@needs_native
def test_lattice_of_more_labels_than_threads(rng):
    _check_lattice("native", 2, 4096, rng)


def _check_lattice(implementation, T, U, rng):
    arcs = oracle.log_softmax(rng.standard_normal((3, T, U, 3))).astype(np.float32)
    frames_lengths = np.array([T, (T + 1) // 2, T], np.int32)
    labels_lengths = np.array([U - 1, U - 1, (U - 1) // 2], np.int32)

    @jax.jit
    def run(blank, label):
        cost = functools.partial(jax_rnnt.lattice_cost, implementation=implementation)
        costs, vjp = jax.vjp(lambda *x: cost(*x, frames_lengths, labels_lengths), blank, label)
        return costs, *vjp(jnp.ones_like(costs))

    costs, *gradients = run(arcs[..., 0], arcs[..., 1])
    for n, (frames, labels) in enumerate(zip(frames_lengths, labels_lengths, strict=True)):
        own = arcs[n, :frames, : labels + 1].astype(np.float64)
        expected = oracle.alpha_beta(oracle.Arcs(own[..., 0], own[..., 1]))
        assert_costs(costs[n], expected.cost)
        for gradient, posteriors in zip(gradients, expected.posteriors, strict=True):
            inside = np.zeros((T, U))
            inside[:frames, : labels + 1] = -posteriors
            assert_gradients(gradient[n], inside)


@pytest.mark.parametrize("size", ROWS, ids=_name)
def test_rows_of_any_size(implementation, size, rng):
    count, V, dtype = size
    with jax.enable_x64(dtype == "float64"):
        _check_rows(implementation, count, V, dtype, rng)


def _check_rows(implementation, count, V, dtype, rng):
    logits = rng.standard_normal((count, V)).astype(jnp.dtype(dtype))
    labels = rng.integers(0, V, count).astype(np.int32)
    labels[1::4], labels[2::7] = -1, V  # no label; padding
    blank = V // 2
    wide = np.float64 if dtype == "float64" else np.float32
    cotangents = rng.standard_normal((2, count)).astype(wide)
    cotangents[:, 3::5] = 0

    @jax.jit
    def run(logits, labels, cotangents):
        pick = functools.partial(
            jax_rnnt.log_softmax_pick, blank=blank, implementation=implementation
        )
        arcs, vjp = jax.vjp(lambda x: pick(x, labels), logits)
        return *arcs, *vjp(tuple(cotangents))

    blank_arcs, label_arcs, gradients = run(logits, labels, cotangents)
    log_probs = oracle.log_softmax(logits.astype(np.float64))
    row = np.arange(count)
    has_label, is_row = (labels >= 0) & (labels < V), labels < V
    own = np.where(has_label, labels, 0)
    assert_costs(blank_arcs, np.where(is_row, log_probs[:, blank], -np.inf), dtype)
    assert_costs(label_arcs, np.where(has_label, log_probs[row, own], -np.inf), dtype)
    weights = np.where([is_row, has_label], cotangents, 0).astype(np.float64)
    expected = np.zeros(logits.shape)
    np.add.at(expected, (row, blank), weights[0])
    np.add.at(expected, (row, own), weights[1])
    expected -= np.exp(log_probs) * weights.sum(0)[:, None]
    assert_gradients(gradients, expected, dtype)


@needs_native
@pytest.mark.parametrize("size", [(3, 33, 34, 31), (2, 130, 12, 129)], ids=_name)
@pytest.mark.parametrize(
    "loss", [Loss(from_logits=False), Loss(from_logits=True, implementation="native")], ids=str
)
def test_whole_losses_at_odd_sizes(loss, size, rng):
    problem = for_loss(loss, ragged(rng, size[:1], *size[1:]))
    actual, expected = evaluate(loss, problem), loss.expected(problem)
    assert_costs(actual.costs, expected.costs)
    assert_gradients(actual.gradients, expected.gradients)
