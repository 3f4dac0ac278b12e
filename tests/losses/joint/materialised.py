"""Joints whose logits exist, in float64: what every option of a loss from a joint must give."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from joint_problems import ACTIVATIONS, Joint, Problem, Result
from support import precision


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
