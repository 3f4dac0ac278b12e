"""Arcs of a joint network's rows, whose logits never exist, and their gradients."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt import reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.per_shard import BATCH, WHOLE, per_shard, spread_alike
from jax_rnnt._xla.residuals import from_bits, to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.rows import joint_fused, joint_grid, joint_network, joint_tiles, pick
from jax_rnnt.rows.activations import check_closure
from jax_rnnt.rows.joint_grid import Tile

_WEIGHT_KINDS = BATCH, BATCH, WHOLE, WHOLE


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["encoder", "predictor", "kernel", "bias"],
    meta_fields=["activation", "min_posterior", "tile"],
)
@dataclasses.dataclass(frozen=True)
class Joint:
    """What rows (..., T, U, V) are computed from."""

    encoder: jax.Array
    predictor: jax.Array
    kernel: jax.Array
    bias: jax.Array | None
    activation: Callable
    min_posterior: float | None
    tile: Tile | None

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.encoder.shape[:-1], self.predictor.shape[-2], self.kernel.shape[-1]

    @property
    def weights(self) -> joint_network.Weights:
        bias = self.bias
        if bias is None:
            bias = jnp.zeros_like(self.kernel, shape=self.kernel.shape[-1:])
        return joint_network.Weights(self.encoder, self.predictor, self.kernel, bias)


@dataclasses.dataclass(frozen=True)
class _Walk:
    """The options of forward and backward over tiles."""

    activation: Callable
    min_posterior: float | None
    tile: Tile
    is_chosen: bool  # the tile was chosen from the shapes, not given
    blank: int
    insist: bool

    def tile_of(self, weights: joint_network.Weights, parts: tuple[str, ...]) -> Tile:
        """The tile for these weights, which are a batch's or, if there are parts, one part's.

        A step takes tiles of every part, and one device may hold all of them: a chosen tile is
        chosen for one part's sequences.
        """
        if not (parts and self.is_chosen):
            return self.tile
        sequences, T, H = weights.encoder.shape
        U, V = weights.predictor.shape[1], weights.kernel.shape[1]
        return choose_tile(T, U, H, V, sequences, weights.dtype, self.activation)


@dataclasses.dataclass(frozen=True)
class _Forward:
    walk: _Walk

    def __call__(self, *operands, parts):
        walk, operands = self.walk, _grouped(operands)
        tile = walk.tile_of(operands[0], parts)
        options = {"activation": walk.activation, "blank": walk.blank}
        plain = functools.partial(
            joint_tiles.forward, tile=tile, insist=walk.insist, parts=parts, **options
        )
        fused = functools.partial(joint_fused.forward, **options)
        return _fused_where_it_fits(fused, plain, walk, operands)


@dataclasses.dataclass(frozen=True)
class _Backward:
    walk: _Walk

    def __call__(self, *operands, parts):
        walk, operands = self.walk, _grouped(operands)
        tile = walk.tile_of(operands[0], parts)
        run = functools.partial(
            joint_tiles.backward,
            tile=tile,
            blank=walk.blank,
            min_posterior=walk.min_posterior,
            parts=parts,
        )
        plain_cells = functools.partial(
            joint_tiles.PlainCells, activation=walk.activation, insist=walk.insist
        )
        plain = functools.partial(run, make_cells=plain_cells)
        if tile[:2] != joint_grid.WHOLE_TILE:
            return plain(*operands)
        fused_cells = functools.partial(joint_fused.FusedCells, activation=walk.activation)
        fused = functools.partial(run, make_cells=fused_cells)
        return _fused_where_it_fits(fused, plain, walk, operands)


def _grouped(operands: Sequence[jax.Array]) -> tuple[Any, ...]:
    """Weights, labels and, of the backward, rows (which come as bits) and both cotangents."""
    weights, labels = joint_network.Weights(*operands[:4]), pick.ColumnLabels(*operands[4:6])
    if len(operands) == 6:
        return weights, labels
    return weights, labels, joint_network.Rows(*from_bits(*operands[6:10])), *operands[10:]


def _fused_where_it_fits(fused, plain, walk, operands):
    weights = operands[0]
    H, V = weights.kernel.shape
    if not joint_fused.fits(H, V, weights.dtype, walk.activation):
        return plain(*operands)
    return jax.lax.platform_dependent(*operands, cuda=fused, default=plain)


def choose_tile(
    T: int, U: int, H: int, V: int, sequences: int, dtype: np.dtype, activation: Callable
) -> Tile:
    """The tile of a loss to which none was given."""
    wave = joint_fused.wave(H, V, dtype, activation)
    return joint_grid.choose(T, U, H, V, sequences, dtype, wave=wave)


def joint_to_arcs(
    joint: Joint, labels: pick.ColumnLabels, *, blank: int, implementation: str | None
) -> tuple[jax.Array, jax.Array]:
    """Both arcs' log-probabilities (..., T, U), as `pick.softmax_arcs` gives them of logits."""
    weights = joint.weights
    *batch, T, U, V = joint.shape
    if implementation == "reference" or 0 in batch:
        row_labels = labels.of_rows(T)
        logits = joint_network.logits(weights, row_labels, joint.activation)
        return pick.softmax_arcs(logits, row_labels, blank=blank, implementation=implementation)
    if joint.tile is None:
        H = weights.kernel.shape[0]
        tile = choose_tile(T, U, H, V, math.prod(batch), weights.dtype, joint.activation)
    else:
        # A given tile is cut to the lattice's size, but not below the one of the fused kernels.
        most_frames, most_labels = map(max, (T, U), joint_grid.WHOLE_TILE)
        frames, labels_count, at_once = joint.tile
        tile = Tile(min(frames, most_frames), min(labels_count, most_labels), at_once)
    if math.prod(batch) * math.ceil(T / tile.frames) * math.ceil(U / tile.labels) >= 2**30:
        raise ValueError(f"tile must be larger: {tile[:2]} makes 2^30 tiles or more of the batch.")
    check_closure(joint.activation, accumulator_dtype(weights.dtype))
    insist = implementation == "native"
    walk = _Walk(joint.activation, joint.min_posterior, tile, joint.tile is None, blank, insist)
    operands = spread_alike(
        *weights, *labels, kinds=(*_WEIGHT_KINDS, BATCH, BATCH), num_batch_dims=len(batch)
    )
    return _arcs(*vary_alike(*operands), walk, len(batch))


