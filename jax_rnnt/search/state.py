"""What a search knows between two calls: where each utterance stands, and its predictor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_rnnt import _checks
from jax_rnnt.search import trees

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


def search_start(
    predictor_step: PredictorStep, predictor_state: Any, *, blank: int = 0
) -> GreedyState:
    """The state of N searches that have seen no frame and written no label.

    Args:
        predictor_step: as in `greedy_search`; it is called once, with the blank for a label.
        predictor_state: the predictor's state before that, a pytree of arrays (N, ...).
        blank: the label that the predictor reads first. V is not known here, so it may not count
            from the end.

    Returns:
        The state that a search begins with.

    Raises:
        TypeError: If blank is no integer, or the predictor's state changes its types.
        ValueError: If blank is negative, or the state's arrays have no first axis in common.

    Example:
        >>> import jax.numpy as jnp
        >>> import jax_rnnt
        >>> table = jnp.eye(4)  # a predictor that reads the last label alone
        >>> def predictor_step(state, labels):
        ...     return state, table[labels]
        >>> state = jax_rnnt.search_start(predictor_step, jnp.zeros((2, 0)))
        >>> print(state.features.shape, state.frames)
        (2, 4) [0 0]
    """
    first = _checks.index("blank", blank)
    if first < 0:
        raise ValueError(f"blank must not be negative here, where V is not known; got {blank}.")
    N = trees.batch_size("predictor_state", predictor_state)
    predictor_state = jax.tree.map(jnp.asarray, predictor_state)
    predictor, features = step_predictor(
        predictor_step, predictor_state, jnp.full(N, first, jnp.int32)
    )
    nothing = jnp.zeros(N, jnp.int32)
    state = GreedyState(predictor, features, nothing, nothing, jnp.zeros(N, jnp.float32), nothing)
    return trees.vary_together(state)


def step_predictor(predictor_step: PredictorStep, state: Any, labels: jax.Array) -> tuple[Any, Any]:
    """The caller's function, or TypeError: a loop's state has the same types in every step."""
    answer = predictor_step(state, labels)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(
            f"predictor_step must return (state, features), got {type(answer).__name__}."
        )
    trees.same_types("The state of predictor_step", answer[0], state)
    return answer
