"""A joint network's operands: random ones, and ones that are sure of an alignment.

logits[n, t, u] = tanh(encoder[n, t] + predictor[n, u]) @ kernel + bias
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from benchmarks.problems.shapes import JointCase

# The confident model: CELLS of the cells hold HELD of the posterior. STEERING is the most by which
# a cell's place moves the logits of labels and blank apart. RECOGNITION is how far the label that
# comes next is above all other labels together; if that were large, no gradient would be left.
CELLS, HELD = 0.1, 0.999
STEERING, RECOGNITION = 12.0, 1.0
GAINS, HALVINGS, TRIED_SEQUENCES = (1e-3, 10.0), 14, 8


class Operands(NamedTuple):
    """float32, on the host: what the generator on a device would need is not the loss's."""

    encoder: np.ndarray  # (N, T, H)
    predictor: np.ndarray  # (N, U, H)
    kernel: np.ndarray  # (H, V)
    bias: np.ndarray  # (V,)


class Cells(NamedTuple):
    """What there is of each cell, all (N, T, U)."""

    blank_log_probs: np.ndarray
    label_log_probs: np.ndarray
    blank_posteriors: np.ndarray
    label_posteriors: np.ndarray


@functools.lru_cache(maxsize=8)
def make(case: JointCase) -> Operands:
    """The case's operands, the same whenever it is asked for."""
    return confident(case) if case.model == "confident" else random(case)


def random(case: JointCase) -> Operands:
    """Normal. The smaller the scale, the nearer is the posterior to that of equal symbols."""
    normal, scale = np.random.default_rng(1).standard_normal, np.float32(case.scale)
    return Operands(
        scale * normal((case.N, case.T, case.H), np.float32),
        scale * normal((case.N, case.U, case.H), np.float32),
        normal((case.H, case.V), np.float32) / np.float32(case.H**0.5),
        normal(case.V, np.float32) / 10,
    )


