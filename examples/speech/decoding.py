"""The package's searches on the network, and what they ask of it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_rnnt

from .model import Transducer
from .programs import jit

if TYPE_CHECKING:
    from .evaluate import Recognizer


# Labels that a frame may write. At frames of 80 ms and short pieces a model writes whole words at
# once: a beam whose frames write fewer loses what greedy search finds.
MOST_PER_FRAME = 10
ROOM_PER_FRAME = 4  # labels for each frame of an utterance that a search has room for


class Found(NamedTuple):
    """What a search wrote: arrays (N, L) and (N,)."""

    labels: jax.Array
    label_frames: jax.Array
    labels_lengths: jax.Array
    log_probs: jax.Array


def predictor_step(model: Transducer) -> Callable[[Any, jax.Array], tuple[Any, jax.Array]]:
    """The function that a search takes: its features are projected to the joint's size."""

    def step(state: Any, labels: jax.Array) -> tuple[Any, jax.Array]:
        state, features = model.predictor_step(state, labels)
        return state, model.joint.project_predictor(features)

    return step


def search(model: Transducer, audio: jax.Array, samples_lengths: jax.Array, beam: int) -> Found:
    """Greedy search for a beam of 1, which costs the least, and beam search for more."""
    encoder, lengths = model.encode(audio, samples_lengths)
    projected, durations = model.joint.project_encoder(encoder), model.joint.durations
    step, joint = predictor_step(model), model.joint.from_projected
    start, room = model.predictor_start(len(audio)), ROOM_PER_FRAME * encoder.shape[1]
    options: dict[str, Any] = {"max_symbols": MOST_PER_FRAME, "durations": durations}
    if beam == 1:
        state = jax_rnnt.search_start(step, start)
        found = jax_rnnt.greedy_search(
            projected, lengths, state, step, joint, max_labels=room, **options
        )
        return Found(found.labels, found.label_frames, found.labels_lengths, found.state.log_probs)
    state = jax_rnnt.search_start(step, start, beam=beam, max_labels=room, durations=durations)
    best = jax_rnnt.beam_search(projected, lengths, state, step, joint, **options)
    return Found(
        *(x[:, 0] for x in (best.labels, best.label_frames, best.labels_lengths, best.log_probs))
    )


def joint_calls(recognizer: "Recognizer", audios: Sequence[np.ndarray]) -> float:
    """How often greedy search asks the joint in a second of audio, one frame and utterance a call.

    That is once for each label and for each frame, but for those that a duration passes.
    """
    calls = 0

    def count(is_within: jax.Array) -> None:
        nonlocal calls
        calls += int(is_within)

    @jit
    def run(model: Transducer, encoder: jax.Array, lengths: jax.Array) -> jax.Array:
        def counted(frames: tuple[jax.Array, jax.Array], features: jax.Array) -> jax.Array:
            projected, is_within = frames
            jax.debug.callback(count, is_within[0, 0])
            return model.joint.from_projected(projected, features)

        T, step = encoder.shape[1], predictor_step(model)
        # Steps in vain, until a search notices that all is done, look behind the last frame.
        is_within = jnp.arange(T)[None] < lengths[:, None]
        return jax_rnnt.greedy_search(
            (model.joint.project_encoder(encoder), is_within),
            lengths,
            jax_rnnt.search_start(step, model.predictor_start(1)),
            step,
            counted,
            max_labels=ROOM_PER_FRAME * T,
            max_symbols=MOST_PER_FRAME,
            durations=model.joint.durations,
            window=1,
        ).labels_lengths

    if not audios:  # one of several processes, whose rows are all padding
        return 0.0
    graph, params = nnx.split(recognizer.model)
    model = nnx.merge(graph, jax.tree.map(lambda x: x.addressable_data(0), params))
    encoder, lengths = recognizer.encode(audios)
    behind = np.pad(encoder, ((0, 0), (0, 1), (0, 0)))  # there is a frame behind the last
    for n in range(len(audios)):
        run(model, behind[n : n + 1], lengths[n : n + 1]).block_until_ready()
    jax.effects_barrier()
    seconds = sum(map(len, audios)) / recognizer.settings.sample_rate
    return calls / max(seconds, 1e-6)
