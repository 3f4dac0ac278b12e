"""Best paths: through given arcs, and under a joint network by blocks of frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from benchmarks.measuring import timing
from benchmarks.problems.search_models import AlignCase


def arcs_row(case: AlignCase) -> dict:
    """Of `lattice_align` on a batch of full lengths."""
    shape = case.N, case.T, case.U
    arcs = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (2, *shape)), axis=0)
    lengths = jnp.full(case.N, case.T, jnp.int32), jnp.full(case.N, case.U - 1, jnp.int32)
    return _measure(jax.jit(jax_rnnt.lattice_align), (*arcs, *lengths), enqueued=True)


def joint_row(case: AlignCase) -> dict:
    """Of `rnnt_align_from_joint` with blocks, and whether it finds the path of the whole."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (case.T, case.H), (case.U, case.H), (case.H, case.V)
    weights = [
        jax.random.normal(key, shape, case.dtype) * scale
        for key, shape, scale in zip(keys, shapes, (1, 1, case.H**-0.5))
    ]
    labels = jax.random.randint(keys[3], (case.U - 1,), 1, case.V)
    arguments = *weights, None, labels, jnp.int32(case.T), jnp.int32(case.U - 1)
    run = jax.jit(functools.partial(jax_rnnt.rnnt_align_from_joint, block_frames=case.block_frames))
    row = _measure(run, arguments, enqueued=False)
    whole = jax.jit(jax_rnnt.rnnt_align_from_joint)(*arguments)
    blocks = run(*arguments)
    is_same = np.array_equal(whole.label_frames, blocks.label_frames)
    return {**row, "is_whole": is_same and bool(whole.log_probs == blocks.log_probs)}


def _measure(run, arguments, enqueued: bool) -> dict:
    """Milliseconds of a call, one of many or waited for, and the MiB that it needs beside them."""
    wait = jax.block_until_ready

    def call(_: int):
        return run(*arguments) if enqueued else wait(run(*arguments))

    seconds = timing.measure(call, wait if enqueued else lambda _: None)
    analysis = run.lower(*arguments).compile().memory_analysis()
    mebibytes = None if analysis is None else analysis.temp_size_in_bytes / 2**20
    return {"ms": 1e3 * seconds, "temporary_mib": mebibytes}
