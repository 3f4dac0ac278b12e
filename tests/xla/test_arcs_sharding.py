"""A sharded batch of lattices of any arcs stays where it is, as those of test_sharding do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support import IMPLEMENTATIONS, collectives

import jax_rnnt

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")


def _ways():
    """Kernels on every kind of mesh with and without ends, the reference, slow to compile, less."""
    for parameter in IMPLEMENTATIONS:
        (implementation,) = parameter.values
        for way in ("Auto", "Explicit", "manual"):
            for given in ("ends", "no ends") if implementation == "native" else ("ends",):
                name = f"{implementation}-{way}-{given}"
                yield pytest.param(implementation, way, given, marks=parameter.marks, id=name)


@pytest.mark.parametrize(("implementation", "way", "given"), list(_ways()))
def test_sharded_batch_moves_nothing(implementation, way, given, rng):
    """With initial and final, and with the operands without elements that stand for none."""
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType[way.replace("manual", "Auto")],))
    N, T, U = 2 * count, 4, 3
    keys = (1, 0), (2, 1), (0, 1)
    arcs = {key: rng.standard_normal((N, T, U)).astype(np.float32) for key in keys}
    lengths = np.arange(N, dtype=np.int32) % T + 1, np.arange(N, dtype=np.int32) % U
    ends = {}
    if given == "ends":
        ends = {x: rng.standard_normal((N, T + 1)).astype(np.float32) for x in ("initial", "final")}

    def run(arcs, ends, *lengths):
        def costs(arcs, ends):
            return jax_rnnt.arcs_cost(arcs, *lengths, **ends, implementation=implementation)

        costs, vjp = jax.vjp(costs, arcs, ends)
        return costs, *vjp(jnp.ones_like(costs))

    expected = jax.jit(run)(arcs, ends, *lengths)
    with jax.set_mesh(mesh):
        if way == "manual":
            run = jax.shard_map(run, in_specs=P("a"), out_specs=P("a"), check_vma=True)
        arguments = jax.device_put((arcs, ends, *lengths), NamedSharding(mesh, P("a")))
        compiled = jax.jit(run).lower(*arguments).compile()
        assert not collectives(compiled)
        actual = compiled(*arguments)
    for own, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert own.sharding.is_equivalent_to(NamedSharding(mesh, P("a")), own.ndim)
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-7)
