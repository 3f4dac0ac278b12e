"""What the loss needs of memory, by XLA's own analysis, and that it writes over nobody's logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs_native

import jax_rnnt

N, T, U, V = 4, 50, 20, 200
CELLS = N * T * U
LOGITS_BYTES = CELLS * V * 4

needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


def _loss(logits):
    labels = jnp.ones((N, U - 1), jnp.int32)
    lengths = jnp.full(N, T, jnp.int32), jnp.full(N, U - 1, jnp.int32)
    return jax_rnnt.rnnt_loss_from_logits(logits, labels, *lengths, reduction="mean")


def _inputs(rng):
    encoder = jnp.asarray(rng.standard_normal((N, T, 1, V)), jnp.float32)
    return encoder, jnp.asarray(rng.standard_normal((N, 1, U, V)), jnp.float32)


def _joint(encoder, predictor):
    return 2 * (encoder + predictor)


def _compile(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile()


@needs_native
def test_logits_that_the_caller_keeps_are_not_copied(rng):
    compiled = _compile(jax.value_and_grad(_loss), _joint(*_inputs(rng)))
    assert "output_to_operand_aliasing" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * CELLS


@needs_native
@needs_gpu
def test_what_is_kept_of_cells_is_where_the_gradient_comes(rng):
    compiled = _compile(jax.value_and_grad(_loss), _joint(*_inputs(rng)))
    # Log-probabilities, normalisers and cotangents, two of each; alphas and betas beside them
    # would be 16 bytes more.
    assert 24 * CELLS <= compiled.memory_analysis().temp_size_in_bytes < 28 * CELLS


@needs_native
def test_gradient_is_written_over_donated_logits(rng):
    compiled = _compile(jax.value_and_grad(_loss), _joint(*_inputs(rng)), donate_argnums=0)
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == LOGITS_BYTES
    assert memory.temp_size_in_bytes < 100 * CELLS


@needs_native
def test_made_logits_are_copied_by_nobody(rng):
    def step(encoder, predictor):
        return _loss(_joint(encoder, predictor))

    text = _compile(jax.value_and_grad(step, (0, 1)), *_inputs(rng)).as_text()
    logits = rf"f32\[{N},{T},{U},{V}\]\S*"
    assert re.search(rf"= {logits} fusion\(", text)
    assert not re.search(rf"= {logits} copy\(|copy_fusion\S* = {logits}", text)


@needs_native
@needs_gpu
def test_gradient_is_written_over_logits_that_nobody_uses_again(rng):
    def step(encoder, predictor):
        return _loss(_joint(encoder, predictor))

    memory = _compile(jax.value_and_grad(step, (0, 1)), *_inputs(rng)).memory_analysis()
    assert memory.temp_size_in_bytes < LOGITS_BYTES + 100 * CELLS


def test_logits_that_are_used_again_are_untouched(rng):
    def step(encoder, predictor):
        logits = _joint(encoder, predictor)
        loss, gradient = jax.value_and_grad(_loss)(logits)
        return loss, gradient, logits

    inputs = _inputs(rng)
    loss, gradient, logits = jax.jit(step)(*inputs)
    np.testing.assert_array_equal(logits, _joint(*inputs))
    expected = jax.jit(jax.value_and_grad(_loss))(_joint(*inputs))
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(gradient, expected[1])


def _free_bytes() -> int:
    if jax.default_backend() != "gpu":
        return 0
    memory = jax.devices()[0].memory_stats() or {}
    return memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)


@needs_native
@pytest.mark.parametrize(("sequences", "dtype"), [(128, "float32"), (192, "bfloat16")])
def test_arrays_past_two_to_the_31_and_32_elements(sequences, dtype):
    """The first and the last sequence are what they are alone."""
    T, U, V = 1500, 300, 50
    elements = sequences * T * U * V
    if _free_bytes() < 2.5 * elements * jnp.dtype(dtype).itemsize:
        pytest.skip("needs a GPU with 30 GB to spare")
    logits = jax.random.normal(jax.random.key(0), (sequences, T, U, V), dtype)
    labels = jax.random.randint(jax.random.key(1), (sequences, U - 1), 1, V)
    frames_lengths = jnp.full(sequences, T).at[-1].set(T - 7)
    labels_lengths = jnp.full(sequences, U - 1).at[-1].set(U - 5)

    def costs_and_gradients(*arguments, implementation=None):
        def loss(logits):
            costs = jax_rnnt.rnnt_loss_from_logits(
                logits, *arguments[1:], implementation=implementation
            )
            return costs.sum(), costs

        gradients, costs = jax.jit(jax.grad(loss, has_aux=True))(arguments[0])
        return costs, gradients

    arguments = logits, labels, frames_lengths, labels_lengths
    costs, gradients = costs_and_gradients(*arguments)
    assert np.isfinite(costs).all()
    for n in (0, -1):
        alone = [x[n][None] for x in arguments]
        cost, gradient = costs_and_gradients(*alone)
        assert costs[n] == cost[0]
        np.testing.assert_array_equal(gradients[n], gradient[0])
        cost, gradient = costs_and_gradients(*alone, implementation="reference")
        np.testing.assert_allclose(costs[n], cost[0], rtol=1e-6)
        error = jnp.linalg.norm((gradients[n] - gradient[0]).astype(jnp.float32))
        norm = jnp.linalg.norm(gradient[0].astype(jnp.float32))
        assert error / norm < (5e-6 if dtype == "float32" else 3e-3)