def confident(case: JointCase) -> Operands:
    """One random path a sequence, with about a tenth of the cells around it taking nearly all.

    An eighth of the hidden units say where the cell is: their sums are gain * (l(t) - u - 1/2),
    l(t) the number of labels that the path has emitted with frame t, so that labels are likely
    before the path and the blank is behind it. The others know the label that comes next, from the
    predictor; the encoder adds noise to them. The gain is found by halving.
    """
    rng = np.random.default_rng(2)
    emitted = _emitted(case, rng)
    gain = _find_gain(case, emitted)
    place = -(-case.H // 8)
    rest = case.H - place
    labels, _, _ = case.arrays()

    # No two units alike, so that what a narrow dtype rounds away differs from one to the next.
    gains = (gain * rng.uniform(0.8, 1.2, place)).astype(np.float32)
    middle = (case.U - 1) / 2
    columns = np.arange(case.U) + 0.5 - middle
    noise = rng.standard_normal((case.N, case.T, rest), np.float32) * np.float32(0.3)
    signs = rng.choice(np.array([-1, 1], np.float32), (case.V, rest))
    next_signs = np.pad(signs[labels], ((0, 0), (0, 1), (0, 0)))
    encoder = np.concatenate([(emitted - middle)[..., None] * gains, noise], -1)
    predictor = np.concatenate(
        [np.broadcast_to(-columns[:, None] * gains, (case.N, case.U, place)), 1.5 * next_signs], -1
    )
    steering = np.full((place, case.V), STEERING / 2 / place, np.float32)
    steering[:, 0] *= -1
    recognised = np.log(case.V - 1) + RECOGNITION
    recognition = recognised / np.tanh(1.5 + noise[0]).sum(-1).mean() * signs.T
    recognition[:, 0] = 0
    bias = np.zeros(case.V, np.float32)
    bias[0] = np.logaddexp(recognised, np.log(case.V - 1))
    kernel = np.concatenate([steering, recognition])
    return Operands(*(array.astype(np.float32) for array in (encoder, predictor, kernel, bias)))


def _emitted(case: JointCase, rng: np.random.Generator) -> np.ndarray:
    """(N, T), how many labels the path has emitted with each frame, their frames uniform."""
    emitted = np.zeros((case.N, case.T), np.float32)
    for row, T, U in zip(emitted, case.frames_lengths, case.labels_lengths):
        frames = rng.integers(0, T, U)
        row[:] = np.cumsum(np.bincount(frames, minlength=case.T))
    return emitted


def _find_gain(case: JointCase, emitted: np.ndarray) -> float:
    """For which CELLS of the cells hold HELD of the posterior, in a few sequences without noise."""
    some = slice(0, TRIED_SEQUENCES)
    _, frames_lengths, labels_lengths = (array[some] for array in case.arrays())
    ahead = emitted[some, :, None] - np.arange(case.U, dtype=np.float32) - 0.5
    inside = within(case)[some]

    @jax.jit
    def posteriors(gain):
        steering = STEERING * jnp.tanh(gain * ahead)
        arcs = jax.nn.log_sigmoid(-steering), jax.nn.log_sigmoid(steering)
        return sum(
            jax.grad(
                lambda arcs: -jax_rnnt.lattice_cost(*arcs, frames_lengths, labels_lengths).sum()
            )(arcs)
        )

    least, most = GAINS
    for _ in range(HALVINGS):
        gain = (least * most) ** 0.5
        if holding(np.asarray(posteriors(gain))[inside], HELD) > CELLS:
            least = gain
        else:
            most = gain
    return gain


def within(case: JointCase) -> np.ndarray:
    """(N, T, U), whether a cell is within the lengths."""
    _, frames_lengths, labels_lengths = case.arrays()
    frames = np.arange(case.T)[:, None] < frames_lengths[:, None, None]
    return frames & (np.arange(case.U) <= labels_lengths[:, None, None])


def holding(weights: np.ndarray, part: float) -> float:
    """The smallest fraction of the cells that holds this part of all weight."""
    sums = np.cumsum(np.sort(weights, axis=None)[::-1], dtype=np.float64)
    return float((np.searchsorted(sums, part * sums[-1]) + 1) / weights.size)


@jax.jit
def _truth(operands, labels, frames_lengths, labels_lengths):
    N, T, _ = operands.encoder.shape
    U = operands.predictor.shape[1]

    def sequence(sums, arguments):
        encoder, predictor, labels, frames, label_count = arguments
        columns = jnp.where(jnp.arange(U) < label_count, jnp.pad(labels, (0, 1)), -1)
        none = jnp.zeros((T, U))

        def cost(operands, more_blank, more_label):
            encoder, predictor, kernel, bias = operands
            logits = jnp.tanh(encoder[:, None] + predictor[None]) @ kernel + bias[None, None]
            arcs = jax_rnnt.log_softmax_pick(logits, jnp.broadcast_to(columns, (T, U)))
            arcs = arcs[0] + more_blank, arcs[1] + more_label
            return jax_rnnt.lattice_cost(*arcs, frames, label_count), arcs

        operands_n = Operands(encoder, predictor, *operands[2:])
        (cost_n, arcs), (gradients, *posteriors) = jax.value_and_grad(
            cost, (0, 1, 2), has_aux=True
        )(operands_n, none, none)
        sums = jax.tree.map(jnp.add, sums, gradients[2:])
        return sums, (cost_n, gradients[:2], Cells(*arcs, *(-x for x in posteriors)))

    zeros = jnp.zeros_like(operands.kernel), jnp.zeros_like(operands.bias)
    sums, (costs, gradients, cells) = jax.lax.scan(
        sequence, zeros, (*operands[:2], labels, frames_lengths, labels_lengths)
    )
    gradients = jax.tree.map(lambda x: x / N, Operands(*gradients, *sums))
    return costs.mean(), gradients, cells


def truth(case: JointCase, dtype) -> tuple[float, Operands, Cells]:
    """The mean cost, its gradients and all cells in float32, of operands as the dtype holds them.

    One sequence after the other, so that it fits where the materialised logits do not.
    """
    operands = Operands(*(jnp.asarray(x.astype(dtype)).astype(jnp.float32) for x in make(case)))
    with jax.default_matmul_precision("highest"):
        cost, gradients, cells = _truth(operands, *case.arrays())
    return float(cost), Operands(*map(np.asarray, gradients)), Cells(*map(np.asarray, cells))


def gradient_norms(cells: Cells) -> np.ndarray:
    """(N, T, U), the L1 norm of each row of the logits' gradient."""
    blank_probs, label_probs = np.exp(cells.blank_log_probs), np.exp(cells.label_log_probs)
    blank, label = cells.blank_posteriors, cells.label_posteriors
    return (
        np.abs(blank * (1 - blank_probs) - label * blank_probs)
        + np.abs(label * (1 - label_probs) - blank * label_probs)
        + (blank + label) * np.maximum(1 - blank_probs - label_probs, 0)
    )


def kept_tiles(weights: np.ndarray, tile: tuple[int, int], left_out: float) -> np.ndarray:
    """Which tiles are the fewest that hold all but this part of each sequence's weight.

    Args:
        weights: (N, T, U), zero beyond the lengths.
        tile: frames, labels.
        left_out: of a sequence's weight, at most.

    Returns:
        (N, ceil(T / frames), ceil(U / labels)) booleans.
    """
    tiles = _tiles(weights, tile)
    sums = tiles.sum((2, 4), dtype=np.float64)
    flat = sums.reshape(len(sums), -1)
    order = np.argsort(flat, -1)
    dropped = np.cumsum(np.take_along_axis(flat, order, -1), -1) <= left_out * flat.sum(-1)[:, None]
    kept = np.empty(flat.shape, bool)
    np.put_along_axis(kept, order, ~dropped, -1)
    return kept.reshape(sums.shape)


def tiles_above(weights: np.ndarray, tile: tuple[int, int], least: float) -> np.ndarray:
    """Which tiles have a cell of more than this weight; see `kept_tiles`."""
    return _tiles(weights, tile).max((2, 4)) > least


def cells_of(tiles: np.ndarray, tile: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """(N, T, U), each cell's tile's value."""
    _, T, U = shape
    return tiles.repeat(tile[0], 1).repeat(tile[1], 2)[:, :T, :U]


def _tiles(weights, tile):
    """(N, T, U) as (N, rows, tile[0], columns, tile[1]), zeros around."""
    N, T, U = weights.shape
    rows, columns = -(-T // tile[0]), -(-U // tile[1])
    padding = (0, 0), (0, rows * tile[0] - T), (0, columns * tile[1] - U)
    return np.pad(weights, padding).reshape(N, rows, tile[0], columns, tile[1])
