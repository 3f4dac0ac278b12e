"""Joint networks and the answers that their loss must give: materialised logits in float64."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import full, ragged
from tolerances import relative_error

import jax_rnnt

IMPLEMENTATIONS = [None, "reference"]
needs_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs several devices")
# Norm over norm, of each of the four gradients. Half dtypes: the tiles' logits and activations are
# rounded, as a materialised joint's are.
GRADIENT_ERRORS = {"float64": 2e-12, "float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
COST_ERRORS = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 1e-2}


class Joint(NamedTuple):
    """The operands, or their gradients."""

    encoder: np.ndarray
    predictor: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray | None


class Problem(NamedTuple):
    """Everything that rnnt_loss_from_joint takes."""

    joint: Joint
    labels: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray


class Result(NamedTuple):
    costs: np.ndarray
    gradients: Joint


def make_problem(rng, N, T, U, H, V, make=ragged, dtype="float32") -> Problem:
    lattice = make(rng, (N,), T, U, V)

    def normal(*shape):
        return rng.standard_normal(shape).astype(jnp.dtype(dtype))

    joint = Joint(normal(N, T, H), normal(N, U, H), normal(H, V), normal(V))
    return Problem(joint, *lattice[1:])


def confident(rng, N, T, U, H, V, strength=4.0) -> Problem:
    """Alignments near one path: units count frames up and labels down, so blank wins below it."""
    problem = make_problem(rng, N, T, U, H, V, make=full)
    place = np.arange(T)[:, None] / T - 0.5
    column = np.arange(U)[:, None] / (U - 1) - 0.5
    encoder = np.array(np.broadcast_to(-place * 16, (N, T, H)), np.float32)
    predictor = np.array(np.broadcast_to(column * 16, (N, U, H)), np.float32)
    encoder += 0.01 * rng.standard_normal(encoder.shape)
    kernel = np.full((H, V), -strength / H, np.float32)
    kernel[:, 0] = strength / H
    kernel += 0.01 * rng.standard_normal(kernel.shape)
    return problem._replace(joint=Joint(encoder, predictor, kernel, np.zeros(V, np.float32)))


_TANH_OF = {
    "gelu": lambda z: np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)),
    "silu": lambda z: np.tanh(z / 2),
}
# Each with its derivative.
ACTIVATIONS = {
    None: (lambda z: z, np.ones_like),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "silu": (
        lambda z: z * (1 + _TANH_OF["silu"](z)) / 2,
        lambda z: (1 + _TANH_OF["silu"](z)) / 2 + z * (1 - _TANH_OF["silu"](z) ** 2) / 4,
    ),
    "gelu": (
        lambda z: z * (1 + _TANH_OF["gelu"](z)) / 2,
        lambda z: (
            (1 + _TANH_OF["gelu"](z)) / 2
            + z
            * (1 - _TANH_OF["gelu"](z) ** 2)
            * math.sqrt(2 / math.pi)
            * (1 + 3 * 0.044715 * z**2)
            / 2
        ),
    ),
    jnp.sin: (np.sin, np.cos),
}


def expected(problem: Problem, activation="tanh", rounded=np.float64, **options) -> Result:
    """By materialised logits in float64 and the chain rule; `rounded`: what activations are in."""
    joint = Joint(*(None if x is None else np.asarray(x, np.float64) for x in problem.joint))
    function, derivative = ACTIVATIONS[activation]
    sums = joint.encoder[:, :, None] + joint.predictor[:, None]
    hidden = function(sums).astype(rounded).astype(np.float64)
    bias = np.zeros(joint.kernel.shape[1]) if joint.bias is None else joint.bias
    costs, logits = oracle.loss(
        hidden @ joint.kernel + bias, *problem[1:], from_logits=True, **options
    )
    back = (logits @ joint.kernel.T) * derivative(sums)
    return Result(
        costs,
        Joint(
            back.sum(2),
            back.sum(1),
            np.einsum("ntuh,ntuv->hv", hidden, logits),
            None if joint.bias is None else logits.sum((0, 1, 2)),
        ),
    )


@functools.cache
def compiled(options: tuple):
    """Costs and the gradients of their sum weighted by cotangents, jitted."""

    @jax.jit
    def run(problem, cotangents, traced):
        def costs(joint):
            return jax_rnnt.rnnt_loss_from_joint(*joint, *problem[1:], **dict(options), **traced)

        value, vjp = jax.vjp(costs, problem.joint)
        return value, *vjp(cotangents)

    return run


def evaluate(problem: Problem, cotangents=None, traced=None, **options) -> Result:
    if cotangents is None:
        cotangents = np.ones(problem.frames_lengths.shape)
    wide = problem.joint.encoder.dtype == np.float64
    cotangents = np.asarray(cotangents, np.float64 if wide else np.float32)
    costs, gradients = compiled(tuple(options.items()))(problem, cotangents, traced or {})
    return Result(np.asarray(costs), Joint(*gradients))


def assert_close(actual: Result, wanted: Result, dtype="float32") -> None:
    np.testing.assert_allclose(
        np.asarray(actual.costs, np.float64), wanted.costs, rtol=COST_ERRORS[dtype]
    )
    for name, gradient, other in zip(Joint._fields, actual.gradients, wanted.gradients):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            assert gradient.dtype == dtype, name
            assert relative_error(gradient, other) < GRADIENT_ERRORS[dtype], name


def joint_cost(encoder, predictor, kernel, bias, *rest):
    return jax_rnnt.rnnt_loss_from_joint(encoder, predictor, kernel, bias, *rest, tile=(2, 2, 3))


def flat(problem: Problem) -> list:
    return [*problem.joint, *problem[1:]]


def value_and_gradients(*arguments, cost=joint_cost):
    costs, vjp = jax.vjp(lambda *joint: cost(*joint, *arguments[4:]), *arguments[:4])
    return costs, vjp(jnp.ones_like(costs))
