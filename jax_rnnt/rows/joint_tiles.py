"""The joint network over tiles of (frames x labels) cells: its rows' arcs, and their gradients.

    logits[n, t, u] = activation(encoder[n, t] + predictor[n, u]) @ kernel + bias

A tile is a rectangle of one sequence's lattice. Those that are wanted are listed, and a loop takes
`at_once` of them at a time through matrix products and the row kernels, so that logits exist for
one step's cells only. A step writes to no place twice and the steps follow each other: all sums are
taken in one order.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt._xla.primitive import Kernel, vary_alike
from jax_rnnt.rows import pick


class Tile(NamedTuple):
    """How many cells a tile spans, and how many tiles a step of the loop takes."""

    frames: int
    labels: int
    at_once: int


class Weights(NamedTuple):
    """The joint's operands; H hidden units."""

    encoder: jax.Array  # (N, T, H)
    predictor: jax.Array  # (N, U, H)
    kernel: jax.Array  # (H, V)
    bias: jax.Array  # (V,)

    @property
    def dtype(self) -> np.dtype:
        """What the activations and the matrix products' operands are."""
        with jax.numpy_dtype_promotion("standard"):
            return functools.reduce(jnp.promote_types, (x.dtype for x in self))

    def project(self, activations: jax.Array) -> jax.Array:
        """Logits (..., V) of activations (..., H), in the accumulator's dtype.

        Rounded to a half dtype, they would have to be rounded alike in forward and backward: the
        gradient at a symbol of probability near 1 is what two numbers leave of each other.
        """
        dtype = accumulator_dtype(self.dtype)
        contract = (activations.ndim - 1,), (0,)
        operands = activations.astype(self.dtype), self.kernel.astype(self.dtype)
        return _product(*operands, contract, dtype) + self.bias.astype(dtype)


class Rows(NamedTuple):
    """What is kept of each row of logits, all (N, T, U)."""

    blank_log_probs: jax.Array
    label_log_probs: jax.Array
    maxima: jax.Array
    log_sums: jax.Array


def forward(
    weights: Weights,
    labels: pick.ColumnLabels,
    *,
    activation: Callable[[jax.Array], jax.Array],
    tile: Tile,
    blank: int,
    insist: bool,
    parts: tuple[str, ...] = (),
) -> Rows:
    """The arcs and the normalisers of every row that is not padding.

    `parts`: names of axes over which this is mapped, the loop taking as many steps in each part.
    """
    grid = Grid(weights, labels, tile)
    tile = grid.tile
    _, U, _ = weights.predictor.shape
    wanted = reference.is_read(labels.labels, weights.kernel.shape[-1])
    columns = jnp.max(jnp.where(wanted, jnp.arange(1, U + 1, dtype=jnp.int32), 0), -1)
    frame = tile.frames * jnp.arange(grid.frames, dtype=jnp.int32)
    column = tile.labels * jnp.arange(grid.labels, dtype=jnp.int32)
    inside = (frame[:, None] < labels.counts[:, None, None]) & (column < columns[:, None, None])
    listed, steps, places = grid.list(inside, parts)
    dtype = accumulator_dtype(weights.dtype)

    def step(i, kept):
        tiles = _at(listed, i, tile.at_once)
        logits = weights.project(activation(grid.sums(tiles, dtype)))
        rows = pick.BY_COLUMN.forward(logits, *grid.labels_of(tiles), insist=insist, blank=blank)
        start = i * tile.at_once
        return [lax.dynamic_update_slice_in_dim(k, r, start, 0) for k, r in zip(kept, rows)]

    shape = (listed.size, tile.frames, tile.labels)
    empty = _varying_as(listed, *(jnp.zeros(shape, dtype) for _ in Rows._fields))
    kept = lax.fori_loop(0, steps, step, empty)
    padding = -np.inf, -np.inf, 0, 0  # as the row kernels have it
    return Rows(*(grid.cells(k, places, fill) for k, fill in zip(kept, padding)))


