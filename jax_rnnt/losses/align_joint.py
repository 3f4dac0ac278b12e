"""The best alignment of a joint network whose logits never exist, by blocks of frames if wanted."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.program import one_program
from jax_rnnt.lattice import align_kernels
from jax_rnnt.lattice.align import Alignment
from jax_rnnt.losses import layouts, topologies
from jax_rnnt.losses.align import align_picks, left_out
from jax_rnnt.losses.joint_arguments import make_joint
from jax_rnnt.reference.align import FRAMES_PER_WORD
from jax_rnnt.reference.path_scores import start
from jax_rnnt.rows import joint_arcs, pick


def rnnt_align_from_joint(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    frames_lengths: ArrayLike,
    labels_lengths: ArrayLike,
    *,
    activation: str | Callable[[jax.Array], jax.Array] | None = "tanh",
    blank: int = 0,
    where: ArrayLike | None = None,
    rnnt_type: str = "regular",
    block_frames: int | None = None,
    tile: tuple[int, int, int] | None = None,
    implementation: str | None = None,
) -> Alignment:
    r"""The best alignment under a joint network, whose logits never exist as an array (Viterbi).

    .. math::
        logits_{n,t,u} &= activation(encoder_{n,t} + predictor_{n,u}) \, kernel + bias, \\
        log\_prob_n &= \max_{alignments} \sum_{arcs} \log softmax(logits)_{arc}

    `rnnt_align` of these logits, in memory that does not grow with T U V: tiles of logits, as in
    `rnnt_loss_from_joint`, and two log-probabilities of each cell. With `block_frames` B these are
    there for B frames at a time alone, and what grows with T U is one bit a cell: an hour of 45,000
    frames and 11,000 labels takes 62 MB of bits, where its arcs are 4 GB. Scores are exact sums, so
    that blocks find the path of the whole.

    Args:
        encoder: (..., T, H), float32, bfloat16, float16 or float64.
        predictor: (..., U, H), U = longest label sequence + 1.
        kernel: (H, V).
        bias: (V,), or None for none.
        labels: (..., U - 1) integers, padded with anything.
        frames_lengths: (...) integers T_n in [1, T].
        labels_lengths: (...) integers U_n in [0, U - 1].
        activation: as in `rnnt_loss_from_joint`.
        blank: index of the blank; negative counts from the end.
        where: (...) booleans, None for all true: sequences for which it is false are not aligned.
            Their log_probs are 0, and their lengths and labels may be anything.
        rnnt_type: "regular", or without blocks "modified" or "constrained", as in `rnnt_align`.
        block_frames: None for all frames at once, else how many to take at a time, rounded up to a
            multiple of 32. The blocks of a batch are walked together.
        tile: as in `rnnt_loss_from_joint`.
        implementation: None for the native kernels where there are some, "native" to insist on
            them, "reference" for plain JAX on logits as an array, with blocks a block's.

    Returns:
        An `Alignment`, as of `rnnt_align`: log_probs (...), label_frames (..., U - 1) and
        label_log_probs (..., U - 1). Without block_frames log_probs and label_log_probs are
        differentiable once, with respect to encoder, predictor, kernel and bias.

    Raises:
        TypeError: If encoder, predictor, kernel or bias are not floats, labels or lengths not
            integers, or activation not hashable.
        ValueError: If shapes do not fit, concrete lengths or labels are out of range, block_frames
            is not positive, or an option is none of its values.
        NotImplementedError: If implementation="native" and the platform has no kernels, if a size
            is symbolic, or if a derivative is asked for with block_frames.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> frames = jnp.array([0, 0, 2, 0, 1] * 100)  # what is likely in each of 500 frames
        >>> encoder, predictor = 5 * jnp.eye(3)[frames], jnp.zeros((3, 3))
        >>> path = jax_rnnt.rnnt_align_from_joint(
        ...     encoder, predictor, jnp.eye(3), None, jnp.array([2, 1]), 500, 2,
        ...     activation=None, block_frames=64)
        >>> print(path.label_frames)
        [2 4]

    See Graves (2012), arXiv:1211.3711.
    """
    joint = make_joint(encoder, predictor, kernel, bias, activation, tile=tile)
    labels = _checks.integers("labels", labels)
    frames_lengths = _checks.integers("frames_lengths", frames_lengths)
    labels_lengths = _checks.integers("labels_lengths", labels_lengths)
    _checks.choice("implementation", implementation, (None, "native", "reference"))
    picks_to_arcs = topologies.costs_of(rnnt_type)
    where = None if where is None else _checks.mask("where", where)
    layouts.check_padded("logits", joint, labels, frames_lengths, labels_lengths, where, 0)
    if block_frames is not None:
        block_frames = _checks.index("block_frames", block_frames)
        if block_frames < 1:
            raise ValueError(f"block_frames must be at least 1, got {block_frames}.")
        if rnnt_type != "regular":
            raise ValueError(f"block_frames is for rnnt_type='regular', not {rnnt_type!r}.")
    return _align(
        joint,
        labels,
        frames_lengths,
        labels_lengths,
        where,
        blank=_checks.blank_index(blank, joint.shape[-1]),
        block_frames=block_frames,
        implementation=implementation,
        picks_to_arcs=picks_to_arcs,
    )


@functools.partial(
    one_program, static_argnames=("blank", "block_frames", "implementation", "picks_to_arcs")
)
def _align(
    joint,
    labels,
    frames_lengths,
    labels_lengths,
    where,
    *,
    blank,
    block_frames,
    implementation,
    picks_to_arcs,
):
    labels, frames_lengths = jnp.asarray(labels), jnp.asarray(frames_lengths)
    labels_lengths = jnp.asarray(labels_lengths)
    column_labels, sensible, _ = layouts.of_padded(
        joint, labels, frames_lengths, labels_lengths, where, 0
    )
    lengths = jnp.where(sensible, frames_lengths, 0), jnp.where(sensible, labels_lengths, 0)
    if block_frames is None:
        picks = joint_arcs.joint_to_arcs(
            joint, column_labels, blank=blank, implementation=implementation
        )
        no_biases: dict[str, Any] = {"label_bias": None, "blank_bias": None}
        path = align_picks(picks_to_arcs, picks, no_biases, lengths, implementation)
        return left_out(path, where)
    operands = column_labels, labels, *lengths, sensible
    path = Alignment(*_align_blocks(joint, operands, blank, block_frames, implementation))
    return left_out(path, where)


@custom_vjp(2, 3, 4)
def _align_blocks(joint, operands, blank, block_frames, implementation):
    """rnnt_align_from_joint of checked arguments, one block of frames after the other."""
    column_labels, labels, frames_lengths, labels_lengths, sensible = operands
    *batch, T, U, _ = joint.shape
    size = math.ceil(min(block_frames, T) / FRAMES_PER_WORD) * FRAMES_PER_WORD
    count = math.ceil(T / size)
    behind = [(0, 0)] * len(batch) + [(0, count * size - T), (0, 0)]
    blocks = jnp.pad(joint.encoder, behind).reshape(*batch, count, size, -1)
    blocks = jnp.moveaxis(blocks, len(batch), 0)
    dtype = accumulator_dtype(joint.weights.dtype)

    def step(scores, block):
        encoder, first = block
        left = frames_lengths - first
        own_labels = pick.ColumnLabels(column_labels.labels, jnp.clip(left, 0, size))
        arcs = joint_arcs.joint_to_arcs(
            dataclasses.replace(joint, encoder=encoder),
            own_labels,
            blank=blank,
            implementation=implementation,
        )
        scores, words = align_kernels.walk(*arcs, left, labels_lengths, scores, implementation)
        return scores, words

    firsts = jnp.arange(count, dtype=jnp.int32) * size
    scores, words = lax.scan(step, start(sensible, U, dtype), (blocks, firsts))
    words = jnp.moveaxis(words, 0, -2).reshape(*batch, -1)
    lengths = frames_lengths, labels_lengths
    log_probs, label_frames = align_kernels.trace(scores, words, *lengths, implementation)
    label_frames = label_frames[..., :-1]
    written = joint_arcs.label_log_probs_at(
        joint, label_frames, labels, blank=blank, implementation=implementation
    )
    return log_probs, label_frames, jnp.where(label_frames >= 0, written, 0)


def _refuse_derivative(*arguments):
    del arguments
    raise NotImplementedError(
        "rnnt_align_from_joint has no derivative with block_frames: it has one without."
    )


_align_blocks.defvjp(_refuse_derivative, _refuse_derivative)
