"""The pruned recipe by its parts: times, and memory beyond arguments and results."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jax_rnnt
from benchmarks.measuring import timing
from benchmarks.problems.shapes import JointCase

WIDTH = 5  # of icefall's recipes


def row(case: JointCase, part: str, dtype) -> dict:
    """Of one part; forward and backward of everything that has a gradient.

    joint: `rnnt_loss_from_joint` over all columns.
    whole: `pruned_rnnt_loss`.
    simple: the simple joint's arcs, cost and posteriors.
    ranges: the columns from the posteriors.
    pruned: the joint on the band.
    band lattice, full lattice: `lattice_cost` of the same (T, U), with arcs outside a band of -inf
        and without.
    """
    function, arguments = jax.block_until_ready(_part(part, *_problem(case, dtype)))
    run = jax.jit(function).lower(*arguments).compile()
    seconds = timing.measure(lambda _: run(*arguments), jax.block_until_ready)
    memory = run.memory_analysis()
    temporary = {"temporary_bytes": memory.temp_size_in_bytes} if memory else {}
    return {"forward_backward_ms": 1e3 * seconds, **temporary}


@functools.lru_cache(maxsize=1)
def _problem(case: JointCase, dtype):
    """The joint's operands in the dtype, those of the simple joint in float32, and the batch."""
    N, T, U, H, V = case.N, case.T, case.U, case.H, case.V

    @jax.jit
    def make():
        keys = jax.random.split(jax.random.key(0), 6)
        sizes = (N, T, H), (N, U, H), (H, V), (V,), (N, T, V), (N, U, V)
        scales = case.scale, case.scale, H**-0.5, 0.1, 1.0, 1.0
        normal = [c * jax.random.normal(k, s) for k, s, c in zip(keys, sizes, scales)]
        return [x.astype(dtype) for x in normal[:4]], normal[4:]

    joint, simple = make()
    return tuple(joint), tuple(simple), tuple(map(jnp.asarray, case.arrays()))


def _part(part: str, joint, simple, batch) -> tuple[Callable, tuple]:
    """The function that is measured, and its arguments."""
    labels, *lengths = batch

    def total(*operands):
        losses = jax_rnnt.pruned_rnnt_loss(*operands, *batch, width=WIDTH, reduction="sum")
        return 0.5 * losses.simple + losses.pruned

    def exact(*operands, **options):
        return jax_rnnt.rnnt_loss_from_joint(*operands, *batch, reduction="sum", **options)

    def smoothed(*operands):
        arcs = jax_rnnt.simple_arcs(*operands, *batch)
        costs, *posteriors = jax_rnnt.lattice_cost_and_posteriors(*arcs, *lengths)
        return costs.sum(), posteriors

    def lattice(*arcs):
        return jax_rnnt.lattice_cost(*arcs, *lengths).sum()

    if part == "joint":
        return jax.value_and_grad(exact, (0, 1, 2, 3)), joint
    if part == "whole":
        return jax.value_and_grad(total, tuple(range(6))), (*joint, *simple)
    if part == "simple":
        return jax.value_and_grad(smoothed, (0, 1), has_aux=True), simple
    uniform = jnp.full((len(labels), joint[0].shape[1], joint[1].shape[1]), -1.0)
    if part == "full lattice":
        return jax.value_and_grad(lattice, (0, 1)), (uniform, uniform)
    ranges = functools.partial(jax_rnnt.prune_ranges, width=WIDTH)
    _, posteriors = jax.jit(smoothed)(*simple)
    if part == "ranges":
        return ranges, (*posteriors, *lengths)
    columns = jax.jit(ranges)(*posteriors, *lengths)
    if part == "pruned":
        band = functools.partial(exact, columns=columns, width=WIDTH)
        return jax.value_and_grad(band, (0, 1, 2, 3)), joint
    place = jnp.arange(uniform.shape[-1]) - columns[..., None]
    arcs = jnp.where((place >= 0) & (place < WIDTH), uniform, -jnp.inf)
    return jax.value_and_grad(lattice, (0, 1)), (arcs, arcs)
