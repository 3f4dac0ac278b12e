"""The CPU kernels of narrower instruction sets, which a wide machine would not run by itself."""

import pytest
from support import run_python

from jax_rnnt._xla import ffi

RUN = """
import jax, numpy as np, jax.numpy as jnp, jax_rnnt
from jax_rnnt import _cpu

assert _cpu.instruction_set() == {isa!r}, _cpu.instruction_set()
rng = np.random.default_rng(0)
tolerances = {{"float32": 2e-6, "bfloat16": 1e-2, "float16": 2e-3}}
cases = [("float32", V) for V in (1, 3, 4, 7, 8, 15, 16, 17, 33, 129, 1000, 2049, 5000)]
for dtype, V in [*cases, ("bfloat16", 33), ("float16", 33)]:
    rows = jnp.asarray(3 * rng.standard_normal((5, V)), dtype)
    labels = jnp.asarray(rng.integers(-2, V, 5), jnp.int32)
    cotangents = jnp.asarray(rng.standard_normal((2, 5)), jnp.float32)

    def results(implementation):
        def arcs(rows):
            return jax_rnnt.log_softmax_pick(rows, labels, implementation=implementation)

        values, vjp = jax.vjp(arcs, rows)
        return *values, *vjp(tuple(cotangents))

    tolerance = tolerances[dtype]
    for native, reference in zip(results("native"), results("reference")):
        np.testing.assert_allclose(
            np.float64(native), np.float64(reference), rtol=tolerance, atol=tolerance
        )
for T, U in [(1, 1), (1, 9), (9, 1), (3, 5), (16, 16), (33, 20)]:
    arcs = jnp.asarray(np.log(rng.uniform(0.1, 0.9, (2, 2, T + 1, U + 1))), jnp.float32)
    lengths = np.array([[T, 1], [U - 1, 0]], np.int32)

    def results(implementation):
        def cost(blank):
            return jax_rnnt.lattice_cost(
                blank, arcs[1], lengths[0], lengths[1], implementation=implementation
            ).sum()

        return jax.value_and_grad(cost)(arcs[0])

    (native, native_gradient), (reference, gradient) = results("native"), results("reference")
    np.testing.assert_allclose(native, reference, rtol=1e-6)
    np.testing.assert_allclose(native_gradient, gradient, atol=2e-6)
"""


@pytest.mark.skipif(ffi.native_module("cpu") is None, reason="no CPU kernels")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_every_instruction_set_computes_the_same(isa):
    here = ffi.native_module("cpu").instruction_set()
    if isa == "avx2" and here == "baseline":
        pytest.skip("no AVX2 here")
    run_python(RUN.format(isa=isa), JAX_RNNT_ISA=isa, JAX_PLATFORMS="cpu")
