"""The network of examples.speech, its losses, and its step on one device and on several."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import collectives

for library in ("flax", "grain", "jiwer", "optax", "orbax.checkpoint", "sentencepiece"):
    pytest.importorskip(library)

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

import optax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

import jax_rnnt  # noqa: E402
from examples.speech.batches import Batch  # noqa: E402
from examples.speech.conformer import Conformer, Depthwise  # noqa: E402
from examples.speech.model import Transducer  # noqa: E402
from examples.speech.objective import encoder_costs  # noqa: E402
from examples.speech.plan import Shape  # noqa: E402
from examples.speech.settings import preset  # noqa: E402
from examples.speech.step import Learner, bad_batches  # noqa: E402

V = 64


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def make_batch(rng) -> Batch:
    """Four utterances, the third of which is padding."""
    samples_lengths = np.array([16_000, 7_000, 0, 12_345], np.int32)
    audio = rng.standard_normal((4, 16_000)).astype(np.float32) / 10
    audio *= np.arange(16_000)[None] < samples_lengths[:, None]
    labels = rng.integers(1, V, (4, 6)).astype(np.int32)
    return Batch(audio, samples_lengths, labels, np.array([6, 2, 0, 4], np.int32))


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_alone_as_in_a_batch(predictor, rng):
    model = Transducer(preset("tiny", predictor=predictor), V, rngs=nnx.Rngs(0))
    encode = nnx.jit(lambda model, *audio: model.encode(*audio))
    batch = make_batch(rng)
    frames, lengths = encode(model, batch.audio, batch.samples_lengths)
    assert lengths.tolist() == [13, 6, 0, 10]
    for n in (1, 3):
        samples = batch.samples_lengths[n]
        alone, (T,) = encode(
            model, batch.audio[n : n + 1, :samples], batch.samples_lengths[n : n + 1]
        )
        assert alone.shape[1] == T
        np.testing.assert_allclose(alone[0], frames[n, :T], atol=1e-5)

    columns = model.predictor(batch.labels)
    state, newest = model.predictor_start(4), jnp.zeros(4, jnp.int32)
    for u in range(7):  # label by label, as all at once
        state, features = model.predictor_step(state, newest)
        np.testing.assert_allclose(features, columns[:, u], atol=1e-6)
        newest = batch.labels[:, min(u, 5)]


def test_a_new_encoder_neither_shrinks_nor_amplifies(rng):
    """Zeros, where all features are masked, would meet norms, which multiply their gradients."""
    settings = preset("tiny", width=128)
    for kernel in ((3, 3), (9,)):
        depthwise = Depthwise(128, kernel, 1, "float32", rngs=nnx.Rngs(0))
        x = rng.standard_normal((2, *(20,) * len(kernel), 128)).astype(np.float32)
        assert 0.8 < float(depthwise(x).std()) < 1.2
    encoder = Conformer(settings, rngs=nnx.Rngs(0))
    features = rng.standard_normal((1, 400, settings.bands)).astype(np.float32)
    features[:, 100:160] = 0
    frames, (T,) = encoder.subsampling(features, jnp.array([400]))
    deviations = np.asarray(frames.std(-1))[0]
    assert T == len(deviations) == 50
    assert 0.1 < np.median(deviations) < 1
    assert deviations.min() > 0.03


def test_a_deep_new_encoder_tells_neighbouring_frames_apart(rng):
    """With a norm behind each of 17 blocks a tenth was left of the difference, and none learnt."""
    settings = preset("tiny", layers=17)
    encoder = nnx.jit(Conformer(settings, rngs=nnx.Rngs(0)))
    features = rng.standard_normal((2, 400, settings.bands)).astype(np.float32)
    frames, _ = encoder(features, jnp.array([400, 400]))
    assert float(jnp.diff(frames, axis=1).std()) > 0.3 * float(frames.std())


def test_the_encoders_own_loss_is_that_of_logits_alike_in_all_columns(rng):
    logits = rng.standard_normal((3, 5, 7)).astype(np.float32)
    labels = rng.integers(1, 7, (3, 4)).astype(np.int32)
    frames_lengths, labels_lengths = np.array([5, 3, 0]), np.array([4, 2, 0])
    own = encoder_costs(*map(jnp.asarray, (logits, labels, frames_lengths, labels_lengths)))
    columns = np.repeat(logits[:, :, None], 5, axis=2)
    expected = jax_rnnt.rnnt_loss_from_logits(columns[:2], labels[:2], [5, 3], [4, 2])
    np.testing.assert_allclose(own[:2], expected, rtol=1e-5)
    assert own[2] == 0


def test_the_encoders_own_loss_is_for_training_alone(rng):
    own, without = (
        Transducer(preset("tiny", encoder_weight=weight), V, rngs=nnx.Rngs(0)) for weight in (1, 0)
    )
    batch = make_batch(rng)
    np.testing.assert_array_equal(own.loss(batch), without.loss(batch))
    key = jax.random.key(0)
    assert (own.loss(batch, key) > without.loss(batch, key)).tolist() == [True, True, False, True]


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_a_new_joint_hears_labels(predictor, rng):
    """Beside an encoder's frames, of deviation 1 behind its last norm."""
    model = Transducer(preset("tiny", predictor=predictor), V, rngs=nnx.Rngs(0))
    features = model.joint.project_predictor(model.predictor(rng.integers(2, V, (4, 9))))
    assert 0.1 < float(features[:, 3:].std()) < 2


