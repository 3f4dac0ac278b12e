"""What JAX makes of the losses' types, biases and durations, all in one function of two losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support import Problem, ragged, with_durations
from tolerances import assert_costs, assert_same_bits

import jax_rnnt


def _costs(rows, labels, frames, lengths, options, implementation=None):
    """TDT with an RNN-T in it, and HAT with one symbol a frame, of the same rows."""
    omega, sigma, bias = options
    batch = labels, frames, lengths
    own = dict(implementation=implementation)
    timed = jax_rnnt.tdt_loss_from_logits(
        rows, *batch, durations=(0, 1, 2), omega=omega, sigma=sigma, **own
    )
    return timed + jax_rnnt.rnnt_loss_from_logits(
        rows, *batch, label_bias=bias, rnnt_type="constrained", normalize="hat", **own
    )


def _everything(rows, labels, frames, lengths, options):
    """Costs and all gradients."""
    costs, vjp = jax.vjp(
        lambda rows, options: _costs(rows, labels, frames, lengths, options), rows, options
    )
    return costs, *vjp(jnp.ones_like(costs))


@pytest.fixture
def problem(rng) -> Problem:
    """Labels that are not the blank."""
    problem = with_durations(rng, ragged(rng, (8,), 4, 3, 5), 3)
    return problem._replace(
        labels=np.maximum(problem.labels, 1),
        labels_lengths=np.minimum(problem.labels_lengths, problem.frames_lengths),
    )


@pytest.fixture
def options(rng):
    return np.float32(0.3), np.float32(0.05), rng.standard_normal((4, 1), np.float32)


def _assert_same(actual, expected, rtol=1e-5):
    for own, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(own, other, rtol=rtol, atol=1e-5)


def test_vmap_of_the_options_and_of_sequences(problem, options):
    omegas, sigma, bias = np.linspace(0, 1, 3, dtype=np.float32), *options[1:]
    costs = jax.jit(jax.vmap(lambda omega: _costs(*problem, (omega, sigma, bias))))(omegas)
    for own, omega in zip(costs, omegas):
        assert_costs(own, np.asarray(_costs(*problem, (omega, sigma, bias)), np.float64))
    one = jax.grad(lambda *given: _costs(*given, options))
    gradients = jax.jit(jax.vmap(one))(*problem)
    _assert_same(gradients, jax.jit(_everything)(*problem, options)[1])


def test_options_that_all_devices_share_sum_their_gradients(problem, options):
    count = min(jax.device_count(), 8)
    mesh = jax.make_mesh(
        (count,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )
    spec, shared = P("a"), P()
    run = jax.shard_map(
        _everything,
        mesh=mesh,
        in_specs=(spec, spec, spec, spec, shared),
        out_specs=(spec, spec, shared),
        check_vma=True,
    )
    batch = [x[: 8 // count * count] for x in problem]
    _assert_same(jax.jit(run)(*batch, options), jax.jit(_everything)(*batch, options))


def test_export_with_symbolic_batch_and_frames(problem, options):
    N, T = export.symbolic_shape("N, T")
    shapes = (N, T, 3, 8), (N, 2), (N,), (N,)
    given = [jax.ShapeDtypeStruct(s, x.dtype) for s, x in zip(shapes, problem)]
    bias = jax.ShapeDtypeStruct((T, 1), np.float32)
    exporter = export.export(jax.jit(_everything), disabled_checks=jax_rnnt.custom_call_checks())
    exported = exporter(*given, (*options[:2], bias))
    expected = jax.jit(_everything)(*problem, options)
    for own, other in zip(*map(jax.tree.leaves, (exported.call(*problem, options), expected))):
        assert_same_bits(own, other)


def test_second_derivatives_of_plain_jax(problem, options, rng):
    direction = rng.standard_normal(problem.rows.shape)

    def total(rows):
        own = 0, *options[1:]  # one lattice less to compile
        return _costs(rows, *problem[1:], own, implementation="reference").sum()

    with jax.enable_x64(True):
        rows, gradient = problem.rows.astype(np.float64), jax.jit(jax.grad(total))
        product = jax.jit(lambda *x: jax.jvp(jax.grad(total), x[:1], x[1:])[1])(rows, direction)
        step = 1e-5
        above, below = (gradient(rows + sign * step * direction) for sign in (1, -1))
        np.testing.assert_allclose(product, (above - below) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("flag", ["jax_debug_nans", "jax_debug_infs", "jax_disable_jit"])
def test_debugging_options(problem, options, flag):
    expected = _costs(*problem, options)
    jax.config.update(flag, True)
    try:
        assert_costs(_costs(*problem, options), np.asarray(expected, np.float64))
        assert np.isfinite(
            jax.grad(lambda x: _costs(x, *problem[1:], options).sum())(problem.rows)
        ).all()
    finally:
        jax.config.update(flag, False)
