"""Biases of label arcs that training recipes have: arrays, without kernels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.reference.axes import positions

_FAR = 2**30  # further than any frame is from another; sums of two stay within int32


def alignment_window(
    label_frames: ArrayLike, frames: int, left: ArrayLike, right: ArrayLike
) -> jax.Array:
    r"""The `label_bias` that allows each label only near its frame of a given alignment.

    .. math::
        bias(t, u) = \begin{cases}
            0 & label\_frames_u - left \le t \le label\_frames_u + right, \\
            -\infty & otherwise
        \end{cases}

    Alignment-restricted training, with any `rnnt_type`. The blanks need no bias: a cell that no
    alignment goes through has no effect on the cost. Where no alignment is left, it is +inf.

    Args:
        label_frames: (..., U - 1) integers, the frame at which each label ends, from 0 on; those of
            labels beyond a sequence's length may be anything.
        frames: T, the number of frames of the loss's arrays.
        left: how many frames before its own a label may be written; an integer, may be traced.
        right: how many frames after it.

    Returns:
        (..., T, U) float32 of 0 and -inf; 0 in the last column, which no label leaves.

    Raises:
        TypeError: If label_frames, left or right are not integers, or frames is not known.
        ValueError: If shapes do not fit, or frames is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> print(jax_rnnt.alignment_window(jnp.array([0, 2]), 4, left=1, right=0))
        [[  0. -inf   0.]
         [-inf   0.   0.]
         [-inf   0.   0.]
         [-inf -inf   0.]]

    See Mahadeokar et al. (2020), arXiv:2011.03072.
    """
    label_frames = _checks.integers("label_frames", label_frames)
    if label_frames.ndim < 1:
        raise ValueError(f"label_frames must have shape (..., U - 1), got {label_frames.shape}.")
    frames = _check_frames(frames)
    buffers = _checks.integers("left", left), _checks.integers("right", right)
    for name, value in zip(("left", "right"), buffers):
        _checks.shape(name, value, (), "a number")
    frame = positions(frames, label_frames.ndim + 1, -2)
    before, after = (jnp.clip(jnp.asarray(x), -_FAR, _FAR) for x in buffers)
    own = jnp.asarray(label_frames)[..., None, :]
    allowed = (frame + before >= own) & (frame - after <= own)
    last_column = [(0, 0)] * label_frames.ndim + [(0, 1)]
    return jnp.where(jnp.pad(allowed, last_column, constant_values=True), 0, np.float32(-np.inf))


def delay_penalty(frames_lengths: ArrayLike, frames: int, penalty: ArrayLike) -> jax.Array:
    r"""The `label_bias` of k2's delay penalty, which favours labels that are written early.

    .. math:: bias(t, u) = penalty \left( \frac{T_n - 1}{2} - t \right)

    Over the frames of a sequence it sums to zero. It changes the value of the loss; FastEmit, with
    the same purpose, changes the gradient alone. Recipes that use it take 0.1.

    Args:
        frames_lengths: (...) integers T_n.
        frames: T, the number of frames of the loss's arrays.
        penalty: a number, may be traced.

    Returns:
        (..., T, 1) float32 (float64 for a float64 array). Added to an `alignment_window` it gives
        both.

    Raises:
        TypeError: If frames_lengths are not integers, frames is not known, or penalty not a number.
        ValueError: If frames is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> print(jax_rnnt.delay_penalty(jnp.array([3, 2]), 3, 0.5)[..., 0])
        [[ 0.5   0.   -0.5 ]
         [ 0.25 -0.25 -0.75]]

    See Kang et al. (2022), arXiv:2211.00490.
    """
    lengths = jnp.asarray(_checks.integers("frames_lengths", frames_lengths))
    frames = _check_frames(frames)
    is_plain = isinstance(penalty, int | float)
    penalty = _checks.number("penalty", penalty)
    dtype = np.float64 if penalty.dtype == np.float64 and not is_plain else np.float32
    penalty = penalty.astype(dtype)  # in 16 bits frames would be rounded
    middle = (lengths[..., None, None].astype(dtype) - 1) / 2
    frame = positions(frames, lengths.ndim + 2, -2).astype(dtype)
    return jnp.expand_dims(penalty, range(frame.ndim)) * (middle - frame)


def _check_frames(frames) -> int:
    count = _checks.index("frames", frames)
    if count < 1:
        raise ValueError(f"frames must be at least 1, got {frames}.")
    return count