def backward(
    weights: Weights,
    labels: pick.ColumnLabels,
    rows: Rows,
    blank_cotangents: jax.Array,
    label_cotangents: jax.Array,
    *,
    tile: Tile,
    blank: int,
    min_posterior: float | None,
    make_cells: "Callable[..., Cells]",
    parts: tuple[str, ...] = (),
) -> Weights:
    """The gradients of all four operands, in the accumulator's dtype, from the arcs' (N, T, U).

    `make_cells`: a subclass of Cells with its own options bound. `parts`: as of `forward`.
    """
    grid = Grid(weights, labels, tile)
    tile = grid.tile
    cotangents = blank_cotangents, label_cotangents
    if min_posterior is None:
        norms = _gradient_norms(rows, labels.labels, *cotangents, blank=blank)
        norms, part = grid.tiles(norms).sum((-2, -1)), left_out(weights.dtype)
        wanted = _enough(norms, part, axis=1) | _enough(norms, part, axis=2)
    else:
        posteriors = sum(map(jnp.abs, cotangents))
        # The last blank arc of a sequence is taken with certainty: no other is above it.
        certain = jnp.abs(blank_cotangents).max((-2, -1))
        highest = grid.tiles(posteriors).max((-2, -1))
        wanted = ~(highest <= min_posterior * certain[:, None, None]) | ~jnp.isfinite(highest)
    listed, steps, _ = grid.list(wanted, parts)
    cells = make_cells(grid, weights, labels, rows, cotangents, blank)
    dtype = accumulator_dtype(weights.dtype)
    kernel = weights.kernel.astype(weights.dtype)

    def step(i, sums):
        tiles = _at(listed, i, tile.at_once)
        activations, gradients, bias_gradient = cells.gradients(tiles)
        hidden_gradients = _product(gradients, kernel, ((3,), (1,)))
        encoder_parts, predictor_parts = cells.hidden(tiles, hidden_gradients)
        return Weights(
            add_blocks(sums.encoder, grid.encoder_block(tiles), encoder_parts),
            add_blocks(sums.predictor, grid.predictor_block(tiles), predictor_parts),
            sums.kernel + _product(activations, gradients, ((0, 1, 2), (0, 1, 2)), dtype),
            sums.bias + bias_gradient,
        )

    blocks = [x.shape for x in (grid.encoder, grid.predictor)]
    shapes = [*blocks, weights.kernel.shape, weights.bias.shape]
    zeros = _varying_as(listed, *(jnp.zeros(shape, dtype) for shape in shapes))
    sums = lax.fori_loop(0, steps, step, Weights(*zeros))
    return sums._replace(
        encoder=_unblocked(sums.encoder, weights.encoder),
        predictor=_unblocked(sums.predictor, weights.predictor),
    )


