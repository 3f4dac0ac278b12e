"""Beam search: the best label sequences, the alignments of each added up, frame by frame."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.search import arguments, trees
from jax_rnnt.search.beam_frame import UNROLLED, Frame, Rules
from jax_rnnt.search.hypotheses import NOTHING, Hypotheses, join, merged_scores, take
from jax_rnnt.search.scores import Model
from jax_rnnt.search.state import BeamState, Joint, PredictorStep
from jax_rnnt.search.trace_back import pointers, trace_back


class BeamResult(NamedTuple):
    """The hypotheses of N streams, best first: a pytree.

    Attributes:
        labels: (N, K, L) int32, all labels since the stream's start; zeros behind each one's own.
        label_frames: (N, K, L) int32, the frame of each label on the best of its alignments that
            was kept, counted from the stream's start.
        labels_lengths: (N, K) int32; 0 where there are fewer hypotheses than K.
        log_probs: (N, K) float32, nats: the logarithm of the sum of the alignments that were kept;
            -inf where there is no hypothesis, NaN where logits or a length made no sense.
        stable_lengths: (N,) int32, so many labels are the first of every hypothesis: whatever comes
            later, they stay.
        complete: (N,) booleans: false where a label found no room that would have been kept, or
            where logits or a length made no sense.
        state: the `BeamState` that the stream's next chunk begins with.
    """

    labels: jax.Array
    label_frames: jax.Array
    labels_lengths: jax.Array
    log_probs: jax.Array
    stable_lengths: jax.Array
    complete: jax.Array
    state: BeamState


def beam_search(
    encoder: Any,
    frames_lengths: ArrayLike,
    state: BeamState,
    predictor_step: PredictorStep,
    joint: Joint,
    *,
    blank: int = 0,
    rnnt_type: str = "regular",
    max_symbols: int = 2,
    durations: tuple[int, ...] | None = None,
    normalized: bool = False,
    length_penalty: ArrayLike = 0.0,
) -> BeamResult:
    r"""The K best label sequences that a transducer has for each utterance, its N-best list.

    .. math::
        log\_probs_{n,k} = \log \sum_{kept\ alignments} P(alignment \mid frames)

    All hypotheses are at the same frame. At each, alignments that write the same labels are added
    up, and the K best sequences are kept; so no sequence is there twice, and with every
    alignment kept `log_probs` would be minus the loss of the same `rnnt_type`. With durations an
    alignment ends as soon as its frames are passed, however far; the loss's ends there exactly.

    Args:
        encoder: (N, T, E), or a pytree of arrays (N, T, ...): a chunk of each stream.
        frames_lengths: (N,) integers in [0, T], the frames of each chunk.
        state: from `search_start` with `beam` and `max_labels`, or of the result for the chunk
            before. Wherever a stream is cut, results are the same, as in `greedy_search`.
        predictor_step: as in `greedy_search`, of N K hypotheses: from (state, labels), a pytree of
            arrays (N K, ...) and (N K,) int32, to (state, features). It is a function of the labels
            alone.
        joint: from one frame of the encoder (N, 1, E) and features (N, K, P), both pytrees, to
            logits (N, K, V), or (N, K, V + D) with durations.
        blank: index of the blank among the V symbols; negative counts from their end.
        rnnt_type: as in `greedy_search`. "modified" calls the joint once a frame, and adds up
            alignments before it cuts the beam; the others call it `max_symbols` + 1 times.
        max_symbols: so many labels at one frame at most, for "regular", with or without durations.
            A model of long frames and short pieces may write a whole word at one: fewer than
            `label_frames` of a greedy search show lose what that finds, without a word.
        durations: for a model of tokens and durations (TDT), those that `search_start` was given.
        normalized: whether the joint gives scores that are to be added up as they are, and no
            log-softmax is to be taken: log-probabilities with a language model's, say.
        length_penalty: p; the last ranking, and nothing before it, divides `log_probs` by
            (labels + 1)^p. May be traced.

    Returns:
        The hypotheses, and what is stable of them.

    Raises:
        TypeError: If lengths, blank or durations are no integers, the joint gives no floats, or
            the predictor's state changes its types.
        ValueError: If shapes do not fit, concrete lengths are out of range, or an option makes no
            sense.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> half = jnp.log(jnp.array([0.5, 0.3, 0.2]))  # the blank and two labels, at every frame
        >>> def predictor_step(state, labels):
        ...     return state, jnp.zeros((len(labels), 3))
        >>> def joint(encoder, features):
        ...     return encoder + features + half[None, None]
        >>> @jax.jit
        ... def search(encoder, frames_lengths):
        ...     state = jax_rnnt.search_start(
        ...         predictor_step, jnp.zeros((1, 0)), beam=3, max_labels=4)
        ...     return jax_rnnt.beam_search(
        ...         encoder, frames_lengths, state, predictor_step, joint, rnnt_type="modified")
        >>> result = search(jnp.zeros((1, 2, 3)), jnp.array([2]))
        >>> print(result.labels[0, :, 0], result.labels_lengths[0])
        [1 0 2] [1 0 1]
        >>> print(*(f"{p:.2f}" for p in jnp.exp(result.log_probs[0])))  # 2 * 0.5 * 0.3, 0.5^2, ...
        0.30 0.25 0.20

    See Graves (2012), arXiv:1211.3711; Saon et al. (2020), "Alignment-Length Synchronous Decoding
    for RNN Transducer"; Kim et al. (2020), "Accelerating RNN Transducer Inference via One-Step
    Constrained Beam Search", arXiv:2002.03577.
    """
    alphabet = arguments.check_alphabet(blank, durations, rnnt_type)
    max_symbols = _checks.at_least_one("max_symbols", max_symbols)
    normalized = _checks.flag("normalized", normalized)
    _check_state(state, alphabet.durations)
    encoder, lengths, sensible = arguments.check_encoder(
        encoder, frames_lengths, state.frames.shape[0]
    )
    model = Model(predictor_step, joint, alphabet, normalized)
    rules = Rules(
        model,
        max_symbols if rnnt_type == "regular" else 1,
        max_labels=state.labels.shape[-1],
    )
    frame = rules.one_symbol if rnnt_type == "modified" else rules.many_symbols
    unroll, unroll_back = _unroll(rules.symbols)
    loop, passed = _run(frame, encoder, lengths, sensible, state, rules.max_symbols, unroll)
    labels, label_frames = trace_back(
        join(list(loop.ahead)),
        passed,
        state.labels,
        state.label_frames,
        state.frames,
        unroll=unroll_back,
    )
    done = jnp.where(jnp.isnan(loop.total), loop.passed, lengths)
    after = BeamState(_roots(loop.ahead), labels, label_frames, loop.total, state.frames + done)
    return _result(after, ~loop.cut, length_penalty)


class _Loop(NamedTuple):
    """N beams between two frames: scores lack `total`; `cut` says that something is not there."""

    ahead: tuple[Hypotheses, ...]
    total: jax.Array
    passed: jax.Array
    cut: jax.Array


def _run(
    frame: Any,
    encoder: Any,
    lengths: jax.Array,
    sensible: jax.Array,
    state: BeamState,
    S: int,
    unroll: int,
) -> tuple[_Loop, jax.Array]:
    """All frames, and the pointers of the hypotheses at each."""

    def next_frame(loop: _Loop, t: jax.Array) -> tuple[_Loop, jax.Array]:
        here = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, t, 1), encoder)
        new: Frame = frame(here, t, list(loop.ahead))
        searches = (t < lengths) & ~jnp.isnan(loop.total)
        moves = searches & ~new.senseless
        best = jnp.max(jnp.stack([jnp.max(x.scores, 1) for x in new.ahead]), 0)
        best = jnp.where(jnp.isfinite(best), best, 0)
        ahead = tuple(x._replace(scores=x.scores - best[:, None]) for x in new.ahead)
        total = jnp.where(moves, loop.total + best, loop.total)
        after = _Loop(
            trees.where(moves, ahead, loop.ahead),
            jnp.where(searches & new.senseless, jnp.nan, total),
            loop.passed + moves.astype(jnp.int32),
            loop.cut | (searches & (new.senseless | new.refused)),
        )
        return after, pointers(loop.ahead[0])

    room = (*state.ahead[0].scores.shape, S)
    ahead = tuple(x._replace(here=jnp.full(room, NOTHING, jnp.int32)) for x in state.ahead)
    total = jnp.where(sensible, state.log_probs, jnp.nan)
    loop = _Loop(ahead, total, jnp.zeros_like(lengths), jnp.isnan(total))
    T = jax.tree.leaves(encoder)[0].shape[1]
    return lax.scan(
        next_frame,
        trees.vary_together(loop, encoder, lengths),
        jnp.arange(T, dtype=jnp.int32),
        unroll=min(unroll, T),
    )


def _unroll(symbols: int) -> tuple[int, int]:
    """Frames of one iteration: of the search, and of the way back. A GPU's are launched apart.

    A frame that is a loop itself is alone in its iteration: four of them take longer to compile.
    """
    if jax.default_backend() == "cpu":
        return 1, 1
    return 4 if symbols <= UNROLLED else 1, 8


def _roots(ahead: tuple[Hypotheses, ...]) -> tuple[Hypotheses, ...]:
    """The hypotheses with pointers to themselves, as a call begins with them."""
    N, K = ahead[0].scores.shape
    slots = jnp.arange(K, dtype=jnp.int32)
    return tuple(
        x._replace(
            frame=jnp.full_like(x.frame, NOTHING),
            slot=jnp.broadcast_to((r * K + slots)[None], (N, K)),
            here=x.here[..., :0],
        )
        for r, x in enumerate(ahead)
    )


def _result(state: BeamState, complete: jax.Array, length_penalty: ArrayLike) -> BeamResult:
    every = join(list(state.ahead))
    K = state.ahead[0].scores.shape[1]
    scores = merged_scores(every) if len(state.ahead) > 1 else every.scores
    log_probs = state.log_probs[:, None] + scores
    is_plain = isinstance(length_penalty, int | float) and length_penalty == 0
    power = _checks.number("length_penalty", length_penalty).astype(jnp.float32)
    ranks = scores if is_plain else log_probs / (every.lengths + 1).astype(jnp.float32) ** power
    _, order = lax.top_k(jnp.where(jnp.isnan(ranks), -jnp.inf, ranks), K)
    labels, frames, lengths, log_probs, live = take(
        (state.labels, state.label_frames, every.lengths, log_probs, scores > -jnp.inf),
        order.astype(jnp.int32),
    )
    return BeamResult(
        labels=jnp.where(live[..., None], labels, 0),
        label_frames=jnp.where(live[..., None], frames, 0),
        labels_lengths=jnp.where(live, lengths, 0),
        log_probs=log_probs,
        stable_lengths=_common_prefix(state.labels, every),
        complete=complete,
        state=state,
    )


def _common_prefix(labels: jax.Array, hypotheses: Hypotheses) -> jax.Array:
    """(N,), how many labels all that live begin with."""
    best = jnp.argmax(hypotheses.scores, 1).astype(jnp.int32)[:, None]
    first, length = take((labels, hypotheses.lengths), best)
    L = labels.shape[-1]
    inside = (
        jnp.arange(L, dtype=jnp.int32)[None, None]
        < jnp.minimum(length, hypotheses.lengths)[..., None]
    )
    same = (labels == first) & inside | ~hypotheses.live[..., None]
    common = jnp.all(same, 1) & inside[jnp.arange(len(best)), best[:, 0]]
    return jnp.sum(jnp.cumprod(common.astype(jnp.int32), 1), 1, dtype=jnp.int32)


def _check_state(state: Any, durations: tuple[int, ...] | None) -> None:
    if not isinstance(state, BeamState):
        raise TypeError(
            f"state must be a BeamState of search_start with beam, got {type(state).__name__}."
        )
    ahead = 1 if durations is None else int(np.max(durations))
    if len(state.ahead) != ahead:
        raise ValueError(
            f"search_start must be given the same durations: the state is for some of up to "
            f"{len(state.ahead)} frames, durations have {ahead}."
        )
