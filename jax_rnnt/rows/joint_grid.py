"""Tiles of lattices: how large they are, how they are numbered, and what lies in them.

A tile is a rectangle of (frames x labels) cells of one sequence's lattice.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.rows import pick
from jax_rnnt.rows.joint_network import Weights
from jax_rnnt.rows.joint_steps import equal_steps, large_steps, loop


class Tile(NamedTuple):
    """How many cells a tile spans, and how many tiles a step of the loop takes."""

    frames: int
    labels: int
    at_once: int
    unit: int = 0
    """The last steps take so many, of which at_once is a multiple; 0 where all take at_once."""

    def within(self, tiles: int) -> "Tile":
        """The same with steps that are no larger than so many tiles need."""
        tiles = max(tiles, 1)
        if not 0 < self.unit < tiles:
            return self._replace(at_once=min(self.at_once, tiles), unit=0)
        return self._replace(at_once=min(self.at_once, math.ceil(tiles / self.unit) * self.unit))


WHOLE_TILE = 16, 8


def choose(
    T: int, U: int, H: int, V: int, sequences: int, dtype: np.dtype, *, wave: int | None = None
) -> Tile:
    """Tiles of at most 16 x 8 cells, and as many at once as are fast in little memory.

    `wave`: how many tiles the fused kernels (`joint_fused`) work on at a time, None where they do
    not run. They take whole tiles only, and store gradients but no logits.
    """
    frames, labels = WHOLE_TILE
    if wave is None:
        frames, labels = (math.ceil(x / math.ceil(x / y)) for x, y in ((T, frames), (U, labels)))
    tiles = sequences * math.ceil(T / frames) * math.ceil(U / labels)
    logit_bytes = dtype.itemsize
    if wave is None and dtype.itemsize < 4:
        logit_bytes += accumulator_dtype(dtype).itemsize
    tile_bytes = frames * labels * (V * logit_bytes + 2 * H * dtype.itemsize)
    if jax.default_backend() == "cpu":
        step_bytes = _CPU_STEP_BYTES
    else:
        parts, most = _PLAIN_STEPS if wave is None else _FUSED_STEPS
        step_bytes = min(max(tiles * tile_bytes // parts, _LEAST_STEP_BYTES), most)
    if wave is None:
        steps = max(round(tiles * tile_bytes / step_bytes), 1)
        tile = Tile(frames, labels, math.ceil(tiles / steps))
    else:
        waves = max(round(step_bytes / (tile_bytes * wave)), 1)
        tile = Tile(frames, labels, wave * waves, wave)
    return tile.within(tiles)


# Bytes that a step's activations, their gradients and logits may take. On two cores with 2 MiB of
# second-level cache each, float32, forward and backward of (N, T, U, H, V) = (4, 200, 50, 320, 512)
# took 292 ms with 0.6 MB, 214 with 2.4, 211 with 4.7, 204 with 9.4 and 294 with logits as one
# array; of (2, 100, 30, 256, 2000) 118 with 1.2 MB, 102 with 4.8, 110 with 9.6 and 121 with logits.
_CPU_STEP_BYTES = 2**22
# On a GPU a step takes one of so many parts of what all tiles would take, and at most so many
# bytes. On an H100, without the fused kernels (2026-11-27), (32, 400, 100, 640, 1024) in bfloat16
# took 17.6 ms in 65 steps, 14.7 in 33, 14.6 in 25 and 14.1 in 17, in 294, 498, 598 and 863 MiB: the
# host takes 45 us at each.
_PLAIN_STEPS = 26, 5 * 2**27
# With them, 152 MiB in all and steps of 132 tiles took 8.7 ms ("confident" 6.4), 206 MiB and 264
# tiles 8.2 (6.1), 269 MiB and 396 tiles 8.1 (5.9).
_FUSED_STEPS = 24, 2**28
# Starting the dozen kernels of a step of fewer bytes takes as long as running them.
_LEAST_STEP_BYTES = 2**25


class Grid:
    """The tiles of all sequences.

    Block i of a sequence's frames and block j of its labels make one tile, whose number in sequence
    n is (n * frames + i) * labels + j.
    """

    def __init__(self, weights: Weights, labels: pick.ColumnLabels, tokens: int, tile: Tile):
        self.encoder = _blocks(weights.encoder, tile.frames)
        self.predictor = _blocks(weights.predictor, tile.labels)
        self._labels = _blocks(labels.labels, tile.labels, reference.PADDING_ROW)
        self.counts = labels.counts
        self._tokens, self._hypotheses = tokens, weights.hypotheses
        self._sequences, self._U = weights.predictor.shape[:2]
        self._T = weights.encoder.shape[1]
        self.frames = math.ceil(self._T / tile.frames)
        self.labels = math.ceil(self._U / tile.labels)
        self.size = self._sequences * self.frames * self.labels
        # A device's part of the batch may have fewer tiles than the whole batch's steps take.
        self.tile = tile.within(self.size)
        self._unit = self.tile.unit or self.tile.at_once
        self._most_units = math.ceil(self.size / self._unit)

    def list(self, wanted, parts):
        """The numbers of the wanted tiles, in order.

        Args:
            wanted: (N, frames, labels) booleans.
            parts: names of the axes over which this is mapped, each a cut of the batch.

        Returns:
            (R,) int32 numbers, `size` behind the last, R a multiple of the unit; (), how many units
            the longest list of all parts takes; (size,) int32 places of the tiles in the list,
            beyond it for tiles that are not wanted.
        """
        wanted = wanted.reshape(-1)
        numbers = jnp.arange(self.size, dtype=jnp.int32)
        room = self._most_units * self._unit
        places = jnp.where(wanted, jnp.cumsum(wanted, dtype=jnp.int32) - 1, room + numbers)
        (listed,) = varying_as(places, jnp.full(room, self.size, jnp.int32))
        listed = listed.at[places].set(numbers, mode="drop", unique_indices=True)
        units = -(-wanted.sum(dtype=jnp.int32) // self._unit)
        return listed, lax.pmax(units, parts) if parts else units, places

    def walk(self, listed, units, step, state):
        """The state after state = step(start, tiles, state) for all of a list's tiles, in order.

        Args:
            listed, units: of `list`.
            step: `tiles` are some of the list's numbers, the first of them at place `start`.
            state: before the first step.
        """

        def take_units(first, count, state):
            start = first * np.int32(self._unit)
            tiles = lax.dynamic_slice_in_dim(listed, start, count * self._unit)
            return step(start, tiles, state)

        units_a_step = self.tile.at_once // self._unit
        rounds = large_steps(units_a_step) if self.tile.unit else equal_steps()
        return loop(units, take_units, state, most=self._most_units, rounds=rounds)

    def sequence(self, tiles):
        return tiles // (self.frames * self.labels)

    def _frame_block(self, tiles):
        return tiles // self.labels % self.frames

    def encoder_block(self, tiles):
        return self.sequence(tiles) // self._hypotheses * self.frames + self._frame_block(tiles)

    def predictor_block(self, tiles):
        return self.sequence(tiles) * self.labels + tiles % self.labels

    def places(self, tiles):
        """Frame and column of each cell, which broadcast to (R, tile.frames, tile.labels)."""
        first_frame = self.tile.frames * self._frame_block(tiles)[:, None, None]
        first_column = self.tile.labels * (tiles % self.labels)[:, None, None]
        return first_frame + positions(self.tile.frames, 3, -2), first_column + positions(
            self.tile.labels, 3, -1
        )

    def sums(self, tiles, dtype):
        """encoder + predictor of the tiles, (R, tile.frames, tile.labels, H)."""
        encoder = take(self.encoder, self.encoder_block(tiles)).astype(dtype)
        predictor = take(self.predictor, self.predictor_block(tiles)).astype(dtype)
        return encoder[:, :, None] + predictor[:, None]

    def clear_padding(self, tiles, cells):
        """The same (R, tile.frames, tile.labels, ...) with zeros in padding, whatever was there."""
        labels = self.labels_of(tiles).of_rows(self.tile.frames)
        return jnp.where(reference.is_read(labels, self._tokens)[..., None], cells, 0)

    def labels_of(self, tiles) -> pick.ColumnLabels:
        """The tiles' labels by column, all padding behind the last tile."""
        counts = take(self.counts, self.sequence(tiles))
        first_frame = self._frame_block(tiles) * self.tile.frames
        counts = jnp.clip(counts - first_frame, 0, self.tile.frames)
        counts = jnp.where(tiles < self.size, counts, 0)
        return pick.ColumnLabels(take(self._labels, self.predictor_block(tiles)), counts)

    def tiles(self, cells):
        """(N, T, U) as (N, frames, labels, tile.frames, tile.labels), zeros around."""
        shape = (self._sequences, self.frames, self.tile.frames, self.labels, self.tile.labels)
        below, right = shape[1] * shape[2] - self._T, shape[3] * shape[4] - self._U
        return jnp.swapaxes(jnp.pad(cells, ((0, 0), (0, below), (0, right))).reshape(shape), 2, 3)

    def cells(self, kept, places, fill):
        """(N, T, U) from a list's (R, tile.frames, tile.labels), `fill` in tiles not wanted."""
        found = kept.at[places].get(mode="fill", fill_value=fill)
        found = found.reshape(self._sequences, self.frames, self.labels, *found.shape[1:])
        found = jnp.swapaxes(found, 2, 3)
        shape = (self._sequences, *(a * b for a, b in zip(found.shape[1::2], found.shape[2::2])))
        return found.reshape(shape)[:, : self._T, : self._U]


def _blocks(x, size, fill=0):
    """(N, L, ...) as (N * blocks, size, ...)."""
    count = math.ceil(x.shape[1] / size)
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, count * size - x.shape[1])
    padded = jnp.pad(x, padding, constant_values=fill)
    return padded.reshape(x.shape[0] * count, size, *x.shape[2:])


def unblocked(blocks, like):
    """The inverse of _blocks."""
    return blocks.reshape(like.shape[0], -1, *like.shape[2:])[:, : like.shape[1]]


def take(x, indices):
    """Entries of x by their numbers; a number beyond the last entry's takes the last."""
    return x.at[indices].get(mode="clip")


def varying_as(like, *arrays):
    """The arrays, varying over the manual mesh axes over which `like` varies."""
    return vary_alike(like, *arrays)[1:]
