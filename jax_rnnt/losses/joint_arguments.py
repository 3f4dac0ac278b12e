"""A joint network of a caller's arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.rows import dropout
from jax_rnnt.rows.activations import resolve_activation
from jax_rnnt.rows.joint_arcs import joint_rows
from jax_rnnt.rows.joint_entries import Joint
from jax_rnnt.rows.joint_grid import Tile
from jax_rnnt.rows.normalise import NORMALISATIONS, Picking


def make_joint(
    encoder: ArrayLike,
    predictor: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    activation: str | Callable[[jax.Array], jax.Array] | None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: ArrayLike | None = None,
    clamp: float | None = None,
    min_posterior: float | None = None,
    tile: tuple[int, int, int] | None = None,
    durations: int = 0,
) -> Joint:
    """The joint of a caller's arguments; TypeError or ValueError if they do not make one."""
    threshold = dropout.threshold_of(_checks.number_below("dropout_rate", dropout_rate, high=1))
    if threshold and dropout_key is None:
        raise ValueError(f"dropout_rate={dropout_rate!r} needs a dropout_key.")
    most = float(np.finfo(np.float32).max)  # more than that times a cotangent of 0 would be NaN
    if clamp is not None and not _checks.number_below("clamp", clamp, most) > 0:
        raise ValueError(f"clamp must be above 0, or None for none, got {clamp!r}.")
    if min_posterior is not None:
        min_posterior = _checks.number_below("min_posterior", min_posterior, high=1)
    joint = Joint(
        encoder=_checks.floats("encoder", encoder),
        predictor=_checks.floats("predictor", predictor),
        kernel=_checks.floats("kernel", kernel),
        bias=None if bias is None else _checks.floats("bias", bias),
        seed=_seed(dropout_key) if threshold else None,
        activation=resolve_activation(activation),
        dropout=threshold,
        clamp=None if clamp is None else float(clamp),
        min_posterior=min_posterior,
        tile=None if tile is None else _check_tile(tile),
    )
    _check_shapes(joint.encoder, joint.predictor, joint.kernel, joint.bias, durations)
    operands = joint.encoder, joint.predictor, joint.kernel, joint.bias
    # An error where jax_numpy_dtype_promotion does not let them be promoted.
    jnp.result_type(*(x.dtype for x in operands if x is not None))
    return joint


@dataclasses.dataclass(frozen=True)
class JointPicks:
    """From a joint to its rows' log-probabilities, as `checked_loss` takes them, and the units."""

    normalize: str = "softmax"
    durations: int = 0

    def __post_init__(self):
        _checks.choice("normalize", self.normalize, NORMALISATIONS)

    def __call__(self, joint, labels, *, blank, implementation):
        picking = Picking(blank, normalize=self.normalize, durations=self.durations)
        planes, unit = joint_rows(joint, labels, picking, implementation)
        heads = (planes.durations,) if self.durations else ()
        return (planes.blank, planes.label, *heads), unit


def of_each_hypothesis(joint: Joint, frames_lengths: ArrayLike) -> Any:
    """Lengths (..., K) of an encoder's frames (...), where there are K hypotheses; else as given.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they are not one for each encoder.
    """
    lengths = _checks.integers("frames_lengths", frames_lengths)
    if not joint.has_hypotheses:
        return lengths
    batch = joint.encoder.shape[:-2]
    _checks.shape("frames_lengths", lengths, batch, "one for each encoder (..., T, H)")
    numpy = jnp if isinstance(lengths, jax.Array) else np
    return numpy.broadcast_to(lengths[..., None], (*batch, joint.predictor.shape[-3]))


def _check_shapes(encoder, predictor, kernel, bias, durations):
    sizes = *encoder.shape, *predictor.shape, *kernel.shape
    if not all(isinstance(size, int) for size in sizes):
        raise NotImplementedError(
            "a joint network takes no symbolic sizes, got encoder "
            f"{encoder.shape}, predictor {predictor.shape} and kernel {kernel.shape}."
        )
    if encoder.ndim < 2 or 0 in encoder.shape[-2:]:
        raise ValueError(
            f"encoder must have shape (..., T, H) with T and H at least 1, got {encoder.shape}."
        )
    *batch, _, H = encoder.shape
    leading = predictor.shape[: len(batch)], predictor.shape[-1:]
    if predictor.ndim - encoder.ndim not in (0, 1) or leading != (tuple(batch), (H,)):
        own, of_hypotheses = (
            f"({', '.join(map(str, (*batch, *axes, H)))})" for axes in (("U",), ("K", "U"))
        )
        raise ValueError(
            f"predictor must have shape (..., U, H) = {own}, or of K hypotheses {of_hypotheses}, "
            f"for encoder {encoder.shape}, got {predictor.shape}."
        )
    if kernel.ndim != 2 or kernel.shape[0] != H or kernel.shape[1] <= durations:
        columns = f"V + {durations}" if durations else "V"
        raise ValueError(
            f"kernel must have shape (H, {columns}) = ({H}, {columns}) with V at least 1, "
            f"got {kernel.shape}."
        )
    if not predictor.shape[-2]:
        raise ValueError(f"predictor must have U at least 1, got {predictor.shape}.")
    if bias is not None:
        _checks.shape("bias", bias, kernel.shape[1:], "(V,) of the kernel")


def _seed(value) -> jax.Array:
    """Of one JAX key, typed or of integers; TypeError otherwise."""
    value = jnp.asarray(value) if isinstance(value, np.ndarray) else value
    is_key = isinstance(value, jax.Array) and (
        jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or value.dtype == np.uint32
    )
    if not is_key:
        raise TypeError(f"dropout_key must be a key of jax.random, got {type(value).__name__}.")
    try:
        return dropout.seed_of(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"dropout_key must be one key of jax.random, got {value.dtype} {value.shape}: {error}"
        ) from error


def _check_tile(value) -> Tile:
    try:
        sizes = [_checks.index("tile", size) for size in value]
    except TypeError:
        sizes = []
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"tile must be three positive integers (frames, labels, tiles at once), got {value!r}."
        )
    return Tile(*sizes)
