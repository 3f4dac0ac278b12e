"""Sums and entries of a joint network's rows, whose logits never exist, and their gradients."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.per_shard import BATCH, WHOLE, per_shard, spread_alike
from jax_rnnt._xla.residuals import from_bits, to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.rows import joint_fused, joint_grid, joint_network, joint_tiles, pick
from jax_rnnt.rows.activations import check_closure
from jax_rnnt.rows.dropout import Dropout
from jax_rnnt.rows.entries import Entries, Selection, cotangents_of
from jax_rnnt.rows.joint_grid import Tile

_WEIGHT_KINDS = BATCH, BATCH, WHOLE, WHOLE
# Weights, labels by column and their counts, the sequences' numbers and the seed.
_KINDS = *_WEIGHT_KINDS, BATCH, BATCH, BATCH, WHOLE


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["encoder", "predictor", "kernel", "bias", "seed"],
    meta_fields=["activation", "dropout", "clamp", "min_posterior", "tile"],
)
@dataclasses.dataclass(frozen=True)
class Joint:
    """What rows (..., T, U, W), or (..., K, T, U, W) of K hypotheses, are computed from."""

    encoder: jax.Array  # (..., T, H)
    predictor: jax.Array  # (..., U, H) or (..., K, U, H)
    kernel: jax.Array  # (H, W)
    bias: jax.Array | None
    seed: jax.Array | None  # (2,) uint32, of dropout
    activation: Callable
    dropout: int  # the threshold
    clamp: float | None
    min_posterior: float | None
    tile: Tile | None

    @property
    def has_hypotheses(self) -> bool:
        return self.predictor.ndim > self.encoder.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        *sequences, U, _ = self.predictor.shape
        return *sequences, self.encoder.shape[-2], U, self.kernel.shape[-1]

    @property
    def weights(self) -> joint_network.Weights:
        """With a predictor (..., K, U, H), K = 1 where there are no hypotheses."""
        bias = self.bias
        if bias is None:
            bias = jnp.zeros_like(self.kernel, shape=self.kernel.shape[-1:])
        predictor = self.predictor if self.has_hypotheses else self.predictor[..., None, :, :]
        return joint_network.Weights(self.encoder, predictor, self.kernel, bias)

    def dropout_of(self, weights: joint_network.Weights) -> Dropout:
        """Of these weights; their sequences are numbered in the order of the batch."""
        shape, seed = weights.predictor.shape[:-2], self.seed
        if seed is None:
            return Dropout(jnp.zeros(2, jnp.uint32), jnp.zeros(shape, jnp.int32), 0)
        numbers = jnp.arange(math.prod(shape), dtype=jnp.int32).reshape(shape)
        return Dropout(seed, numbers, self.dropout)


def joint_entries(
    joint: Joint, labels: pick.ColumnLabels, selection: Selection, implementation: str | None
) -> tuple[Entries, jax.Array | None]:
    """The entries (..., T, U) of a joint's rows and, with a clamp, a zero for each sequence.

    The latter's cotangents say how the sequences' costs are weighed (`clamp_gradient`).
    """
    if not joint.has_hypotheses:
        labels = pick.ColumnLabels(labels.labels[..., None, :], labels.counts[..., None])
    rows, unit = _of_hypotheses(joint, labels, selection, implementation)
    if joint.has_hypotheses:
        return rows, unit
    unit = None if unit is None else unit.squeeze(-1)
    return jax.tree.map(lambda x: x.squeeze(-3), rows), unit


def _of_hypotheses(joint, labels, selection, implementation):
    weights = joint.weights
    *batch, K, T, U = *weights.predictor.shape[:-2], *joint.shape[-3:-1]
    H, W = weights.kernel.shape
    tile = _tile(joint.tile, T, U)
    sequences = math.prod(batch) * K
    is_chosen = tile is None
    if tile is None:
        tile = choose_tile(T, U, H, W, sequences, weights.dtype, joint.activation)
    if sequences * math.ceil(T / tile.frames) * math.ceil(U / tile.labels) >= 2**30:
        raise ValueError(f"tile must be larger: {tile[:2]} makes 2^30 tiles or more of the batch.")
    check_closure(joint.activation, accumulator_dtype(weights.dtype))
    walk = _Walk(
        joint.activation,
        joint.dropout,
        joint.clamp,
        joint.min_posterior,
        tile,
        is_chosen,
        selection,
        implementation == "native",
    )
    dropout = joint.dropout_of(weights)
    operands = spread_alike(
        *weights,
        *labels,
        dropout.sequences,
        dropout.seed,
        kinds=_KINDS,
        num_batch_dims=len(batch),
    )
    return _entries(*vary_alike(*operands), walk, len(batch))


def _tile(given, T, U):
    """A given tile cut to the lattice's size, but not below the one of the fused kernels."""
    if given is None:
        return None
    most_frames, most_labels = map(max, (T, U), joint_grid.WHOLE_TILE)
    frames, labels = min(given.frames, most_frames), min(given.labels, most_labels)
    return given._replace(frames=frames, labels=labels)


def choose_tile(
    T: int, U: int, H: int, W: int, sequences: int, dtype: np.dtype, activation: Callable
) -> Tile:
    """The tile of a loss to which none was given."""
    wave = joint_fused.wave(H, W, dtype, activation)
    return joint_grid.choose(T, U, H, W, sequences, dtype, wave=wave)


