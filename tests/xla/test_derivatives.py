"""Which derivatives there are: reverse mode of the kernels, all of them of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import Loss, for_loss, pack, precision, ragged

import jax_rnnt

FORWARD = {
    "jvp": lambda f, x: jax.jit(lambda x: jax.jvp(f, (x,), (x,)))(x),
    "linearize": lambda f, x: jax.linearize(f, x)[1](x),
    "hessian": lambda f, x: jax.hessian(f)(x),
}


def _total(loss: Loss, rng):
    problem = for_loss(loss, ragged(rng, (2,), 2, 2, 2))
    rows, *rest = pack(problem, filler=0.0) if loss.compact else problem
    return (lambda rows: loss(rows, *rest).sum()), jnp.asarray(rows)


@pytest.mark.parametrize("forward", FORWARD.values(), ids=FORWARD)
def test_forward_mode_points_to_the_reference(loss: Loss, forward, rng):
    function, rows = _total(loss, rng)
    if loss.implementation == "reference" and not loss.compact:
        jax.block_until_ready(forward(function, rows))
    else:
        with pytest.raises(NotImplementedError, match=r"implementation='reference', not compact"):
            forward(function, rows)


def _lattice_cost(blank, label, *lengths, **options):
    return jax_rnnt.lattice_cost(blank, label, *lengths, **options)


def _arcs_cost(blank, label, *lengths, **options):
    return jax_rnnt.arcs_cost({(1, 0): blank, (1, 1): label}, *lengths, **options)


@pytest.mark.parametrize("function", [_lattice_cost, _arcs_cost])
@pytest.mark.parametrize("compact", [False, True])
def test_derivatives_of_a_lattice_point_to_the_reference(function, implementation, compact, rng):
    def cost(arcs):
        return function(arcs, arcs, [2], [1], compact=compact, implementation=implementation).sum()

    arcs = jnp.asarray(-rng.random(4 if compact else (1, 2, 2)), jnp.float32)
    if implementation == "reference" and not compact:
        value, slope = jax.jvp(cost, (arcs,), (jnp.ones_like(arcs),))
        np.testing.assert_allclose(slope, jax.grad(cost)(arcs).sum(), rtol=1e-5)
        assert np.isfinite(value)
    else:
        with pytest.raises(NotImplementedError, match=r"implementation='reference', not compact"):
            jax.jvp(cost, (arcs,), (arcs,))
        with pytest.raises(NotImplementedError, match=r"implementation='reference', not compact"):
            jax.grad(lambda arcs: jax.grad(cost)(arcs).sum())(arcs)


def test_forward_mode_of_a_joint_points_to_the_reference(rng):
    joint = [
        jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((1, 2, 4), (1, 2, 4), (4, 3))
    ]

    def loss(kernel, implementation):
        return jax_rnnt.rnnt_loss_from_joint(
            *joint[:2], kernel, None, [[1]], [2], [1], implementation=implementation
        ).sum()

    with pytest.raises(NotImplementedError, match=r"implementation='reference', not compact"):
        jax.jvp(lambda x: loss(x, None), joint[2:], joint[2:])
    _, slope = jax.jvp(lambda x: loss(x, "reference"), joint[2:], joint[2:])
    gradient = jax.grad(lambda x: loss(x, "reference"))(joint[2])
    np.testing.assert_allclose(slope, (gradient * joint[2]).sum(), rtol=1e-4)


def test_forward_mode_of_the_reference_is_its_gradient(rng):
    loss = Loss(from_logits=True, implementation="reference")
    with precision("float64"):
        function, rows = _total(loss, rng)
        rows = rows.astype(jnp.float64)
        tangent = jnp.asarray(rng.standard_normal(rows.shape))
        slope = jax.jvp(function, (rows,), (tangent,))[1]
        np.testing.assert_allclose(slope, jnp.vdot(jax.grad(function)(rows), tangent), rtol=1e-9)
