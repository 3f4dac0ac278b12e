"""Programs of the joint's loss: what they hold, their cache, and both of XLA's partitioners."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_problems import Joint, make_problem, needs_devices
from support import run_python

import jax_rnnt
from jax_rnnt._xla import ffi
from jax_rnnt.rows import joint_fused, joint_grid


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_fused_kernels_are_called_where_they_run(rng, dtype):
    problem = make_problem(rng, 2, 20, 10, 16, 12)
    problem = problem._replace(joint=Joint(*(x.astype(dtype) for x in problem.joint)))

    def run(joint):
        return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], reduction="sum")

    lowered = jax.jit(jax.grad(run)).lower(problem.joint).as_text()
    fits = joint_fused.fits(16, 12, jnp.dtype(dtype), jnp.tanh)
    assert fits == (joint_fused.capability() is not None and dtype == "bfloat16")
    for name in ("pack", "forward", "gradients", "hidden"):
        assert (f"jax_rnnt_joint_{name}_cuda" in lowered) == fits


@pytest.mark.skipif(ffi.native_module("cuda") is None, reason="the CUDA kernels are not built")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("loss", "durations", "options"),
    [
        (jax_rnnt.rnnt_loss_from_joint, 0, {}),
        (jax_rnnt.rnnt_loss_from_joint, 0, {"normalize": "hat", "dropout_rate": 0.2, "clamp": 0.1}),
        (jax_rnnt.tdt_loss_from_joint, 3, {"durations": (0, 1, 2), "dropout_rate": 0.2}),
    ],
    ids=["standard", "hat", "tdt"],
)
def test_programs_for_a_gpu_that_is_not_here(
    loss, durations, options, capability, rng, monkeypatch
):
    """Exported for the fused kernels, with several hypotheses, on any machine."""
    monkeypatch.setattr(joint_fused, "capability", lambda: capability)
    monkeypatch.setattr(joint_fused, "wave", lambda *_: 132)
    joint, labels, frames, lengths = make_problem(rng, 4, 20, 10, 16, 12)
    D = durations
    kernel, bias = np.pad(joint.kernel, ((0, 0), (0, D))), np.pad(joint.bias, (0, D))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (joint.encoder[::2], kernel, bias)]
    predictor = jnp.asarray(joint.predictor.reshape(2, 2, 10, 16), jnp.bfloat16)
    lattice = labels.reshape(2, 2, -1), frames[::2], lengths.reshape(2, 2)

    def run(encoder, predictor, kernel, bias, key):
        own = {**options, "dropout_key": key, "reduction": "sum"}
        return loss(encoder, predictor, kernel, bias, *lattice, **own)

    exported = jax.export.export(
        jax.jit(jax.grad(run, range(4))),
        platforms=["cuda"],
        disabled_checks=jax_rnnt.custom_call_checks(),
    )(half[0], predictor, *half[1:], jax.random.PRNGKey(0))
    program = exported.mlir_module()
    for name in ("pack", "forward", "gradients", "hidden"):
        assert f"jax_rnnt_joint_{name}_cuda" in program
    assert program.count(f"capability = {capability} : i64") == 4  # the pack of either direction


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("sequences", [1, 3, 32, 57])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_are_of_one_size(backend, sequences, dtype, monkeypatch):
    """The last step of full lengths has as many tiles as the others, but for one each."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    tile = joint_grid.choose(400, 100, 640, 1024, sequences, np.dtype(dtype))
    assert tile[:2] == joint_grid.WHOLE_TILE
    tiles = sequences * 25 * 13
    steps = math.ceil(tiles / tile.at_once)
    assert steps * tile.at_once - tiles < steps


@pytest.mark.skipif(ffi.native_module("cuda") is None, reason="the CUDA kernels are not built")
@pytest.mark.parametrize(
    ("capability", "H"),
    [(80, 1280), (86, 768), (89, 768), (90, 1408), (100, 1792), (120, 768)],
)
def test_the_widest_network_of_the_fused_kernels(capability, H):
    """As docs/performance.md says."""
    packed_sizes = ffi.native_module("cuda").joint_packed_sizes
    assert packed_sizes(capability, H, 1024) is not None
    assert packed_sizes(capability, H + 1, 1024) is None


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


_SPREAD = (
    f"""
import sys
sys.path[:] = {sys.path!r}
"""
    + """
import json
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from joint_problems import Joint, Result, assert_close, expected
from joint_problems import flat, make_problem, value_and_gradients
from support import collectives, run_python

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
mesh = jax.make_mesh((jax.device_count(),), ("a",), axis_types=(AxisType.Auto,))
batch, whole = NamedSharding(mesh, P("a")), NamedSharding(mesh, P())
problem = make_problem(np.random.default_rng(0), 2 * jax.device_count(), 9, 6, 5, 7)
places = batch, batch, whole, whole, batch, batch, batch
arguments = [jax.device_put(x, place) for x, place in zip(flat(problem), places)]
with jax.default_matmul_precision("highest"):
    run = jax.jit(value_and_gradients).lower(*arguments).compile()
"""
)


@needs_devices
def test_persistent_compilation_cache_hits_where_the_batch_is_spread(tmp_path):
    program = """
print(json.dumps([events.count(f"/jax/compilation_cache/cache_{x}") for x in ("hits", "misses")]))
"""
    environment = dict(
        JAX_COMPILATION_CACHE_DIR=str(tmp_path),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    first_hits, first_misses = json.loads(run_python(_SPREAD + program, **environment))
    hits, misses = json.loads(run_python(_SPREAD + program, **environment))
    assert (first_hits, misses) == (0, 0)
    assert hits == first_misses > 0


@needs_devices
@pytest.mark.skipif(
    not hasattr(jax.config, "jax_use_shardy_partitioner"),
    reason="this JAX has one partitioner",  # JAX 0.8.3 to 0.12.0.1 have GSPMD, too
)
def test_gspmd_leaves_a_spread_batch_where_it_is():
    """In a process of its own, as a partitioner may end it."""
    check = """
assert not jax.config.jax_use_shardy_partitioner
costs, gradients = run(*arguments)
assert_close(Result(np.asarray(costs), Joint(*gradients)), expected(problem))
print(*collectives(run))
"""
    assert run_python(_SPREAD + check, JAX_USE_SHARDY_PARTITIONER="0").split() == ["all-reduce"]
