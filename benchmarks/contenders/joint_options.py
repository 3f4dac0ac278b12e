"""The losses from a joint with their options, for `benchmarks.joint`.

Each is a function of (encoder (N, T, H), predictor (N, U, H), kernel (H, V + D), bias (V + D,),
labels, frames_lengths, labels_lengths) to costs (N,) or, of K hypotheses, (N / K, K).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

import jax_rnnt
from benchmarks.contenders.joint_paths import OPTION_WAYS

DURATIONS = (0, 1, 2, 3, 4)
HYPOTHESES = 4
RATE = 0.2


class Way(NamedTuple):
    """A loss, and how many columns more than V its kernel has."""

    loss: Callable
    durations: int = 0


def _dropout(*arguments):
    key = jax.random.key(0)
    return jax_rnnt.rnnt_loss_from_joint(*arguments, dropout_rate=RATE, dropout_key=key)


def _hypotheses(encoder, predictor, kernel, bias, labels, frames_lengths, labels_lengths):
    """Of N sequences those that have the encoder of every K-th."""
    K = HYPOTHESES
    predictor, labels, labels_lengths = (
        x.reshape(-1, K, *x.shape[1:]) for x in (predictor, labels, labels_lengths)
    )
    lengths = labels, frames_lengths[::K], labels_lengths
    return jax_rnnt.rnnt_loss_from_joint(encoder[::K], predictor, kernel, bias, *lengths)


_LOSSES = (
    Way(jax_rnnt.rnnt_loss_from_joint),
    Way(functools.partial(jax_rnnt.tdt_loss_from_joint, durations=DURATIONS), len(DURATIONS)),
    Way(functools.partial(jax_rnnt.rnnt_loss_from_joint, normalize="hat")),
    Way(_dropout),
    Way(functools.partial(jax_rnnt.rnnt_loss_from_joint, clamp=0.1)),
    Way(_hypotheses),
)
WAYS = dict(zip(OPTION_WAYS, _LOSSES, strict=True))
