"""The joint network over tiles of (frames x labels) cells: its rows' entries, and gradients.

Tiles that are wanted are listed, and a loop takes some of them at a time through matrix
products and the row kernels, so that logits exist for one step's cells only. A step writes to no
place twice and the steps follow each other: all sums are taken in one order.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt import reference
from jax_rnnt._xla.dtypes import accumulator_dtype
from jax_rnnt.rows import entries, pick
from jax_rnnt.rows.add_blocks import add_blocks
from jax_rnnt.rows.dropout import Dropout
from jax_rnnt.rows.entries import Entries, Selection
from jax_rnnt.rows.joint_grid import Grid, Tile, take, unblocked, varying_as
from jax_rnnt.rows.joint_left_out import visited
from jax_rnnt.rows.joint_network import Weights, product


def forward(
    weights: Weights,
    labels: pick.ColumnLabels,
    dropout: Dropout,
    *,
    activation: Callable[[jax.Array], jax.Array],
    tile: Tile,
    selection: Selection,
    insist: bool,
    parts: tuple[str, ...] = (),
) -> Entries:
    """The sums and entries (N, T, U) of every row that is not padding.

    `parts`: names of the axes over which this is mapped, each a cut of the batch. The loop takes as
    many steps in every part.
    """
    grid = Grid(weights, labels, selection.tokens, tile)
    tile = grid.tile
    _, U, _ = weights.predictor.shape
    wanted = reference.is_read(labels.labels, selection.tokens)
    columns = jnp.max(jnp.where(wanted, jnp.arange(1, U + 1, dtype=jnp.int32), 0), -1)
    frame = tile.frames * jnp.arange(grid.frames, dtype=jnp.int32)
    column = tile.labels * jnp.arange(grid.labels, dtype=jnp.int32)
    inside = frame[None, :, None] < labels.counts[:, None, None]
    inside &= column[None, None] < columns[:, None, None]
    listed, units, places = grid.list(inside, parts)
    dtype = accumulator_dtype(weights.dtype)
    activate = _Activate(grid, activation, dropout, dtype)
    bias = weights.bias.astype(dtype)

    def activations(tiles):
        values = activate(tiles, activate.sums(tiles))
        # On a GPU, XLA writes sums to memory and reads them again for the activation, unless it is
        # followed by a conversion or a selection: 12.9 ms, not 10.8 (H100, float32).
        return grid.clear_padding(tiles, values) if weights.dtype == dtype else values

    def step(start, tiles, kept):
        rows = entries.WITH_BIAS.forward(
            weights.product(activations(tiles)),
            *grid.labels_of(tiles),
            bias,
            insist=insist,
            repeats=len(selection.picks),
            **selection.attributes(),
        )
        return [lax.dynamic_update_slice_in_dim(k, r, start, 0) for k, r in zip(kept, rows)]

    shape = (listed.size, tile.frames, tile.labels)
    padding = 0, 0, *(-np.inf,) * (2 + len(selection.picks))  # what the row kernels write there
    empty = varying_as(listed, *(jnp.zeros(shape, dtype) for _ in padding))
    kept = grid.walk(listed, units, step, empty)
    maxima, log_sums, blank, label, *picks = (
        grid.cells(k, places, fill) for k, fill in zip(kept, padding)
    )
    return Entries(maxima, log_sums, blank, label, tuple(picks))


def backward(
    weights: Weights,
    labels: pick.ColumnLabels,
    dropout: Dropout,
    rows: Entries,
    cotangents: Entries,
    bounds: jax.Array | None,
    *,
    tile: Tile,
    selection: Selection,
    min_posterior: float | None,
    make_cells: "Callable[..., Cells]",
    parts: tuple[str, ...] = (),
) -> Weights:
    """The gradients of all four operands, in the accumulator's dtype.

    Args:
        rows: what the forward gave.
        cotangents: of its sums and entries, (N, T, U) each.
        bounds: (N,), of each entry of the logits' gradients; None for none.
        make_cells: a subclass of Cells with its own options bound.
        parts: as of `forward`.
    """
    grid = Grid(weights, labels, selection.tokens, tile)
    wanted = visited(
        grid,
        rows,
        labels.labels,
        cotangents,
        dtype=weights.dtype,
        selection=selection,
        min_posterior=min_posterior,
    )
    listed, units, _ = grid.list(wanted, parts)
    cells = make_cells(grid, weights, labels, dropout, rows, cotangents, bounds, selection)
    dtype = accumulator_dtype(weights.dtype)
    kernel = weights.kernel.astype(weights.dtype)

    def step(start, tiles, sums):
        del start
        activations, gradients, bias_gradient = cells.gradients(tiles)
        hidden_gradients = product(gradients, kernel, ((3,), (1,)))
        encoder_parts, predictor_parts = cells.hidden(tiles, hidden_gradients)
        add = functools.partial(add_blocks, is_spread=bool(parts))
        return Weights(
            add(sums.encoder, grid.encoder_block(tiles), encoder_parts),
            add(sums.predictor, grid.predictor_block(tiles), predictor_parts),
            sums.kernel + product(activations, gradients, ((0, 1, 2), (0, 1, 2)), dtype),
            sums.bias + bias_gradient,
        )

    blocks = [x.shape for x in (grid.encoder, grid.predictor)]
    shapes = [*blocks, weights.kernel.shape, (*cells.bias_parts, *weights.bias.shape)]
    zeros = varying_as(listed, *(jnp.zeros(shape, dtype) for shape in shapes))
    sums = grid.walk(listed, units, step, Weights(*zeros))
    return sums._replace(
        encoder=unblocked(sums.encoder, weights.encoder),
        predictor=unblocked(sums.predictor, weights.predictor),
        bias=sums.bias.reshape(-1, *weights.bias.shape).sum(0),
    )


class _Activate:
    """Activations of a step's tiles, from sums of encoder and predictor."""

    def __init__(self, grid: Grid, activation: Callable, dropout: Dropout, dtype: np.dtype):
        self._grid, self._activation = grid, activation
        self._dropout, self._dtype = dropout, dtype

    def sums(self, tiles):
        return self._grid.sums(tiles, self._dtype)

    def __call__(self, tiles, sums):
        """(R, frames, labels, H)."""
        sequences = take(self._dropout.sequences, self._grid.sequence(tiles))[:, None, None]
        places = sequences, *self._grid.places(tiles)
        return self._dropout.apply(self._activation, sums, *places)


