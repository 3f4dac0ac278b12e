"""Greedy search: the best symbol at every step, each utterance at a frame of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.search import arguments, trace
from jax_rnnt.search.greedy_steps import Search, run
from jax_rnnt.search.state import GreedyState, Joint, PredictorStep


class GreedyResult(NamedTuple):
    """What N greedy searches wrote in one call: a pytree.

    Attributes:
        labels: (N, L) int32, L = max_labels; zeros behind each utterance's own.
        label_frames: (N, L) int32, the frame of each label, counted from the stream's start.
        label_durations: (N, L) int32, the frames that each label passes; None without durations.
        label_log_probs: (N, L) float32, nats: the log-softmax of each label, durations included.
        label_measures: (N, L) float32, what `measure` gave at each label; None without it.
        labels_lengths: (N,) int32, how many labels each utterance has.
        complete: (N,) booleans: false where a label found no room, or where logits or a length made
            no sense. The labels before that stand.
        state: the `GreedyState` that the stream's next chunk begins with.
    """

    labels: jax.Array
    label_frames: jax.Array
    label_durations: jax.Array | None
    label_log_probs: jax.Array
    label_measures: jax.Array | None
    labels_lengths: jax.Array
    complete: jax.Array
    state: GreedyState


def greedy_search(
    encoder: Any,
    frames_lengths: ArrayLike,
    state: GreedyState,
    predictor_step: PredictorStep,
    joint: Joint,
    *,
    max_labels: int,
    blank: int = 0,
    rnnt_type: str = "regular",
    max_symbols: int = 10,
    durations: tuple[int, ...] | None = None,
    window: int | None = None,
    measure: Callable[[jax.Array], jax.Array] | None = None,
) -> GreedyResult:
    """The labels that a transducer finds when it takes the best symbol at every step.

    A blank moves to the next frame, a label is written and read by the predictor. Every utterance
    has a frame of its own: a step looks at `window` frames of each, passes the blanks, and writes
    at most one label. There are at most max_labels + ceil(T / window) steps, rounded up to the
    number of steps between two looks at whether all utterances have ended.

    The state that comes out goes in with the stream's next chunk. Wherever a stream is cut, its
    labels, their log-probabilities and the state are the same, to the bit where the joint and the
    predictor compute a row alike wherever it stands.

    Args:
        encoder: (N, T, E), or a pytree of arrays (N, T, ...): a chunk of each stream.
        frames_lengths: (N,) integers in [0, T], the frames of each chunk.
        state: from `search_start`, or of the result for the chunk before.
        predictor_step: from (state, labels), a pytree of arrays (N, ...) and (N,) int32, to (state,
            features), of which the latter are what the joint needs, a pytree of arrays (N, ...).
        joint: from the encoder's frames (N, W, E) and features (N, 1, P), both pytrees, to logits
            (N, W, V), or (N, W, V + D) with durations: axes of size 1 broadcast.
        max_labels: L, room for the labels of a call.
        blank: index of the blank among the V symbols; negative counts from their end.
        rnnt_type: what a label does, as in `rnnt_loss_from_logits`. "regular": it stays at its
            frame, at which further labels may follow. "modified": it moves to the next frame.
            "constrained": it stays, and the blank follows.
        max_symbols: after so many labels at one frame the blank is taken, whatever is better; for
            "regular", with or without durations.
        durations: for a model of tokens and durations (TDT), the frames of each of the D durations,
            as in `tdt_loss_from_logits`. A blank takes the best duration that is not 0.
        window: frames that a step looks at; by default 8, and 4 on a CPU. All find the same labels.
        measure: from log-probabilities (N, V) to a number (N,), to be kept with each label: a
            confidence, say, of which the label's log-probability knows nothing.

    Returns:
        The labels and what belongs to each. Where one finds no room, the search stands in front of
        it: `state.frames` says at which frame, and a call with the frames from there on goes on.
        NaN logits, and +inf, end their own utterance alone, for good; so does a traced length that
        makes no sense.

    Raises:
        TypeError: If lengths, blank or durations are no integers, the joint gives no floats, or
            the predictor's state changes its types.
        ValueError: If shapes do not fit, concrete lengths are out of range, or an option makes no
            sense.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jax_rnnt
        >>> read = 9 * jnp.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # after the blank 1, then 2
        >>> def predictor_step(state, labels):
        ...     return state, read[labels]
        >>> def joint(encoder, features):
        ...     return encoder + features
        >>> @jax.jit
        ... def search(encoder, frames_lengths):
        ...     state = jax_rnnt.search_start(predictor_step, jnp.zeros((1, 0)))
        ...     return jax_rnnt.greedy_search(
        ...         encoder, frames_lengths, state, predictor_step, joint, max_labels=4)
        >>> encoder = jnp.zeros((1, 5, 3)).at[:, 0, 0].set(10.0)  # at frame 0 rather the blank
        >>> result = search(encoder, jnp.array([5]))
        >>> print(result.labels, result.label_frames, result.labels_lengths, result.complete)
        [[1 2 0 0]] [[1 1 0 0]] [2] [ True]

    See Graves (2012), arXiv:1211.3711; Xu et al. (2023), arXiv:2304.06795; Galvez et al. (2024),
    arXiv:2406.03791.
    """
    alphabet = arguments.check_alphabet(blank, durations, rnnt_type)
    max_labels = _checks.at_least_one("max_labels", max_labels)
    max_symbols = _checks.at_least_one("max_symbols", max_symbols)
    if not isinstance(state, GreedyState):
        raise TypeError(f"state must be a GreedyState of search_start, got {type(state).__name__}.")
    encoder, lengths, sensible = arguments.check_encoder(
        encoder, frames_lengths, state.frames.shape[0]
    )
    search = Search(
        encoder,
        lengths,
        state.frames,
        predictor_step,
        joint,
        alphabet,
        max_labels=max_labels,
        max_symbols=1 if rnnt_type == "constrained" else max_symbols,
        label_duration=int(rnnt_type == "modified"),
        window=_window() if window is None else _checks.at_least_one("window", window),
        measure=measure,
    )
    done = run(search, search.start(state, sensible), _steps_per_look(search.most_steps))
    written = trace.gather(done.trace, search.columns, max_labels)
    return GreedyResult(
        labels=written["label"],
        label_frames=written["frame"],
        label_durations=written.get("duration"),
        label_log_probs=written["log_prob"],
        label_measures=written.get("measure"),
        labels_lengths=done.written,
        complete=~done.stopped,
        state=search.end(done),
    )


def _window() -> int:
    return 4 if jax.default_backend() == "cpu" else 8


def _steps_per_look(most_steps: int) -> int:
    """Steps after which to ask whether all is done.

    A GPU's host waits for the answer, which costs it as much as a fraction of a step. In a chunk of
    a stream, of a dozen steps, those in vain cost more.
    """
    if jax.default_backend() == "cpu":
        return 1
    return 4 if most_steps <= 64 else 8
