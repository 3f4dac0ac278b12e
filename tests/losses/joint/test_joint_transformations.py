"""Every transformation of JAX gives what the plain call of the joint's loss gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import (
    Joint,
    Problem,
    Result,
    assert_close,
    evaluate,
    expected,
    flat,
    joint_cost,
    make_problem,
    value_and_gradients,
)
from tolerances import assert_costs, assert_gradients

import jax_rnnt


def test_vmap_over_the_batch(rng):
    problem = make_problem(rng, 5, 9, 6, 5, 7)

    def total(*joint):
        mapped = jax.vmap(joint_cost, (0, 0, None, None, 0, 0, 0))
        costs = mapped(*joint, *problem[1:])
        return costs.sum(), costs

    gradients, costs = jax.jit(jax.grad(total, range(4), has_aux=True))(*problem.joint)
    assert_close(Result(costs, Joint(*gradients)), expected(problem))


def test_vmap_of_gradients_is_each_sequences_own(rng):
    problem = make_problem(rng, 3, 9, 6, 5, 7)
    mapped = jax.vmap(value_and_gradients, (0, 0, None, None, 0, 0, 0))
    costs, gradients = jax.jit(mapped)(*flat(problem))
    for n in range(3):
        one = Problem(
            Joint(*(x[n : n + 1] for x in problem.joint[:2]), *problem.joint[2:]),
            *(x[n : n + 1] for x in problem[1:]),
        )
        own = Joint(*(g[n : n + 1] for g in gradients[:2]), *(g[n] for g in gradients[2:]))
        assert_close(Result(costs[n : n + 1], own), expected(one))


def test_vmap_over_kernels(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    kernels = rng.standard_normal((3, 5, 7), np.float32)
    mapped = jax.vmap(value_and_gradients, (None, None, 0, None, None, None, None))
    arguments = flat(problem)
    arguments[2] = kernels
    costs, gradients = jax.jit(mapped)(*arguments)
    for i, kernel in enumerate(kernels):
        own = problem._replace(joint=problem.joint._replace(kernel=kernel))
        assert_close(Result(costs[i], Joint(*(g[i] for g in gradients))), expected(own))


def test_nested_vmap_and_scan_and_checkpoint(rng):
    problem = make_problem(rng, 4, 6, 4, 3, 5)
    wanted = expected(problem)
    batched = [problem.joint.encoder, problem.joint.predictor, *problem[1:]]
    folded = [x.reshape(2, 2, *x.shape[1:]) for x in batched]

    def total(joint, body):
        def one(encoder, predictor, *rest):
            return joint_cost(encoder, predictor, *joint[2:], *rest)

        arrays = [x.reshape(2, 2, *x.shape[1:]) for x in joint[:2]] + folded[2:]
        return body(one, arrays)

    def nested(one, arrays):
        return jax.vmap(jax.vmap(one))(*arrays).sum()

    def scanned(one, arrays):
        step = jax.checkpoint(lambda carry, x: (carry + one(*x).sum(), None))
        return jax.lax.scan(step, jnp.float32(0), tuple(arrays))[0]

    for body in (nested, scanned):
        value, gradients = jax.jit(jax.value_and_grad(functools.partial(total, body=body)))(
            problem.joint
        )
        assert_close(Result(value, gradients), wanted._replace(costs=wanted.costs.sum()))


def test_second_derivatives_by_the_reference(rng):
    problem = make_problem(rng, 1, 4, 3, 2, 3)

    def loss(bias):
        joint = problem.joint._replace(bias=bias)
        return jax_rnnt.rnnt_loss_from_joint(
            *joint, *problem[1:], reduction="sum", implementation="reference"
        )

    hessian = np.asarray(jax.hessian(loss)(problem.joint.bias))
    step = 1e-2
    for i, direction in enumerate(np.eye(3, dtype=np.float32)):
        ahead, behind = (jax.grad(loss)(problem.joint.bias + s * direction) for s in (step, -step))
        np.testing.assert_allclose(hessian[i], (ahead - behind) / (2 * step), atol=2e-3)


def test_second_derivatives_of_the_walk_are_refused(rng):
    problem = make_problem(rng, 1, 4, 3, 2, 3)

    def loss(bias):
        joint = problem.joint._replace(bias=bias)
        return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], reduction="sum")

    with pytest.raises(NotImplementedError, match=r"implementation='reference'"):
        jax.hessian(loss)(problem.joint.bias)


def test_export(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    exported = jax.export.export(
        jax.jit(value_and_gradients), disabled_checks=jax_rnnt.custom_call_checks()
    )(*flat(problem))
    reloaded = jax.export.deserialize(exported.serialize())
    costs, gradients = reloaded.call(*flat(problem))
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


def test_symbolic_sizes_are_refused_with_a_sentence(rng):
    problem = make_problem(rng, 2, 9, 6, 5, 7)
    (N,) = jax.export.symbolic_shape("N")
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in flat(problem)]
    for i in (0, 1, 4, 5, 6):
        arguments[i] = jax.ShapeDtypeStruct((N, *arguments[i].shape[1:]), arguments[i].dtype)
    with pytest.raises(NotImplementedError, match="symbolic"):
        jax.export.export(jax.jit(joint_cost))(*arguments)


@pytest.mark.parametrize("under_jit", [False, True])
def test_ensure_compile_time_eval(rng, under_jit):
    """Values and gradients of constants, as the plain call has them."""
    problem = make_problem(rng, 3, 9, 6, 5, 7)

    def evaluated(scale):
        with jax.ensure_compile_time_eval():
            costs, gradients = value_and_gradients(*flat(problem))
        assert not isinstance(costs, jax.core.Tracer)
        return costs * scale, gradients

    run = jax.jit(evaluated) if under_jit else evaluated
    costs, gradients = run(np.float32(1))
    assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))


def _as_batch_of_two_dimensions(problem: Problem) -> Problem:
    encoder, predictor, *weights = problem.joint
    return Problem(Joint(encoder[None], predictor[None], *weights), *(x[None] for x in problem[1:]))


@pytest.mark.parametrize("options", [{}, {"implementation": "reference"}])
def test_batches_of_two_dimensions(rng, options):
    """And nothing broadcasts arrays of different ranks unsaid, at which the suite raises."""
    assert jax.config.jax_numpy_rank_promotion == "raise"
    problem = make_problem(rng, 3, 9, 6, 5, 7)
    costs, gradients = evaluate(_as_batch_of_two_dimensions(problem), **options)
    batched = (g.reshape(g.shape[1:]) for g in gradients[:2])
    assert_close(Result(costs.reshape(-1), Joint(*batched, *gradients[2:])), expected(problem))


def test_batches_of_two_dimensions_leave_out_the_same(rng):
    problem = make_problem(rng, 3, 9, 6, 5, 7)
    wanted = evaluate(problem, min_posterior=0.1)
    actual = evaluate(_as_batch_of_two_dimensions(problem), min_posterior=0.1)
    assert_costs(actual.costs.reshape(-1), wanted.costs)
    for a, b in zip(actual.gradients, wanted.gradients, strict=True):
        assert_gradients(np.asarray(a).reshape(np.shape(b)), b)
