"""What a search knows between two calls: where each utterance stands, and its predictor."""

from collections.abc import Callable
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp

from jax_rnnt import _checks
from jax_rnnt.search import trees
from jax_rnnt.search.hypotheses import NOTHING, Hypotheses

PredictorStep = Callable[[Any, jax.Array], tuple[Any, Any]]
Joint = Callable[[Any, Any], jax.Array]


class GreedyState(NamedTuple):
    """N greedy searches, each anywhere in a stream of its own: a pytree of arrays (N, ...).

    Attributes:
        predictor: the predictor's state after the labels so far.
        features: what the predictor gave with that state, for the joint.
        labels_here: (N,) int32, labels written at the frame that comes next.
        skip: (N,) int32, frames still to come that a duration has passed already.
        log_probs: (N,) float32, nats of the stream's path so far; NaN where a search has ended
            because logits or a length made no sense.
        frames: (N,) int32, frames of the stream that are done.
    """

    predictor: Any
    features: Any
    labels_here: jax.Array
    skip: jax.Array
    log_probs: jax.Array
    frames: jax.Array


class BeamState(NamedTuple):
    """N beams of K hypotheses, each beam anywhere in a stream of its own: a pytree.

    Attributes:
        ahead: the `Hypotheses` (N, K, ...) that stand at the frame that comes next; with durations,
            those 1, 2, ... frames ahead of it, too.
        labels: (N, R K, L) int32, what each of these has written, R being their number.
        label_frames: (N, R K, L) int32, the frame of each label, counted from the stream's start.
        log_probs: (N,) float32, nats, which all scores of `ahead` lack; NaN where a search has
            ended because logits or a length made no sense.
        frames: (N,) int32, frames of the stream that are done.
    """

    ahead: tuple[Hypotheses, ...]
    labels: jax.Array
    label_frames: jax.Array
    log_probs: jax.Array
    frames: jax.Array


@overload
def search_start(
    predictor_step: PredictorStep,
    predictor_state: Any,
    *,
    blank: int = 0,
    beam: None = None,
    max_labels: None = None,
    durations: None = None,
) -> GreedyState: ...


@overload
def search_start(
    predictor_step: PredictorStep,
    predictor_state: Any,
    *,
    blank: int = 0,
    beam: int,
    max_labels: int,
    durations: tuple[int, ...] | None = None,
) -> BeamState: ...


def search_start(
    predictor_step: PredictorStep,
    predictor_state: Any,
    *,
    blank: int = 0,
    beam: int | None = None,
    max_labels: int | None = None,
    durations: tuple[int, ...] | None = None,
) -> GreedyState | BeamState:
    """The state of N searches that have seen no frame and written no label.

    Args:
        predictor_step: as in `greedy_search`; it is called once, with the blank for a label.
        predictor_state: the predictor's state before that, a pytree of arrays (N, ...).
        blank: the label that the predictor reads first. V is not known here, so it may not count
            from the end.
        beam: K, the hypotheses of each utterance that `beam_search` keeps; None for
            `greedy_search`, which takes neither of what follows here.
        max_labels: L, room for all labels of a hypothesis, however many calls they come from.
        durations: those of `beam_search`, as hypotheses may be so many frames ahead.

    Returns:
        The state that a search begins with.

    Raises:
        TypeError: If a number is no integer, or the predictor's state changes its types.
        ValueError: If a number makes no sense or is missing, or the state's arrays have no first
            axis in common.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> table = jnp.eye(4)  # a predictor that reads the last label alone
        >>> def predictor_step(state, labels):
        ...     return state, table[labels]
        >>> state = jax_rnnt.search_start(predictor_step, jnp.zeros((2, 0)))
        >>> print(state.features.shape, state.frames)
        (2, 4) [0 0]
        >>> state = jax_rnnt.search_start(predictor_step, jnp.zeros((2, 0)), beam=3, max_labels=9)
        >>> print(state.ahead[0].features.shape, state.labels.shape)
        (2, 3, 4) (2, 3, 9)
    """
    first = _checks.index("blank", blank)
    if first < 0:
        raise ValueError(f"blank must not be negative here, where V is not known; got {blank}.")
    if beam is None and not (max_labels is None and durations is None):
        raise ValueError("max_labels and durations are for a beam: greedy_search takes its own.")
    N = trees.batch_size("predictor_state", predictor_state)
    predictor_state = jax.tree.map(jnp.asarray, predictor_state)
    predictor, features = step_predictor(
        predictor_step, predictor_state, jnp.full(N, first, jnp.int32)
    )
    nothing, certain = jnp.zeros(N, jnp.int32), jnp.zeros(N, jnp.float32)
    if beam is None:
        state = GreedyState(predictor, features, nothing, nothing, certain, nothing)
        return trees.vary_together(state)
    K = _checks.at_least_one("beam", beam)
    if max_labels is None:
        raise ValueError("max_labels must be given with beam: the room for each hypothesis.")
    L = _checks.at_least_one("max_labels", max_labels)
    R = 1 if durations is None else max(_checks.durations("durations", durations))
    labels = jnp.zeros((N, R * K, L), jnp.int32)
    ahead = tuple(_no_labels(predictor, features, K, r) for r in range(R))
    return trees.vary_together(BeamState(ahead, labels, labels, certain, nothing))


def _no_labels(predictor: Any, features: Any, K: int, frames_ahead: int) -> Hypotheses:
    """The hypothesis without labels, first among K; where it is ahead of its frame, it is not."""
    predictor, features = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], K, *x.shape[1:])),
        (predictor, features),
    )
    N = jax.tree.leaves((predictor, features))[0].shape[0]
    slots = jnp.arange(K, dtype=jnp.int32)
    scores = jnp.where((slots == 0) & (frames_ahead == 0), jnp.float32(0), -jnp.inf)
    nothing = jnp.zeros((N, K), jnp.int32)
    return Hypotheses(
        predictor=predictor,
        features=features,
        scores=jnp.broadcast_to(scores[None], (N, K)),
        keys=jnp.zeros((N, K, 2), jnp.uint32),
        parents=jnp.zeros((N, K, 2), jnp.uint32),
        last=jnp.full((N, K), NOTHING, jnp.int32),
        lengths=nothing,
        frame=jnp.full((N, K), NOTHING, jnp.int32),
        slot=jnp.broadcast_to((frames_ahead * K + slots)[None], (N, K)),
        here=jnp.zeros((N, K, 0), jnp.int32),
    )


def step_predictor(predictor_step: PredictorStep, state: Any, labels: jax.Array) -> tuple[Any, Any]:
    """The caller's function, or TypeError: a loop's state has the same types in every step."""
    answer = predictor_step(state, labels)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"predictor_step must return (state, features), got {type(answer).__name__}."
        )
    trees.same_types("The state of predictor_step", answer[0], state)
    return answer
