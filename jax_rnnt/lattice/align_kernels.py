"""The kernels of best paths, in both layouts, and the derivative of a path's score."""

import jax
import jax.numpy as jnp

from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference import align as reference
from jax_rnnt.reference.lattice import valid_lengths
from jax_rnnt.reference.path_cotangents import path_cotangents, path_cotangents_compact
from jax_rnnt.reference.path_scores import start

# A walk takes the scores of each column that the frame before its first passes on, a pair (whole
# nats, units beside them), and gives those that its last frame passes on: blocks of frames may be
# walked one after the other. It keeps 32 cells' choices in a word; a trace goes back over them.
_WALK = Kernel(
    "lattice_align",
    operands=("TU", "TU", "", "", "U2"),
    results=("U2", lambda sizes: reference.word_count(sizes["T"], sizes["U"])),
    result_dtype="accumulator",
    kept=(0,),
    integers=(1,),
    fallback=reference.lattice_align,
    scratch={"cuda": ("T2",)},
)
_TRACE = Kernel(
    "lattice_trace",
    operands=("U2", "W", "", ""),
    results=("", "U"),
    result_dtype="accumulator",
    integers=(1,),
    bits=(0,),
    fallback=reference.lattice_trace,
)
_COMPACT_WALK = Kernel(
    "lattice_align_compact",
    operands=("S", "S", "N", "N", "N", "NU2"),
    results=(
        "NU2",
        lambda sizes: reference.compact_word_count(sizes["S"], sizes["N"], sizes["U"]),
    ),
    result_dtype="accumulator",
    kept=(0,),
    integers=(1,),
    fallback=reference.lattice_align_compact,
    scratch={"cuda": (lambda sizes: 2 * (sizes["S"] // 32 + 1),)},
)
_COMPACT_TRACE = Kernel(
    "lattice_trace_compact",
    operands=("NU2", "W", "N", "N", "N"),
    results=("N", "NU"),
    result_dtype="accumulator",
    integers=(1,),
    bits=(0,),
    fallback=reference.lattice_trace_compact,
)


def walk(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    before: jax.Array,
    implementation: str | None,
) -> list[jax.Array]:
    """`reference.lattice_align` of a block of frames."""
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths, before
    return _run(_WALK, vary_alike(*operands), implementation)


def trace(
    scores: jax.Array,
    words: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    implementation: str | None,
) -> list[jax.Array]:
    """`reference.lattice_trace` of what walks over all frames have left."""
    operands = scores, words, frames_lengths, labels_lengths
    return _run(_TRACE, vary_alike(*operands), implementation)


def padded_path(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    implementation: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Paths' log-probabilities (...), differentiable, and their labels' frames (..., U)."""
    *_, T, U = blank_log_probs.shape
    valid = valid_lengths(frames_lengths, labels_lengths, T, U)
    lengths = jnp.where(valid, frames_lengths, 0), jnp.where(valid, labels_lengths, 0)
    before = start(valid, U, blank_log_probs.dtype)
    operands = blank_log_probs, label_log_probs, *lengths, before
    return _path(*vary_alike(*operands), implementation, T)


@custom_vjp(5, 6)
def _path(
    blank_log_probs, label_log_probs, frames_lengths, labels_lengths, before, implementation, T
):
    del T
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths, before
    return _walk_and_trace(operands, implementation)


def _walk_and_trace(operands, implementation):
    left = _run(_WALK, operands, implementation)
    return tuple(_run(_TRACE, (*left, *operands[2:4]), implementation))


def _path_forward(*arguments):
    log_probs, label_frames = _walk_and_trace(arguments[:5], arguments[5])
    has_path = jnp.isfinite(log_probs)
    return (log_probs, label_frames), (label_frames, *arguments[2:4], has_path)


def _path_backward(implementation, T, residuals, cotangents):
    del implementation
    label_frames, frames_lengths, labels_lengths, has_path = residuals
    own = jnp.where(has_path, cotangents[0], 0)
    arcs = path_cotangents(label_frames, frames_lengths, labels_lengths, own, T)
    return *arcs, None, None, None


_path.defvjp(_path_forward, _path_backward)


def compact_path(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    offsets: jax.Array,
    max_labels: int,
    implementation: str | None,
) -> tuple[jax.Array, jax.Array]:
    """The same of arcs (S,): (N,) and (N, max_labels + 1)."""
    before = start(frames_lengths > 0, max_labels + 1, blank_log_probs.dtype)
    operands = blank_log_probs, label_log_probs, frames_lengths, labels_lengths, offsets, before
    return _compact_path(*vary_alike(*operands), implementation, blank_log_probs.shape[0])


@custom_vjp(6, 7)
def _compact_path(
    blank_log_probs,
    label_log_probs,
    frames_lengths,
    labels_lengths,
    offsets,
    before,
    implementation,
    rows,
):
    del rows
    places = frames_lengths, labels_lengths, offsets
    operands = blank_log_probs, label_log_probs, *places, before
    return _walk_and_trace_compact(operands, implementation)


def _walk_and_trace_compact(operands, implementation):
    max_labels = operands[5].shape[-2] - 1
    left = _run(_COMPACT_WALK, operands, implementation, max_labels=max_labels)
    return tuple(_run(_COMPACT_TRACE, (*left, *operands[2:5]), implementation))


def _compact_path_forward(*arguments):
    log_probs, label_frames = _walk_and_trace_compact(arguments[:6], arguments[6])
    has_path = jnp.isfinite(log_probs)
    return (log_probs, label_frames), (label_frames, *arguments[2:5], has_path)


def _compact_path_backward(implementation, rows, residuals, cotangents):
    del implementation
    label_frames, frames_lengths, labels_lengths, offsets, has_path = residuals
    own = jnp.where(has_path, cotangents[0], 0)
    arcs = path_cotangents_compact(label_frames, frames_lengths, labels_lengths, offsets, own, rows)
    return *arcs, None, None, None, None


_compact_path.defvjp(_compact_path_forward, _compact_path_backward)


def _run(kernel, operands, implementation, **attributes):
    if implementation == "reference":
        return list(kernel.fallback(*operands, **attributes))
    return kernel(*operands, insist=implementation == "native", **attributes)