class Cells:
    """What the backward computes of a step's cells but for the matrix products.

    Args of the constructor: the grid, the operands, the labels, what the forward kept of the rows,
    both arcs' cotangents (N, T, U), and the blank's index.
    """

    def gradients(self, tiles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the products and the bias need of the cells of tiles (R,).

        Returns:
            (R, frames, labels, H), the activations, and (R, frames, labels, V), the logits'
            gradients, both in the dtype of the products and zero in padding; (V,), the sum of the
            latter, in the accumulator's dtype.
        """
        raise NotImplementedError

    def hidden(self, tiles: jax.Array, gradients: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Parts of the sums' gradients, in the accumulator's dtype.

        Args:
            tiles: (R,).
            gradients: (R, frames, labels, H), with respect to the activations.

        Returns:
            (R, frames, H) and (R, labels, H), those with respect to encoder + predictor summed over
            a tile's labels and over its frames.
        """
        raise NotImplementedError


class PlainCells(Cells):
    """By XLA and the row kernels."""

    def __init__(self, grid, weights, labels, rows, cotangents, blank, *, activation, insist):
        del labels
        self._grid, self._weights = grid, weights
        kept = (grid.tiles(x) for x in (rows.maxima, rows.log_sums, *cotangents))
        self._rows = [x.reshape(-1, *x.shape[-2:]) for x in kept]
        self._activation = activation
        self._options = {"blank": blank, "insist": insist}

    def gradients(self, tiles):
        activations = self._grid.clear_padding(tiles, self._activation(self._sums(tiles)))
        (gradients,) = pick.BY_COLUMN.backward(
            self._weights.project(activations),
            *self._grid.labels_of(tiles),
            *(_take(x, tiles) for x in self._rows),
            **self._options,
        )
        dtype = self._weights.dtype
        return activations.astype(dtype), gradients.astype(dtype), gradients.sum((0, 1, 2))

    def hidden(self, tiles, gradients):
        values, pull_back = jax.vjp(self._activation, self._sums(tiles))
        (gradients,) = pull_back(gradients.astype(values.dtype))
        gradients = self._grid.clear_padding(tiles, gradients)
        return gradients.sum(2), gradients.sum(1)

    def _sums(self, tiles):
        return self._grid.sums(tiles, accumulator_dtype(self._weights.dtype))


def logits(
    weights: Weights, labels: jax.Array, activation: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """All logits (..., T, U, V), for weights of any number of batch dimensions.

    Args:
        weights: the operands.
        labels: (..., T, U), each row's own; rows of padding have any logits and no gradient.
        activation: elementwise.
    """
    dtype = accumulator_dtype(weights.dtype)
    encoder, predictor = weights.encoder.astype(dtype), weights.predictor.astype(dtype)
    sums = encoder[..., None, :] + predictor[..., None, :, :]
    inside = reference.is_read(labels, weights.kernel.shape[-1])[..., None]
    # What has no gradient has none with respect to the kernel, either, that others share.
    values = jnp.where(inside, lax.stop_gradient(activation(sums)), 0)
    usable = inside & jnp.isfinite(values.astype(weights.dtype)).all(-1, keepdims=True)
    activations = jnp.where(usable, activation(jnp.where(usable, sums, 0)), values)
    return _project_usable(weights, activations, usable)


@jax.custom_jvp
def _project_usable(weights, activations, usable):
    """Logits, to whose derivative with respect to the kernel only usable rows add."""
    del usable
    return weights.project(activations)


@_project_usable.defjvp
def _project_usable_jvp(primals, tangents):
    weights, activations, usable = primals
    weights_tangents, activations_tangents, _ = tangents
    usable_activations = jnp.where(usable, activations, 0)
    zero_bias = weights._replace(bias=jnp.zeros_like(weights.bias))
    tangent = zero_bias.project(activations_tangents)
    tangent += weights_tangents.project(usable_activations)
    return _project_usable(*primals), tangent


def left_out(dtype) -> float:
    """Which part of the logits' gradient, by its L1 norm, the backward may leave out.

    Of each block of frames and of each block of labels, as wide as a tile.
    """
    return {"float64": 1e-13, "float32": 1e-6, "float16": 2**-13, "bfloat16": 2**-10}[dtype.name]


WHOLE_TILE = 16, 8


def choose(
    T: int, U: int, H: int, V: int, sequences: int, dtype: np.dtype, *, wave: int | None = None
) -> Tile:
    """Tiles of at most 16 x 8 cells, and as many at once as are fast in little memory.

    `wave`: for kernels (`joint_fused`) that take whole tiles, so many at a time, and make no
    logits beside their gradients.
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
        step_bytes = min(max(tiles * tile_bytes // 64, _LEAST_STEP_BYTES), _MOST_STEP_BYTES)
    if wave is None:
        at_once = max(step_bytes // tile_bytes, 1)
    else:
        at_once = wave * max(round(step_bytes / (tile_bytes * wave)), 1)
    return Tile(frames, labels, min(at_once, max(tiles, 1)))


# What a step's activations, their gradients and logits may take. On two cores with 2 MiB of
# second-level cache each, float32, forward and backward of (N, T, U, H, V) = (4, 200, 50, 320, 512)
# took 292 ms with 0.6 MB, 214 with 2.4, 211 with 4.7, 204 with 9.4 and 294 with logits as one
# array; of (2, 100, 30, 256, 2000) 118 with 1.2 MB, 102 with 4.8, 110 with 9.6 and 121 with logits.
_CPU_STEP_BYTES = 2**22
# On an H100, without the fused kernels, (32, 400, 100, 640, 1024) took 13.1 ms with 92 MB, 11.8
# with 184 MB and 11.3 with 370: a 64th of what all cells would take is near enough. Below the
# least, starting the step's dozen kernels takes as long as running them.
_LEAST_STEP_BYTES = 2**25
_MOST_STEP_BYTES = 2**28


class Grid:
    """The tiles of all sequences: number (n * frames + i) * labels + j, in blocks i and j."""

    def __init__(self, weights: Weights, labels: pick.ColumnLabels, tile: Tile):
        self.encoder = _blocks(weights.encoder, tile.frames)
        self.predictor = _blocks(weights.predictor, tile.labels)
        self._labels = _blocks(labels.labels, tile.labels, reference.PADDING_ROW)
        self._counts = labels.counts
        self._symbols = weights.kernel.shape[-1]
        self._sequences, self._T, self._U = *weights.encoder.shape[:2], weights.predictor.shape[1]
        self.frames = math.ceil(self._T / tile.frames)
        self.labels = math.ceil(self._U / tile.labels)
        self.size = self._sequences * self.frames * self.labels
        # One device's part of a batch may have fewer tiles than a step of the whole takes.
        self.tile = tile._replace(at_once=min(tile.at_once, max(self.size, 1)))

    def list(self, wanted, parts):
        """The numbers of the wanted tiles, in order.

        Args:
            wanted: (N, frames, labels) booleans.
            parts: names of axes over which this is mapped.

        Returns:
            (R,) int32 numbers, `size` behind the last, R a multiple of at_once; () how many steps
            they take in the part of the longest list; (size,) int32 places of the tiles in the
            list, beyond it if not wanted.
        """
        wanted = wanted.reshape(-1)
        numbers = jnp.arange(self.size, dtype=jnp.int32)
        room = math.ceil(self.size / self.tile.at_once) * self.tile.at_once
        places = jnp.where(wanted, jnp.cumsum(wanted, dtype=jnp.int32) - 1, room + numbers)
        (listed,) = _varying_as(places, jnp.full(room, self.size, jnp.int32))
        listed = listed.at[places].set(numbers, mode="drop", unique_indices=True)
        steps = -(-wanted.sum(dtype=jnp.int32) // self.tile.at_once)
        return listed, lax.pmax(steps, parts) if parts else steps, places

    def encoder_block(self, tiles):
        return tiles // self.labels

    def predictor_block(self, tiles):
        return tiles // (self.frames * self.labels) * self.labels + tiles % self.labels

    def sums(self, tiles, dtype):
        """encoder + predictor of the tiles, (R, tile.frames, tile.labels, H)."""
        encoder = _take(self.encoder, self.encoder_block(tiles)).astype(dtype)
        predictor = _take(self.predictor, self.predictor_block(tiles)).astype(dtype)
        return encoder[:, :, None] + predictor[:, None]

    def clear_padding(self, tiles, cells):
        """The same (R, tile.frames, tile.labels, ...) with zeros in padding, whatever was there."""
        labels = self.labels_of(tiles).of_rows(self.tile.frames)
        return jnp.where(reference.is_read(labels, self._symbols)[..., None], cells, 0)

    def labels_of(self, tiles) -> pick.ColumnLabels:
        """The tiles' labels by column, all padding behind the last tile."""
        block = self.encoder_block(tiles)
        counts = _take(self._counts, block // self.frames)
        counts = jnp.clip(counts - block % self.frames * self.tile.frames, 0, self.tile.frames)
        counts = jnp.where(tiles < self.size, counts, 0)
        return pick.ColumnLabels(_take(self._labels, self.predictor_block(tiles)), counts)

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


def _unblocked(blocks, like):
    """The inverse of _blocks."""
    return blocks.reshape(like.shape[0], -1, *like.shape[2:])[:, : like.shape[1]]


def _take(x, indices):
    return x.at[indices].get(mode="clip")


def _at(listed, i, count):
    return lax.dynamic_slice_in_dim(listed, i * count, count)


def _varying_as(like, *arrays):
    return vary_alike(like, *arrays)[1:]


def _product(a, b, contract, dtype=None):
    return lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=dtype)


def add_blocks(sums: jax.Array, blocks: jax.Array, parts: jax.Array) -> jax.Array:
    """sums (B, ...) with every part (R, ...) added to its block; one beyond the last is dropped.

    Parts of one block are added in order.
    """
    flat = sums.reshape(len(sums), -1), blocks, parts.reshape(len(parts), -1)
    return _add_blocks(*flat, insist=False)[0].reshape(sums.shape)


def _add_blocks_plainly(sums, blocks, parts):
    """By a scatter, which XLA does in order on CPU and TPU, and in any order on a GPU."""

    def add(sums, blocks, parts):
        return sums.at[blocks].add(parts, mode="drop")

    for _ in range(blocks.ndim - 1):
        add = jax.vmap(add)
    return [add(sums, blocks, parts)]


_add_blocks = Kernel(
    "add_blocks",
    operands=("BL", "R", "RL"),
    results=("BL",),
    result_dtype="operand",
    overwrites=True,
    fallback=_add_blocks_plainly,
    platforms=("cuda",),
)


def _gradient_norms(rows, labels, blank_cotangents, label_cotangents, *, blank):
    """(N, T, U), the L1 norm of each row of the logits' gradient, known without the logits.

    |c_blank - s P_blank| + |c_label - s P_label| + |s| (1 - P_blank - P_label) with s = c_blank +
    c_label, the first two without the cancellation that a confident model's would suffer.
    """
    same = labels[:, None] == blank
    blank_cotangents += jnp.where(same, label_cotangents, 0)
    label_cotangents = jnp.where(same, 0, label_cotangents)
    label_log_probs = jnp.where(same, -jnp.inf, rows.label_log_probs)
    blank_probs, label_probs = jnp.exp(rows.blank_log_probs), jnp.exp(label_log_probs)
    not_blank, not_label = -jnp.expm1(rows.blank_log_probs), -jnp.expm1(label_log_probs)
    total = blank_cotangents + label_cotangents
    norms = (
        jnp.abs(blank_cotangents * not_blank - label_cotangents * blank_probs)
        + jnp.abs(label_cotangents * not_label - blank_cotangents * label_probs)
        + jnp.abs(total) * jnp.maximum(not_blank - label_probs, 0)
    )
    return jnp.where((blank_cotangents != 0) | (label_cotangents != 0), norms, 0)


def _enough(norms, part, axis):
    """Which tiles to take so that along the axis the others' norms sum to at most that part."""
    ascending = jnp.sort(norms, axis)
    sums = jnp.cumsum(ascending, axis)
    dropped = (sums <= part * norms.sum(axis, keepdims=True)).sum(axis, keepdims=True)
    last = jnp.minimum(dropped, norms.shape[axis] - 1)
    least = jnp.take_along_axis(ascending, last, axis)
    return ~(norms < least) & (norms != 0)
