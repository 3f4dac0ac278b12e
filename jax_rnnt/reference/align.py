"""The best path through an RNN-T lattice in jax.numpy: frame by frame, then back by label.

score(0, 0) = 0
score(t, u) = max(score(t - 1, u) + blank(t - 1, u), score(t, u - 1) + label(t, u - 1))

Sums are exact (`path_scores`): whatever order they are taken in, scores and paths are those of the
kernels, and equal paths compare as equal. Where both of a cell's arcs arrive with equal scores, the
path comes by the blank's.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jax_rnnt._xla.residuals import to_bits
from jax_rnnt._xla.sharding import vary_alike
from jax_rnnt.reference.axes import positions
from jax_rnnt.reference.compact import take
from jax_rnnt.reference.path_scores import (
    Score,
    add,
    from_pairs,
    is_greater,
    larger,
    score,
    to_pairs,
    value,
)

NO_FRAME = -1  # the frame of a label that no path writes
FRAMES_PER_WORD = 32


def word_count(frames: int, columns: int) -> int:
    """How many words the choices in (frames, columns) cells take."""
    return -(-frames // FRAMES_PER_WORD) * columns


def compact_word_count(rows: int, sequences: int, columns: int) -> int:
    return rows // FRAMES_PER_WORD + sequences * (columns + 1)


def lattice_align(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    frames_lengths: jax.Array,
    labels_lengths: jax.Array,
    before: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What the last frame passes on, and each cell's choice.

    Args:
        blank_log_probs, label_log_probs: (..., T, U) nats, T frames of each sequence.
        frames_lengths: (...) int32, how many frames of the sequence there are from the first of
            these on: none where it has ended, more than T where it goes on.
        labels_lengths: (...) int32.
        before: (..., U, 2), what the frame before passes on, as bits of whole nats and units.

    Returns:
        The scores (..., U, 2) behind the last frame; behind a sequence's last, its path's is at
        column U_n. Words (..., ceil(T / 32) U), int32: bit t % 32 of word t // 32 of column u says
        whether the path to (t, u) comes by the label's arc.
    """
    *batch, T, U = blank_log_probs.shape
    column = positions(U, len(batch) + 2, -1)
    frame = positions(T, len(batch) + 2, -2)
    ends, labels = frames_lengths[..., None, None], labels_lengths[..., None, None]
    blank, label, wrong = _legal(blank_log_probs, label_log_probs, frame, column, ends, labels)

    def step(above, arcs):
        return _frame(above, *arcs)

    arcs = jax.tree.map(lambda x: jnp.moveaxis(x, -2, 0), (blank, label))
    scores, taken = lax.scan(step, from_pairs(before), arcs)
    scores = _marked(scores, wrong.any((-2, -1)), labels_lengths)
    words = -(-T // FRAMES_PER_WORD)
    behind = [(0, words * FRAMES_PER_WORD - T), *[(0, 0)] * (len(batch) + 1)]
    taken = jnp.pad(taken, behind).reshape(words, FRAMES_PER_WORD, *batch, U)
    bit = jnp.expand_dims(jnp.arange(FRAMES_PER_WORD, dtype=jnp.uint32), range(1, len(batch) + 2))
    packed = (taken.astype(jnp.uint32) << bit[None]).sum(1, dtype=jnp.uint32)
    packed = jnp.moveaxis(packed, 0, -2).reshape(*batch, words * U)
    return to_pairs(scores), lax.bitcast_convert_type(packed, jnp.int32)


def lattice_align_compact(*operands: jax.Array, max_labels: int) -> tuple[jax.Array, jax.Array]:
    """As lattice_align, of arcs (..., S), lengths and offsets (..., N) and scores (..., N, U, 2).

    Words are as many as compact_word_count says; those of a sequence begin offset // 32 words and
    U + 1 words for each sequence before it from the first.
    """
    del max_labels
    walk = jnp.vectorize(_walk_compact, signature="(s),(s),(n),(n),(n),(n,u,k)->(n,u,k),(w)")
    return walk(*operands)


def lattice_trace(
    scores: jax.Array, words: jax.Array, frames_lengths: jax.Array, labels_lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Paths' log-probabilities (...) and the frames (..., U) of their labels from lattice_align's.

    Args:
        scores: (..., U, 2), those behind the last frame, as bits or as floats of the same bits.
        words: (..., W).
        frames_lengths, labels_lengths: (...) int32.

    Returns:
        NO_FRAME stands behind the labels, and for all of them where there is no path.
    """

    def trace(scores, words, frames, labels):
        U = scores.shape[0]
        place = jnp.zeros(1, jnp.int32), U
        steps = words.shape[0] // U + U - 1  # known in advance: no device waits for another
        one = _trace(scores[None], words, frames[None], labels[None], *place, steps)
        return one[0][0], one[1][0]

    trace = jnp.vectorize(trace, signature="(u,k),(w),(),()->(),(u)")
    return trace(scores, words, frames_lengths, labels_lengths)


def lattice_trace_compact(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same of scores (..., N, U, 2), words (..., W), lengths and offsets (..., N)."""

    def trace(scores, words, frames_lengths, labels_lengths, offsets):
        N, U, _ = scores.shape
        first = _first_words(offsets, N, U)
        rows = jnp.clip(frames_lengths // FRAMES_PER_WORD + 1, 0, words.shape[0])
        steps = jnp.max(rows + jnp.clip(labels_lengths, 0, U), initial=0)
        lengths = frames_lengths, labels_lengths
        return _trace(scores, words, *lengths, first, labels_lengths + 1, steps)

    trace = jnp.vectorize(trace, signature="(n,u,k),(w),(n),(n),(n)->(n),(n,u)")
    return trace(*operands)


def _legal(blank, label, frame, column, frames, labels):
    """Both arcs' scores, and which are NaN or +inf though they may be taken.

    Where there is no cell, a blank of 0 passes on what arrives. Blank arcs of the last frame but
    the last, and label arcs of the last column, lead out of the lattice.
    """
    inside = (frame < frames) & (column <= labels)
    found = []
    wrong = False
    for arc, is_legal in (
        (blank, inside & ((frame < frames - 1) | (column == labels))),
        (label, inside & (column < labels)),
    ):
        is_wrong = is_legal & ~(arc < jnp.inf)
        wrong |= is_wrong
        found.append(jnp.where(is_legal & ~is_wrong, arc, -jnp.inf))
    return score(jnp.where(inside, found[0], 0)), score(found[1]), wrong


def _frame(above: Score, blank: Score, label: Score) -> tuple[Score, jax.Array]:
    """What a frame passes on, and which of its cells are reached by labels' arcs."""

    def compose(first, second):
        # x -> max(x + arc, own), one behind the other.
        return add(first[0], second[0]), larger(second[1], add(first[1], second[0]))

    own = lax.associative_scan(compose, (_moved(label), above), axis=above.whole.ndim - 1)[1]
    taken = is_greater(_moved(add(own, label)), above)
    return add(own, blank), taken


def _moved(a: Score) -> Score:
    """Each column's number in the next one."""
    pad = [(0, 0)] * (a.whole.ndim - 1) + [(1, 0)]
    whole = jnp.pad(a.whole[..., :-1], pad, constant_values=-jnp.inf)
    return Score(whole, jnp.pad(a.units[..., :-1], pad))


def _marked(scores: Score, wrong, labels_lengths) -> Score:
    """NaN at column U_n where an arc was wrong, and everywhere where there is no such column."""
    U = scores.whole.shape[-1]
    column = positions(U, scores.whole.ndim, -1)
    labels = labels_lengths[..., None]
    marked = (wrong[..., None] & (column == labels)) | (labels < 0) | (labels >= U)
    return Score(jnp.where(marked, jnp.nan, scores.whole), jnp.where(marked, 0, scores.units))


def _first_words(offsets, N, U):
    return offsets // FRAMES_PER_WORD + positions(N, 1, -1) * (U + 1)


def _walk_compact(blank, label, frames_lengths, labels_lengths, offsets, before):
    (rows,), (N, U, _) = blank.shape, before.shape
    count = compact_word_count(rows, N, U)
    stride = labels_lengths + 1
    room = (rows - offsets) // jnp.maximum(stride, 1)  # frames that fit behind the offset
    valid = (frames_lengths >= 1) & (labels_lengths >= 0) & (labels_lengths < U)
    valid &= (offsets >= 0) & (frames_lengths <= room)
    frames = jnp.where(valid, frames_lengths, 0)[:, None]
    labels = jnp.where(valid, labels_lengths, -1)[:, None]
    column = positions(U, 2, -1)
    first = _first_words(offsets, N, U)[:, None]

    def step(t, carry):
        scores, words, wrong = carry
        inside = (t < frames) & (column <= labels)
        index = jnp.where(inside, offsets[:, None] + t * stride[:, None] + column, rows)
        own = take(blank, index, -jnp.inf), take(label, index, -jnp.inf)
        *arcs, wrong_here = _legal(own[0], own[1], t, column, frames, labels)
        scores, taken = _frame(scores, arcs[0], arcs[1])
        place = first + t // FRAMES_PER_WORD * stride[:, None] + column
        bits = (taken & inside).astype(jnp.uint32) << (t % FRAMES_PER_WORD).astype(jnp.uint32)
        words = words.at[jnp.where(inside, place, count)].add(bits, mode="drop")
        return scores, words, wrong | wrong_here.any(-1)

    carry = from_pairs(before), jnp.zeros(count, jnp.uint32), ~valid
    carry = jax.tree.map(lambda x: vary_alike(x, blank)[0], carry)
    scores, words, wrong = lax.fori_loop(0, jnp.max(frames, initial=0), step, carry)
    scores = _marked(scores, wrong, jnp.where(valid, labels_lengths, -1))
    return to_pairs(scores), lax.bitcast_convert_type(words, jnp.int32)


def _trace(scores, words, frames_lengths, labels_lengths, first, stride, steps):
    """lattice_trace of N sequences whose words (W,) begin at `first` (N,).

    A step finds a label, or leaves a word: `steps` is the largest number of both.
    """
    N, U, _ = scores.shape
    count = words.shape[0]
    rows = -(-frames_lengths // FRAMES_PER_WORD)
    valid = (frames_lengths >= 1) & (labels_lengths >= 0) & (labels_lengths < U) & (first >= 0)
    valid &= rows <= (count - first) // jnp.maximum(stride, 1)
    sequence = positions(N, 1, -1)
    end = jnp.clip(labels_lengths, 0, U - 1)
    (bits,) = (scores,) if scores.dtype.kind == "u" else to_bits(scores)
    total = from_pairs(bits)
    total = value(Score(*(x[sequence, end] for x in total)))
    total = jnp.where(valid, total, jnp.nan)
    words = lax.bitcast_convert_type(words, jnp.uint32)

    def step(_, state):
        t, u, label_frames = state
        going = (t >= 0) & (u > 0)
        row = t // FRAMES_PER_WORD
        word = take(words, jnp.where(going, first + row * stride + u, count), 0)
        above = (FRAMES_PER_WORD - 1 - t % FRAMES_PER_WORD).astype(jnp.uint32)
        labels = word & (jnp.uint32(0xFFFFFFFF) >> above)
        found = going & (labels != 0)
        bit = FRAMES_PER_WORD - 1 - lax.clz(labels).astype(jnp.int32)
        t = jnp.where(found, row * FRAMES_PER_WORD + bit, row * FRAMES_PER_WORD - 1)
        place = jnp.where(found, u - 1, U)
        label_frames = label_frames.at[sequence, place].set(t, mode="drop")
        return jnp.where(going, t, -1), jnp.where(found, u - 1, u), label_frames

    t = jnp.where(valid & (total > -jnp.inf), frames_lengths - 1, -1)
    none = jnp.full((N, U), NO_FRAME, jnp.int32)
    state = tuple(vary_alike(x, total)[0] for x in (t, end, none))
    return total, lax.fori_loop(0, steps, step, state)[2]
