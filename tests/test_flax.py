"""The joint module: its logits are the formula's, and its loss is the loss of these logits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_examples_are_true, every_lattice, run_python
from tolerances import assert_costs, relative_error

import jax_rnnt

nnx = pytest.importorskip("flax.nnx")

E, P, H, V = 6, 5, 7, 5
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    None: lambda x: x,
    jnp.sin: np.sin,
}
BIASES = {("encoder_projection", "bias"), ("predictor_projection", "bias"), ("bias",)}
KERNELS = {("encoder_projection", "kernel"), ("predictor_projection", "kernel"), ("kernel",)}


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def make_joint(**options):
    """A joint in which every parameter, the biases too, has a say."""
    normal = nnx.initializers.normal(0.5)
    return jax_rnnt.flax.RNNTJoint(
        E, P, H, V, kernel_init=normal, bias_init=normal, rngs=nnx.Rngs(0), **options
    )


def make_batch(rng, dtype="float32"):
    """(encoder, predictor, labels, frames_lengths, labels_lengths) of every small lattice."""
    rows, *rest = every_lattice(rng, V)
    N, T, U, _ = rows.shape
    encoder, predictor = rng.standard_normal((N, T, E)), rng.standard_normal((N, U, P))
    return *(jnp.asarray(x, dtype) for x in (encoder, predictor)), *map(jnp.asarray, rest)


def parameters(joint):
    return dict(nnx.to_flat_state(nnx.state(joint, nnx.Param)))


def values_and_gradients(joint, loss, *arguments):
    """The loss and the gradient of each parameter, by the functional form under jit."""
    graph, params = nnx.split(joint, nnx.Param)
    run = jax.jit(jax.value_and_grad(lambda params: loss(nnx.merge(graph, params), *arguments)))
    value, gradients = run(params)
    return value, {path: x[...] for path, x in nnx.to_flat_state(gradients)}


def loss_from_joint(joint, *batch, **options):
    return joint.loss(*batch, reduction="mean", **options)


def loss_from_logits(joint, encoder, predictor, *rest, **options):
    logits = joint(encoder, predictor)
    return jax_rnnt.rnnt_loss_from_logits(logits, *rest, reduction="mean", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_logits_are_those_of_the_formula(rng, activation, use_bias):
    joint = make_joint(activation=activation, use_bias=use_bias)
    encoder, predictor = rng.standard_normal((2, 4, E)), rng.standard_normal((2, 3, P))
    values = {path: np.asarray(x[...], np.float64) for path, x in parameters(joint).items()}
    assert values.keys() == (KERNELS | BIASES if use_bias else KERNELS)

    def project(name, inputs):
        return inputs @ values[name, "kernel"] + values.get((name, "bias"), 0)

    hidden = ACTIVATIONS[activation](
        project("encoder_projection", encoder)[:, :, None]
        + project("predictor_projection", predictor)[:, None]
    )
    expected = hidden @ values["kernel",] + values.get(("bias",), 0)
    logits = joint(np.float32(encoder), np.float32(predictor))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("joint_options", "loss_options"),
    [
        ({}, {}),
        ({"use_bias": False, "activation": "relu"}, {"implementation": "reference"}),
        ({"activation": jnp.sin}, {"blank": -1, "fastemit_lambda": 0.1, "average_frames": True}),
    ],
)
def test_loss_and_gradients_are_those_of_the_logits(rng, joint_options, loss_options):
    joint, batch = make_joint(**joint_options), make_batch(rng)
    actual, expected = (
        values_and_gradients(joint, lambda *args, loss=loss: loss(*args, **loss_options), *batch)
        for loss in (loss_from_joint, loss_from_logits)
    )
    assert_costs(actual[0], expected[0])
    assert actual[1].keys() == expected[1].keys() == parameters(joint).keys()
    for path, gradient in expected[1].items():
        assert relative_error(actual[1][path], np.asarray(gradient, np.float64)) < 1e-5, path


def test_options_of_the_loss_reach_it(rng):
    joint, batch = make_joint(), make_batch(rng)
    bias = np.linspace(-1, 1, 4, dtype=np.float32)
    own = dict(rnnt_type="modified", label_bias=bias)
    costs = joint.loss(*batch, min_posterior=0.0, tile=(2, 2, 1), **own)
    expected = jax_rnnt.rnnt_loss_from_logits(joint(*batch[:2]), *batch[2:], **own)
    assert costs.shape == (16,)
    assert_costs(costs, expected)
    with pytest.raises(ValueError, match="reduction"):
        joint.loss(*batch, reduction="median")
    with pytest.raises(TypeError, match="activation"):
        joint.loss(*batch, activation="relu")


def test_a_joint_with_durations_has_the_loss_of_tokens_and_durations(rng):
    durations = (0, 1, 2)
    joint, batch = make_joint(durations=durations), make_batch(rng)
    logits = joint(*batch[:2])
    assert logits.shape[-1] == V + len(durations)
    options = {"sigma": 0.05, "omega": 0.1, "durations": durations}
    expected = jax_rnnt.tdt_loss_from_logits(logits, *batch[2:], **options)
    del options["durations"]
    assert_costs(joint.loss(*batch, **options), expected)
    with pytest.raises(ValueError, match=r"^durations must be different"):
        make_joint(durations=(0, 0))


def test_dropout_draws_a_key_for_each_loss_until_it_is_switched_off(rng):
    joint, batch = make_joint(dropout_rate=0.5), make_batch(rng)
    first, second = joint.loss(*batch), joint.loss(*batch)
    assert (first != second).any()
    key = jax.random.key(1)
    given = [joint.loss(*batch, dropout_key=key) for _ in range(2)]
    np.testing.assert_array_equal(*given)
    projected = joint.project_encoder(batch[0]), joint.project_predictor(batch[1])
    weights = *projected, joint.kernel[...], joint.bias[...]
    own = jax_rnnt.rnnt_loss_from_joint(*weights, *batch[2:], dropout_rate=0.5, dropout_key=key)
    assert_costs(given[0], np.asarray(own, np.float64))
    joint.eval()
    assert_costs(joint.loss(*batch), np.asarray(make_joint().loss(*batch), np.float64))


def test_steps_of_a_search_are_cells_of_the_grid(rng):
    joint, (encoder, predictor, *_) = make_joint(), make_batch(rng)
    logits = joint(encoder, predictor)

    def assert_same(actual, expected):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

    step = jax.jit(joint)
    assert_same(step(encoder[:, 2:3], predictor[:, 1:2])[:, 0, 0], logits[:, 2, 1])
    assert_same(step(encoder[:, 2:3], predictor), logits[:, 2:3])
    assert_same(joint(encoder[0], predictor[0]), logits[0])
    frames, features = joint.project_encoder(encoder), joint.project_predictor(predictor)
    assert_same(joint.from_projected(frames[:, 1:3], features[:, :1]), logits[:, 1:3, 0])
    assert_same(joint.from_projected(frames[:, 2:3], features), logits[:, 2])
    with pytest.raises(ValueError, match=rf"predictor must have shape \(..., {H}\), projected"):
        joint.from_projected(frames, predictor)
    with pytest.raises(ValueError, match=rf"encoder must have shape \(..., {E}\), got"):
        joint.project_encoder(frames)
    one_for_all = joint(encoder[:1, 2:3], predictor[:, :1])
    assert_same(one_for_all[3], joint(encoder[0, 2:3], predictor[3, :1]))


def test_dtype_is_that_of_the_computation_and_parameters_keep_theirs(rng):
    batch = make_batch(rng)
    joint, exact = make_joint(dtype=jnp.bfloat16), make_joint()
    assert {x.dtype for x in parameters(joint).values()} == {jnp.dtype("float32")}
    assert joint(*batch[:2]).dtype == jnp.bfloat16

    value, gradients = values_and_gradients(joint, loss_from_joint, *batch)
    expected, expected_gradients = values_and_gradients(exact, loss_from_joint, *batch)
    assert value.dtype == jnp.float32
    assert value != expected
    np.testing.assert_allclose(value, expected, rtol=2e-2)
    for path, gradient in gradients.items():
        assert gradient.dtype == jnp.float32
        assert relative_error(gradient, np.asarray(expected_gradients[path], float)) < 5e-2, path


@pytest.mark.parametrize(
    ("inputs", "params", "logits"),
    [("bfloat16", "float32", "float32"), ("bfloat16", "bfloat16", "bfloat16")],
)
def test_without_a_dtype_inputs_and_parameters_promote(rng, inputs, params, logits):
    batch = make_batch(rng, inputs)
    joint = make_joint(param_dtype=jnp.dtype(params))
    with jax.numpy_dtype_promotion("standard"):
        assert joint(*batch[:2]).dtype == logits
        value, gradients = values_and_gradients(joint, loss_from_joint, *batch)
    assert value.dtype == jnp.float32
    assert {x.dtype for x in gradients.values()} == {jnp.dtype(params)}


def test_training_follows_that_of_the_logits_step_by_step(rng):
    optax = pytest.importorskip("optax")
    batch = make_batch(rng)

    @nnx.jit(static_argnames="loss")
    def train_step(joint, optimizer, loss):
        value, gradients = nnx.value_and_grad(loss)(joint, *batch)
        optimizer.update(joint, gradients)
        return value

    def train(loss):
        joint = make_joint()
        optimizer = nnx.Optimizer(joint, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
        losses = [train_step(joint, optimizer, loss) for _ in range(20)]
        return np.array(losses), parameters(joint)

    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        losses, learnt = train(loss_from_joint)
        expected, expected_learnt = train(loss_from_logits)
    assert expected[-1] < 0.7 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for path, value in expected_learnt.items():
        np.testing.assert_allclose(
            learnt[path][...], value[...], rtol=1e-3, atol=1e-4, err_msg=str(path)
        )


@pytest.mark.parametrize(
    ("encoder", "predictor", "message"),
    [
        ((2, 3, E + 1), (2, 4, P), rf"encoder must have shape \(\.\.\., T, {E}\), got \(2, 3, 7\)"),
        ((2, 3, E), (2, 4, E), rf"predictor must have shape \(\.\.\., U, {P}\), got \(2, 4, 6\)"),
        ((E,), (P,), rf"encoder must have shape \(\.\.\., T, {E}\), got \(6,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(encoder, predictor, message):
    joint = make_joint()
    inputs = jnp.zeros(encoder), jnp.zeros(predictor)
    with pytest.raises(ValueError, match=message):
        joint(*inputs)
    with pytest.raises(ValueError, match=message):
        joint.loss(*inputs, [[1, 2, 3]] * 2, [3, 3], [3, 3])


def test_unknown_activation_is_refused_at_once():
    with pytest.raises(ValueError, match="activation"):
        make_joint(activation="softmax")


def test_examples_in_docstrings_are_true():
    assert_examples_are_true("RNNTJoint", jax_rnnt.flax.RNNTJoint)


def test_flax_is_imported_by_who_asks_for_it():
    run_python("""
import sys
import jax_rnnt
assert "flax" not in sys.modules and "jax_rnnt.flax" not in sys.modules
assert not hasattr(jax_rnnt, "no_such_name")
assert jax_rnnt.flax.RNNTJoint is sys.modules["jax_rnnt.flax"].RNNTJoint
assert sys.modules["flax"].nnx.Module in jax_rnnt.flax.RNNTJoint.__mro__
""")


def test_without_flax_one_sentence_says_what_to_install():
    printed = run_python("""
import sys
sys.modules["flax"] = None
import jax_rnnt
for statement in ("import jax_rnnt.flax", "from jax_rnnt import flax", "jax_rnnt.flax.RNNTJoint"):
    try:
        exec(statement)
    except ImportError as error:
        print(error)
""")
    sentence = "jax_rnnt.flax needs Flax 0.12.2 or newer: pip install 'jax_rnnt[flax]'."
    assert printed.splitlines() == [sentence] * 3