def label_log_probs_at(
    joint: Joint,
    frames: jax.Array,
    labels: jax.Array,
    *,
    blank: int,
    implementation: str | None,
) -> jax.Array:
    """The log-probabilities (..., U - 1) of labels, one a column, each in a frame of its own.

    Args:
        frames: (..., U - 1) int32; labels of negative frames are not looked at.
        labels: (..., U - 1) int32.
    """
    weights = joint.weights
    dtype = accumulator_dtype(weights.dtype)
    encoder = jnp.take_along_axis(
        weights.encoder, jnp.maximum(frames, 0)[..., None], -2, mode="clip"
    )
    sums = encoder.astype(dtype) + weights.predictor[..., :-1, :].astype(dtype)
    logits = weights.project(joint.activation(sums))
    labels = jnp.where(frames >= 0, labels, reference.PADDING_ROW)
    return pick.softmax_arcs(logits, labels, blank=blank, implementation=implementation)[1]


@custom_vjp(6, 7)
def _arcs(encoder, predictor, kernel, bias, labels, counts, walk, num_batch_dims):
    operands = encoder, predictor, kernel, bias, labels, counts
    return _arcs_forward(*operands, walk, num_batch_dims)[0]


def _arcs_forward(*arguments):
    *operands, walk, num_batch_dims = arguments
    rows = per_shard(
        _Forward(walk),
        *operands,
        kinds=(*_WEIGHT_KINDS, BATCH, BATCH),
        result_kinds=(BATCH,) * 4,
        num_batch_dims=num_batch_dims,
    )
    return tuple(rows[:2]), (operands, to_bits(*rows))


def _arcs_backward(walk, num_batch_dims, residuals, cotangents):
    operands, kept = residuals
    gradients = per_shard(
        _Backward(walk),
        *operands,
        *kept,
        *cotangents,
        kinds=(*_WEIGHT_KINDS, *(BATCH,) * 8),
        result_kinds=_WEIGHT_KINDS,
        num_batch_dims=num_batch_dims,
    )
    return *(g.astype(x.dtype) for g, x in zip(gradients, operands[:4], strict=True)), None, None


_arcs.defvjp(_arcs_forward, _arcs_backward)
