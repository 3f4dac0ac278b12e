"""What a compiled program of the joint's loss holds."""

import jax
import jax.numpy as jnp
import pytest
from joint_problems import Joint, make_problem

import jax_rnnt
from jax_rnnt.rows import joint_fused


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_fused_kernels_are_called_where_they_run(rng, dtype):
    problem = make_problem(rng, 2, 20, 10, 16, 12)
    problem = problem._replace(joint=Joint(*(x.astype(dtype) for x in problem.joint)))

    def run(joint):
        return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], reduction="sum")

    lowered = jax.jit(jax.grad(run)).lower(problem.joint).as_text()
    fits = joint_fused.fits(16, 12, jnp.dtype(dtype), jnp.tanh)
    assert fits == (joint_fused._has_hopper() and dtype == "bfloat16")
    for name in ("pack", "forward", "gradients", "hidden"):
        assert (f"jax_rnnt_joint_{name}_cuda" in lowered) == fits


def test_memory_does_not_grow_with_frames_times_labels_times_symbols():
    def temporary(T, U, tile):
        shapes = [(4, T, 32), (4, U, 32), (32, 512), (512,)]
        joint = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        labels = jax.ShapeDtypeStruct((4, U - 1), jnp.int32)
        lengths = jax.ShapeDtypeStruct((4,), jnp.int32)

        def loss(*arguments):
            return jax_rnnt.rnnt_loss_from_joint(*arguments, reduction="mean", tile=tile)

        run = jax.jit(jax.value_and_grad(loss, range(4)))
        compiled_program = run.lower(*joint, labels, lengths, lengths).compile()
        return compiled_program.memory_analysis().temp_size_in_bytes

    cells = 4 * 160 * 80
    growth = temporary(160, 80, (16, 8, 4)) - temporary(80, 40, (16, 8, 4))
    # Per cell: arcs, normalisers, lattice values, cotangents and their tiles.
    assert growth < 3 / 4 * cells * 200
    assert temporary(400, 200, None) < 4 * 400 * 200 * 512 * 4 / 8
