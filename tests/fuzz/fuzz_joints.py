"""The answers of a joint network, whose logits exist, and how near others must come to them."""

import math

import jax.numpy as jnp
import numpy as np
from fuzz_lattices import Kind
from fuzz_places import SHARED, Answer, Place, first_wrong
from fuzz_signatures import Signature
from fuzz_values import Case
from philox import dropout_mask


def _sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


# Each with its derivative.
_ACTIVATIONS = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    None: (lambda z: z, np.ones_like),
}


def kind_of(signature: Signature) -> Kind:
    """The loss of a signature whose rows are not arcs."""
    options = dict(signature.options)
    named = ("normalize", "rnnt_type", "durations", "sigma", "omega")
    own = {name: options[name] for name in named if name in options}
    return Kind(from_logits=signature.function.takes_logits, **own)


class Joint:
    """The joint's logits and gradients by NumPy."""

    def __init__(self, case: Case, values: dict[str, np.ndarray]):
        self.signature = signature = case.signature
        options = dict(signature.options)
        function, self.derivative = _ACTIVATIONS[options["activation"]]
        self.limit = options["clamp"]
        wide = {name: values[name].astype(np.float64) for name in signature.function.rows}
        self.kernel = wide["kernel"]
        encoder = wide["encoder"][..., None, :, :] if signature.K else wide["encoder"]
        self.sums = encoder[..., None, :] + wide["predictor"][..., None, :, :]
        self.mask = np.ones(self.sums.shape)
        if signature.drops:
            *_, T, U, H = self.sums.shape
            rate, N = options["dropout_rate"], math.prod(signature.sequences)
            mask = dropout_mask(case.options["dropout_key"], rate, N, T, U, H)
            self.mask = mask.reshape(self.sums.shape)
        exact = self._where_kept(function(self.sums))
        # As the matrix product has them: rounded, and overflown where they do.
        self.hidden = exact.astype(jnp.dtype(signature.dtype)).astype(np.float64)
        self.logits = self.hidden @ self.kernel + wide["bias"]
        products = np.abs(self.hidden)[..., None] * np.abs(self.kernel)
        products = np.where(np.isfinite(products), products, 0)
        finite_bias = np.where(np.isfinite(wide["bias"]), np.abs(wide["bias"]), 0)
        self.magnitude = (products.sum(-2) + finite_bias).max(-1)
        self.inputs = np.abs(np.where(np.isfinite(self.sums), self.sums, 0)).max(-1)

    def _where_kept(self, x: np.ndarray) -> np.ndarray:
        return np.where(self.mask == 0, 0, x * self.mask)

    def clamp(self, dense: np.ndarray) -> np.ndarray:
        """The gradient of a cost with respect to logits, clamped."""
        return dense if self.limit is None else np.clip(dense, -self.limit, self.limit)

    def spread(self, place: Place) -> float:
        """How rounding the logits moves the cost of an alignment, in units of rule 2's eps."""
        eps = {"float16": 2**-10, "bfloat16": 2**-7}.get(self.signature.dtype)
        eps = 1.0 if eps is None else eps * 2**23
        steps = place.frames + place.columns
        return kind_of(self.signature).reach * eps * steps * float(self.magnitude[place.rows].max())

    def overflows(self, place: Place) -> bool:
        largest = max(self.magnitude[place.rows].max(), self.inputs[place.rows].max())
        return bool(largest > 1e36) or not np.isfinite(largest)

    def gradients(self, dense, places) -> dict[str, np.ndarray]:
        inside = np.zeros(dense.shape[:-1], bool)
        for place in places:
            if place is not None:
                inside[place.rows] = True
        inside &= (dense != 0).any(-1)
        hidden = np.where(inside[..., None], self.hidden, 0)
        kernel = np.where(np.isfinite(self.kernel), self.kernel, 0)
        back = self._where_kept((dense @ kernel.T) * self.derivative(self.sums))
        back = np.where(inside[..., None], back, 0)
        encoder = back.sum(-2)
        leading = tuple(range(dense.ndim - 1))
        return {
            "encoder": encoder.sum(-3) if self.signature.K else encoder,
            "predictor": back.sum(-3),
            "kernel": np.tensordot(hidden, dense, (leading, leading)),
            "bias": dense.sum(leading),
        }


# As in test_joint_values.py, norm over norm; half dtypes' are rounding alone.
_ERRORS = {"float64": 2e-12, "float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}


def compare(
    case: Case,
    name: str,
    actual: np.ndarray,
    wanted: Answer,
    slack: np.ndarray,
    free: np.ndarray,
) -> list[str]:
    """What is wrong with a gradient.

    Args:
        slack: eps E of each sequence.
        free: sequences whose gradients may be anything.
    """
    signature, values = case.signature, case.values
    assert values is not None
    assert wanted.owners is not None
    owner, shared = wanted.owners[name], name in SHARED
    if not (shared or np.isfinite(values["kernel"].astype(np.float64)).all()):
        return []
    if signature.K and name == "encoder":  # of all its hypotheses
        each = (-1, signature.K)
        slack = np.repeat(slack.reshape(each).max(-1, initial=0), signature.K)
        free = np.repeat(free.reshape(each).any(-1), signature.K)
    if shared or not slack.size:
        slack, free = (np.full(owner.shape, x.max(initial=0)) for x in (slack, free))
    else:
        slack, free = slack[np.maximum(owner, 0)], free[np.maximum(owner, 0)]
    largest, cells = _largest(case, name), signature.T * signature.U
    cells *= math.prod(signature.sequences) if shared else 1
    cells *= signature.K if name == "encoder" and signature.K else 1
    error = _ERRORS[signature.dtype]
    weight = kind_of(signature).reach * wanted.scale * largest * math.sqrt(cells)
    gradient = wanted.gradients[name]
    with np.errstate(all="ignore"):
        room = error * np.abs(gradient) + (error + slack) * weight + 5e-7
        wrong = ~(np.abs(actual - gradient) <= room) & (slack <= 0.1)
        wrong &= np.abs(gradient) < 0.5 * float(jnp.finfo(signature.dtype).max)
        bound = _bound(case, name, wanted, largest, cells)
        wrong |= ~(np.abs(actual) <= bound) & (bound < 0.5 * float(jnp.finfo(signature.dtype).max))
    return first_wrong(f"gradient of {name}", wrong & ~free, actual, gradient)


def _largest(case: Case, name: str) -> float:
    """What the logits' gradients are multiplied by, at most, in a sum that is this gradient."""
    values, options = case.values, dict(case.signature.options)
    assert values is not None
    kept = 1 / (1 - options["dropout_rate"])
    if name == "kernel":
        if options["activation"] in ("tanh", "sigmoid"):
            return kept
        return kept * (_finite_max(values["encoder"]) + _finite_max(values["predictor"]))
    return kept * _finite_max(values["kernel"]) if name in ("encoder", "predictor") else 1.0


def _bound(case, name, wanted, largest, cells):
    """Rule 9: what a clamp lets through."""
    signature = case.signature
    limit = dict(signature.options)["clamp"]
    if limit is None or name.endswith("_bias"):
        return np.inf
    entries = signature.shapes()["bias"][0] if name in ("encoder", "predictor") else 1
    emission = 1 + abs(float(case.options.get("fastemit_lambda", 0.0)))
    weight = wanted.scale / emission
    return 1.01 * limit * weight * largest * entries * cells + 5e-7


def _finite_max(x):
    x = np.asarray(x, np.float64)
    return float(np.abs(x[np.isfinite(x)]).max(initial=0))
