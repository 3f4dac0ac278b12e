"""The CPU kernels of narrower instruction sets, which a wide machine would not run by itself."""

import pathlib

import pytest
from support import run_python

from jax_rnnt._xla import ffi

RUN = """
import sys
sys.path.append({tests!r})
import arcs_oracle, jax, numpy as np, jax.numpy as jnp, jax_rnnt, oracle, oracle_rows
from jax_rnnt import _cpu
from jax_rnnt.rows.entries import Entries, Selection, entries

assert _cpu.instruction_set() == {isa!r}, _cpu.instruction_set()
rng = np.random.default_rng(0)
tolerances = {{"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}}
cases = [("float32", V) for V in (1, 3, 4, 7, 8, 15, 16, 17, 33, 129, 1000, 2049, 5000)]
for dtype, V in [*cases, ("bfloat16", 33), ("float16", 33)]:
    rows = jnp.asarray(3 * rng.standard_normal((5, V)), dtype)
    labels = rng.integers(-2, V, 5).astype(np.int32)
    cotangents = rng.standard_normal((2, 5)).astype(np.float32)
    selections = [Selection(V // 2, V, True, x, picks=(V - 1,)) for x in (False, True)]
    weights = rng.standard_normal((2, 4, 5)).astype(np.float32)

    def picked(rows, cotangents):
        arcs, vjp = jax.vjp(
            lambda rows: jax_rnnt.log_softmax_pick(rows, labels, implementation="native"), rows
        )
        return *arcs, *vjp(tuple(cotangents))

    def selected(rows, weights, selection):
        found, vjp = jax.vjp(lambda rows: entries(rows, labels, selection, "native"), rows)
        sums, blanks, own, picks = weights
        given = Entries(jnp.zeros_like(sums), sums, blanks, own, (picks,))
        return jnp.stack([*found[:4], *found.picks]), *vjp(given)

    @jax.jit
    def run(rows, cotangents, weights):
        of_selections = [selected(rows, *x) for x in zip(weights, selections)]
        return picked(rows, cotangents), of_selections

    log_probs, row = oracle.log_softmax(np.float64(rows)), np.arange(5)
    leaves, emits = labels >= -1, labels >= 0
    masked = np.where([leaves, emits], np.float64(cotangents), 0)
    gradients = -np.exp(log_probs) * masked.sum(0)[:, None]
    gradients[:, 0] += masked[0]
    np.add.at(gradients, (row, np.maximum(labels, 0)), masked[1])
    expected = (
        np.where(leaves, log_probs[:, 0], -np.inf),
        np.where(emits, log_probs[row, labels], -np.inf),
        gradients,
    )
    tolerance = tolerances[dtype]
    of_arcs, of_selections = run(rows, cotangents, weights)
    for actual, wanted in zip(of_arcs, expected, strict=True):
        np.testing.assert_allclose(np.float64(actual), wanted, rtol=tolerance, atol=tolerance)
    for found, own, selection in zip(of_selections, weights, selections, strict=True):
        wanted = oracle_rows.sum_and_entries(rows, labels, own, **selection._asdict())
        for actual, wanted in zip(found, wanted, strict=True):
            np.testing.assert_allclose(np.float64(actual), wanted, rtol=tolerance, atol=tolerance)
for T, U in [(1, 1), (1, 9), (9, 1), (3, 5), (16, 16), (33, 20)]:
    arcs = np.log(rng.uniform(0.1, 0.9, (2, 2, T + 1, U + 1))).astype(np.float32)
    lengths = np.array([[T, 1], [U - 1, 0]], np.int32)

    @jax.jit
    def run(*arcs):
        def cost(*arcs):
            return jax_rnnt.lattice_cost(*arcs, *lengths, implementation="native").sum()

        return jax.value_and_grad(cost, (0, 1))(*arcs)

    total, gradients = run(*arcs)
    expected_total, expected = 0, np.zeros(arcs.shape)
    for n, (frames, labels) in enumerate(lengths.T):
        own = np.float64(arcs[:, n, :frames, : labels + 1])
        alignment = oracle.alpha_beta(oracle.Arcs(*own))
        expected_total += alignment.cost
        expected[:, n, :frames, : labels + 1] = -np.stack(alignment.posteriors)
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)
    np.testing.assert_allclose(gradients, expected, atol=2e-6)
durations = [(0, 1), (1, 0), (1, 1), (3, 0), (3, 1)]
for keys in ([(1, 0), (1, 1)], durations):
    for T, U in [(1, 1), (5, 9), (16, 17), (33, 20)]:
        arcs = {{key: rng.uniform(-3, 0.1, (2, T, U)).astype(np.float32) for key in keys}}
        ends = rng.uniform(-3, 0.1, (2, 2, T + 1)).astype(np.float32)
        lengths = np.array([[T, max(T // 2, 1)], [U - 1, U // 2]], np.int32)

        @jax.jit
        def run(arcs, ends):
            def cost(arcs, ends):
                more = dict(initial=ends[0], final=ends[1], implementation="native")
                return jax_rnnt.arcs_cost(arcs, *lengths, **more).sum()

            return jax.value_and_grad(cost, (0, 1))(arcs, ends)

        total, (gradients, end_gradients) = run(arcs, ends)
        problem = arcs_oracle.Problem(arcs, *lengths, None, *ends)
        expected = arcs_oracle.solve(problem, align=arcs_oracle.alpha_beta)
        np.testing.assert_allclose(total, expected.cost.sum(), rtol=1e-5)
        for key in keys:
            np.testing.assert_allclose(gradients[key], expected.arcs[key], atol=2e-6)
        np.testing.assert_allclose(end_gradients, expected[2:], atol=2e-6)
"""
TESTS = pathlib.Path(__file__).parent


@pytest.mark.skipif(ffi.native_module("cpu") is None, reason="no CPU kernels")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set_computes_the_same(isa):
    here = ffi.native_module("cpu").instruction_set()
    if isa == "avx2" and here == "baseline":
        pytest.skip("no AVX2 here")
    run_python(RUN.format(isa=isa, tests=str(TESTS)), JAX_RNNT_ISA=isa, JAX_PLATFORMS="cpu")