@pytest.mark.parametrize("loss", ["rnnt", "tdt", "pruned"])
def test_losses_and_gradients_are_finite(loss, rng):
    settings = preset("tiny", loss=loss, width=16, layers=1, dropout=0.1, joint_dropout=0.1)
    graph, params = nnx.split(Transducer(settings, V, rngs=nnx.Rngs(0)))

    @jax.jit
    def run(params, batch, key):
        def total(params):
            costs = nnx.merge(graph, params).loss(batch, key, jnp.int32(3))
            return costs.sum(), costs

        return jax.grad(total, has_aux=True)(params)

    gradients, costs = run(params, make_batch(rng), jax.random.key(0))
    assert (np.asarray(costs) > 0).tolist() == [True, True, False, True]
    for gradient in jax.tree.leaves(gradients):
        assert jnp.isfinite(gradient).all()
        assert gradient.any()


def test_step_of_several_devices_is_that_of_one(rng):
    """And nothing goes between them but sums; a batch without sense is left out, and counted."""
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    # Optimised, a CPU's sums over one row and over four differ by more than is compared here.
    jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")
    settings = preset("tiny", width=16, layers=1, time_masks=0, band_masks=0)
    batch, results = make_batch(rng), []
    shape = Shape(4, 16_000, 6)
    for count in (1, 4):
        learner = Learner(settings, V, Mesh(np.asarray(jax.devices()[:count]), ("data",)))
        learner.compile([shape])
        state = learner.start()
        state, totals = learner(state, batch)
        results.append((totals, optax.tree.get(state.optimizer_state, "mu")))
    for one, four in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-6)
    program = learner.programs[tuple(shape)]
    assert collectives(program) == {"all-reduce"}
    assert bad_batches(state) == 0
    worse, _ = learner(state, batch._replace(audio=np.full_like(batch.audio, np.nan)))
    assert bad_batches(worse) == 1
    for before, after in zip(jax.tree.leaves(state.params), jax.tree.leaves(worse.params)):
        np.testing.assert_array_equal(before, after)


def test_weights_stand_still_until_the_last_batch_of_a_step(rng):
    settings = preset("tiny", width=16, layers=1, accumulate=2, warmup_steps=0)
    learner = Learner(settings, V, Mesh(np.asarray(jax.devices()[:1]), ("data",)))
    learner.compile([Shape(4, 16_000, 6)])
    state, batch = learner.start(), make_batch(rng)
    changed = []
    for _ in range(4):
        before = state
        state, _ = learner(state, batch)
        for old, new in ((before.params, state.params), (before.average, state.average)):
            pairs = zip(*map(jax.tree.leaves, (old, new)), strict=True)
            changed.append(any((a != b).any() for a, b in pairs))
    assert changed == 2 * (2 * [False] + 2 * [True])
