"""Searches under vmap, over devices, without jit and with wide types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from search_models import FAST, Options, model, problem, same_bits, search
from support import collectives

import jax_rnnt

OPTIONS = Options(max_symbols=3)


def run(one, encoder, frames_lengths, options=OPTIONS):
    state = jax_rnnt.search_start(one.step, one.start(len(encoder)))
    return jax_rnnt.greedy_search(
        encoder, frames_lengths, state, one.step, one.joint, **options._asdict()
    )


def run_beam(one, encoder, frames_lengths, **options):
    state = jax_rnnt.search_start(one.step, one.start(len(encoder)), beam=3, max_labels=9)
    options = options or {"rnnt_type": "modified"}
    return jax_rnnt.beam_search(encoder, frames_lengths, state, one.step, one.joint, **options)


# A frame that is a loop, and its rest.
run_beam_of_many = functools.partial(run_beam, max_symbols=3)


def assert_alike(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@functools.cache
def expected_of(function):
    return jax.jit(function, compiler_options=FAST)(model(), *problem(N=16, T=9))


@pytest.mark.parametrize("function", [run, run_beam, run_beam_of_many])
def test_vmap_gives_the_same(function):
    pairs = [x.reshape(2, 8, *x.shape[1:]) for x in problem(N=16, T=9)]
    mapped = jax.jit(jax.vmap(function, in_axes=(None, 0, 0)), compiler_options=FAST)(
        model(), *pairs
    )
    assert_alike(jax.tree.map(lambda x: x.reshape(16, *x.shape[2:]), mapped), expected_of(function))


def test_an_utterance_has_its_labels_in_any_batch():
    one, given = model(), problem(N=5)
    expected = search(one, given, OPTIONS)
    other = problem(1)
    other.encoder[2], other.frames_lengths[2] = given.encoder[4], given.frames_lengths[4]
    actual = search(one, other, OPTIONS)
    assert same_bits(actual.labels[2], expected.labels[4])
    assert same_bits(actual.label_log_probs[2], expected.label_log_probs[4])


def test_with_wide_types():
    one, given = model(), problem(N=2)
    expected = search(one, given, OPTIONS)
    with jax.enable_x64(True):
        actual = search(
            one, given._replace(frames_lengths=given.frames_lengths.astype(int)), OPTIONS
        )
    assert_alike(actual, expected)


@pytest.mark.skipif(jax.device_count() not in (2, 4, 8), reason="needs several devices")
@pytest.mark.parametrize(
    ("function", "way"),
    [(run, "manual"), (run, "Auto"), (run_beam, "manual"), (run_beam_of_many, "manual")],
)
def test_shards_of_a_batch_search_alone(function, way):
    """Inside shard_map there is no communication; a loop over a sharded batch asks all devices."""
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("a",), axis_types=(AxisType.Auto,))
    one, given = model(), problem(N=16, T=9)
    expected = expected_of(function)
    if way == "manual":
        function = jax.shard_map(
            function, mesh=mesh, in_specs=(P(), P("a"), P("a")), out_specs=P("a"), check_vma=True
        )
    arguments = jax.device_put(given, NamedSharding(mesh, P("a")))
    compiled = jax.jit(function).lower(one, *arguments).compile(compiler_options=FAST)
    assert collectives(compiled) <= ({"all-reduce"} if way == "Auto" else set())
    actual = compiled(one, *arguments)
    assert_alike(actual, expected)
    if way == "manual":
        assert actual.labels.sharding.is_equivalent_to(
            NamedSharding(mesh, P("a")), actual.labels.ndim
        )


def test_the_search_can_be_traced_with_any_pytrees():
    """States, features and encoders of several arrays, a key among them."""
    one, given = model(), problem(N=3)
    keys = jax.random.split(jax.random.key(0), 3)

    def step(state, labels):
        hidden, features = one.step(state["hidden"], labels)
        keys = jax.vmap(jax.random.fold_in)(state["key"], labels)
        return {"hidden": hidden, "key": keys, "none": None}, (features, ())

    def joint(encoder, features):
        return one.joint(encoder[0] + encoder[1][..., 0], features[0])

    state = jax_rnnt.search_start(step, {"hidden": one.start(3), "key": keys, "none": None})
    encoder = (jnp.asarray(given.encoder) * 0.5,) * 2
    result = jax_rnnt.greedy_search(
        (encoder[0], encoder[1][..., None]), given.frames_lengths, state, step, joint,
        **OPTIONS._asdict(),
    )  # fmt: skip
    expected = search(one, given, OPTIONS)
    assert same_bits(result.labels, expected.labels)
    assert not same_bits(
        jax.random.key_data(result.state.predictor["key"]), jax.random.key_data(keys)
    )
