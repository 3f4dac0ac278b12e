"""Joints whose logits exist, in float64: what every option of a loss from a joint must give."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from joint_problems import ACTIVATIONS, Joint, Problem, Result
from support import precision

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def philox(counter, key, rounds=7) -> np.ndarray:
    """Philox4x32: counters (4, ...) and a key of two, as 64-bit integers below 2^32."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    counter, key = [np.asarray(x, np.uint64) for x in counter], [np.uint64(x) for x in key]
    for _ in range(rounds):
        first, second = counter[0] * MULTIPLIERS[0], counter[2] * MULTIPLIERS[1]
        counter = [
            (second >> half) ^ counter[1] ^ key[0],
            second & mask,
            (first >> half) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(k + by) & mask for k, by in zip(key, KEY_STEPS)]
    return np.stack(counter)


def dropout_mask(key, rate, N, T, U, H) -> np.ndarray:
    """(N, T, U, H): 0 where an activation is dropped, else one over the part that is not."""
    threshold = round(rate * 2**16)
    seed = np.asarray(jax.random.bits(key, (2,), jnp.uint32))
    places = np.meshgrid(*(np.arange(x) for x in (N, T, U, -(-H // 8))), indexing="ij")
    words = philox(places[::-1], seed)
    halves = [half for word in words for half in (word & np.uint64(0xFFFF), word >> np.uint64(16))]
    numbers = np.stack(halves, -1).reshape(N, T, U, -1)[..., :H]
    return np.where(numbers < threshold, 0, 2**16 / (2**16 - threshold))


def expected(
    problem: Problem,
    loss: Callable[[jax.Array], jax.Array],
    *,
    activation: str | None = "tanh",
    mask: np.ndarray | None = None,
    clamp: float | None = None,
    cotangents: np.ndarray | None = None,
) -> Result:
    """The costs and gradients of `loss`, a function of logits (N, T, U, W), K of them an encoder.

    A clamp is of the gradient of each cost by itself.
    """
    joint = Joint(*(None if x is None else np.asarray(x, np.float64) for x in problem.joint))
    function, derivative = ACTIVATIONS[activation]
    K = joint.predictor.shape[0] // joint.encoder.shape[0]
    encoder = np.repeat(joint.encoder, K, 0)
    sums = encoder[:, :, None] + joint.predictor[:, None]
    mask = np.ones_like(sums) if mask is None else mask
    hidden = function(sums) * mask
    with precision("float64"):
        logits = hidden @ joint.kernel + (0 if joint.bias is None else joint.bias)
        costs, vjp = jax.vjp(loss, jnp.asarray(logits))
        cotangents = np.ones(costs.shape) if cotangents is None else cotangents
        (of_logits,) = vjp(jnp.ones_like(costs))
    of_logits = np.asarray(of_logits)
    if clamp is not None:
        of_logits = np.clip(of_logits, -clamp, clamp)
    of_logits = of_logits * cotangents[:, None, None, None]
    back = (of_logits @ joint.kernel.T) * mask * derivative(sums)
    return Result(
        np.asarray(costs),
        Joint(
            back.sum(2).reshape(-1, K, *joint.encoder.shape[1:]).sum(1),
            back.sum(1),
            np.einsum("ntuh,ntuv->hv", hidden, of_logits),
            None if joint.bias is None else of_logits.sum((0, 1, 2)),
        ),
    )


@functools.cache
def compiled(loss: Callable, options: tuple) -> Callable:
    @jax.jit
    def run(problem, cotangents, traced):
        def costs(joint):
            return loss(*joint, *problem[1:], **dict(options), **traced)

        value, vjp = jax.vjp(costs, problem.joint)
        return value, *vjp(cotangents)

    return run


def evaluate(loss, problem, cotangents=None, traced=None, **options) -> Result:
    """A loss from a joint and its gradients; cotangents have the shape of its costs."""
    if cotangents is None:
        cotangents = np.ones(problem.labels_lengths.shape)
    dtype = np.float64 if problem.joint.encoder.dtype == np.float64 else np.float32
    run = compiled(loss, tuple(options.items()))
    costs, gradients = run(problem, np.asarray(cotangents, dtype), traced or {})
    return Result(np.asarray(costs), Joint(*gradients))