@dataclasses.dataclass(frozen=True)
class _Walk:
    """The options of forward and backward over tiles."""

    activation: Callable
    dropout: int
    clamp: float | None
    min_posterior: float | None
    tile: Tile
    is_chosen: bool  # the tile was chosen from the shapes, not given
    selection: Selection
    insist: bool

    def tile_of(self, weights: joint_network.Weights, parts: tuple[str, ...]) -> Tile:
        """The tile for these weights, which are a batch's or, if there are parts, one part's.

        A step takes tiles of every part, and one device may hold all of them: a chosen tile is
        chosen for one part's sequences.
        """
        if not (parts and self.is_chosen):
            return self.tile
        (N, U, H), T = weights.predictor.shape, weights.encoder.shape[1]
        W = weights.kernel.shape[1]
        return choose_tile(T, U, H, W, N, weights.dtype, self.activation)


@dataclasses.dataclass(frozen=True)
class _Forward:
    walk: _Walk

    def __call__(self, *operands, parts):
        walk, (operands, K) = self.walk, _grouped(operands, self.walk)
        tile = walk.tile_of(operands[0], parts)
        options = {"activation": walk.activation, "selection": walk.selection}
        plain = functools.partial(
            joint_tiles.forward, tile=tile, insist=walk.insist, parts=parts, **options
        )
        fused = functools.partial(joint_fused.forward, **options)
        rows = _fused_where_it_fits(fused, plain, walk, operands)
        return [_with_hypotheses(x, K) for x in jax.tree.leaves(rows)]


@dataclasses.dataclass(frozen=True)
class _Backward:
    walk: _Walk

    def __call__(self, *operands, parts):
        walk, (operands, K) = self.walk, _grouped(operands, self.walk)
        tile = walk.tile_of(operands[0], parts)
        options = {
            "tile": tile,
            "selection": walk.selection,
            "min_posterior": walk.min_posterior,
            "parts": parts,
        }
        cells = functools.partial(
            joint_tiles.PlainCells, activation=walk.activation, insist=walk.insist
        )
        plain = functools.partial(joint_tiles.backward, make_cells=cells, **options)
        fused = functools.partial(joint_fused.backward, activation=walk.activation, **options)
        if tile[:2] != joint_grid.WHOLE_TILE:
            fused = plain
        sums = _fused_where_it_fits(fused, plain, walk, operands)
        return sums._replace(predictor=_with_hypotheses(sums.predictor, K))


def _grouped(operands: Sequence[jax.Array], walk: _Walk) -> tuple[Any, int]:
    """Operands of `joint_tiles.forward` or, if there are more than its, `backward`; and K.

    The K hypotheses of a sequence come on an axis of their own, which is merged with the batch.
    Of the backward, rows come as bits.
    """
    encoder, predictor, kernel, bias, labels, counts, sequences, seed, *rest = operands
    K = predictor.shape[1]
    predictor, labels, counts, sequences, *rest = (
        x.reshape(-1, *x.shape[2:]) for x in (predictor, labels, counts, sequences, *rest)
    )
    grouped = (
        joint_network.Weights(encoder, predictor, kernel, bias),
        pick.ColumnLabels(labels, counts),
        Dropout(seed, sequences, walk.dropout),
    )
    if not rest:
        return grouped, K
    count = 4 + len(walk.selection.picks)
    maxima, log_sums, blank, label, *picks = from_bits(*rest[:count])
    rows = Entries(maxima, log_sums, blank, label, tuple(picks))
    sum_cotangents, blank, label, *picks = rest[count : 2 * count - 1]
    cotangents = Entries(maxima, sum_cotangents, blank, label, tuple(picks))
    bounds = None if walk.clamp is None else walk.clamp * jnp.abs(rest[-1])
    return (*grouped, rows, cotangents, bounds), K


def _with_hypotheses(x, K):
    return x.reshape(-1, K, *x.shape[1:])


def _fused_where_it_fits(fused, plain, walk, operands):
    weights = operands[0]
    H, W = weights.kernel.shape
    if not joint_fused.fits(H, W, weights.dtype, walk.activation):
        return plain(*operands)
    return jax.lax.platform_dependent(*operands, cuda=fused, default=plain)


@custom_vjp(8, 9)
def _entries(
    encoder, predictor, kernel, bias, labels, counts, sequences, seed, walk, num_batch_dims
):
    operands = encoder, predictor, kernel, bias, labels, counts, sequences, seed
    return _entries_forward(*operands, walk, num_batch_dims)[0]


def _entries_forward(*arguments):
    *operands, walk, num_batch_dims = arguments
    rows = per_shard(
        _Forward(walk),
        *operands,
        kinds=_KINDS,
        result_kinds=(BATCH,) * (4 + len(walk.selection.picks)),
        num_batch_dims=num_batch_dims,
    )
    maxima, log_sums, blank, label, *picks = rows
    results = Entries(maxima, log_sums, blank, label, tuple(picks))
    unit = None if walk.clamp is None else joint_network.zeros_of_sequences(maxima)
    return (results, unit), (operands, to_bits(*rows))


def _entries_backward(walk, num_batch_dims, residuals, cotangents):
    operands, kept = residuals
    rows, unit = cotangents
    units = () if walk.clamp is None else (unit,)
    per_row = *kept, *cotangents_of(rows), *units
    gradients = per_shard(
        _Backward(walk),
        *operands,
        *per_row,
        kinds=(*_KINDS, *(BATCH,) * len(per_row)),
        result_kinds=_WEIGHT_KINDS,
        num_batch_dims=num_batch_dims,
    )
    own = (g.astype(x.dtype) for g, x in zip(gradients, operands[:4], strict=True))
    return *own, None, None, None, None


_entries.defvjp(_entries_forward, _entries_backward)