class Cells:
    """What the backward computes of a step's cells beside the matrix products.

    Args of the constructor: the grid, and the operands of `backward` with its selection.
    """

    bias_parts: tuple[int, ...] = ()
    """So many sums of the bias' gradient are taken, each in order, and added up at the end."""

    def gradients(self, tiles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the products and the bias need of the cells of tiles (R,).

        Returns:
            (R, frames, labels, H), the activations, and (R, frames, labels, W), the logits'
            gradients, both in the dtype of the products and zero in padding; (*bias_parts, W),
            sums of the latter, in the accumulator's dtype.
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
    """A step's cells computed by XLA and the row kernels."""

    def __init__(
        self,
        grid,
        weights,
        labels,
        dropout,
        rows,
        cotangents,
        bounds,
        selection,
        *,
        activation,
        insist,
    ):
        del labels
        dtype = accumulator_dtype(weights.dtype)
        self._grid, self._weights, self._bias = grid, weights, weights.bias.astype(dtype)
        if bounds is None:
            bounds = jnp.full_like(grid.counts, np.inf, dtype=dtype)
        self._bounds = bounds.astype(dtype)
        kept = rows.maxima, rows.log_sums, *entries.cotangents_of(cotangents)
        blocks = (grid.tiles(x) for x in kept)
        self._rows = [x.reshape(-1, *x.shape[-2:]) for x in blocks]
        self._activate = _Activate(grid, activation, dropout, dtype)
        self._options = {"insist": insist, "dtype": weights.dtype.name, **selection.attributes()}

    def gradients(self, tiles):
        activations = self._activate(tiles, self._activate.sums(tiles))
        activations = self._grid.clear_padding(tiles, activations)
        bounds = take(self._bounds, self._grid.sequence(tiles))[:, None, None]
        gradients, bias_parts = entries.WITH_BIAS.backward(
            self._weights.product(activations),
            *self._grid.labels_of(tiles),
            self._bias,
            jnp.broadcast_to(bounds, activations.shape[:-1]),
            *(take(x, tiles) for x in self._rows),
            **self._options,
        )
        activations = activations.astype(self._weights.dtype)
        # A row with infinities or NaN has no gradient; 0 times them would be one of the kernel.
        activations = jnp.where(jnp.isfinite(activations), activations, 0)
        return activations, gradients, bias_parts.reshape(-1, self._bias.size).sum(0)

    def hidden(self, tiles, gradients):
        activate = functools.partial(self._activate, tiles)
        values, pull_back = jax.vjp(activate, self._activate.sums(tiles))
        (gradients,) = pull_back(gradients.astype(values.dtype))
        gradients = jnp.where(jnp.isfinite(values.astype(self._weights.dtype)), gradients, 0)
        gradients = self._grid.clear_padding(tiles, gradients)
        return gradients.sum(2), gradients.sum(1)
