"""What must come back from the calls of fuzz_cases, and how they are made.

A call answers as the oracle does in float64, or raises a ValueError or TypeError that names the
offending argument. The tolerances are those of tolerances.py, but for these rules, each for a
reason that no implementation in the input's precision escapes:

1. A log-probability below -6.9e36 counts as -inf (documented). An alignment whose arcs sum to less
   than that costs between as much and +inf; its gradients may be anything.
2. The arcs between rows and lattice are numbers of the accumulator's dtype. Rounding each moves
   the cost by eps times the sum of their magnitudes along an alignment, and all posteriors by as
   much of themselves. With E that sum, averaged over the alignments: costs are good to eps E more
   than their tolerance, and beyond E = 100 gradients, too. eps is 2^-23, for float64 2^-48 (the
   oracle's own error).
3. Log-probabilities above 2e6, which are none, may give anything, but only to their sequence.
4. Where rule 2 leaves nothing to compare, posteriors are still in [0, 1]: gradients are bounded.
5. fastemit_lambda of NaN or inf leaves costs and padding alone; gradients may be anything else.
6. Logits of a joint network are good to an eps of the sum of magnitudes that each is summed from,
   half dtypes' activations being rounded to the dtype; where that is more than 0.1 over a whole
   alignment, or overflows, values are not compared. Where the kernel has infinities, nothing is
   known of the gradients that go through it.
7. Gradients are rounded to the dtype of the input, below its normal numbers to 6e-8 in float16.
8. Where another path is about as good as the best, which of them it is may be anything.
"""

import collections
import dataclasses
import functools
import math
import re
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from fuzz_cases import ARCS, Case, Signature, arcs_cost, lattice_align
from fuzz_lattices import IMPOSSIBLE, Kind, Picks, Weights, align, best, of_rows
from support import HAS_NATIVE
from tolerances import TOLERANCES

import jax_rnnt

INT32_MAX = np.iinfo(np.int32).max


class Place(NamedTuple):
    """One sequence in the arrays."""

    n: tuple[int, ...]
    rows: Any  # index into arrays (..., T, U, ...), or slice of compact ones
    labels: np.ndarray
    frames: int
    columns: int

    def take(self, array: np.ndarray, trailing: int) -> np.ndarray:
        found = array[self.rows]
        return found.reshape(self.frames, self.columns, *found.shape[found.ndim - trailing :])


@dataclasses.dataclass
class Answer:
    """Results, one entry a sequence; expected ones also say how near an answer must be."""

    costs: np.ndarray
    gradients: dict[str, np.ndarray]
    spread: np.ndarray | None = None  # E of rule 2
    blind: np.ndarray | None = None  # sequences of whose posteriors the oracle knows nothing
    at_least: np.ndarray | None = None  # sequences whose cost is only bounded below (rule 1)
    unknown: np.ndarray | None = None  # rule 3, rule 6
    owners: dict[str, np.ndarray] | None = None  # of gradients' entries; -1: padding
    scale: float = 1.0


# ---- What is expected


def sequences(signature: Signature, values: dict[str, np.ndarray]) -> list[Place | None]:
    """Where each sequence is, None if its lengths or labels make no sense."""
    if signature.function.compact:
        return _packed(signature, values)
    found: list[Place | None] = []
    for n in np.ndindex(*signature.batch):
        frames = int(values["frames_lengths"][n])
        emitted = int(values["labels_lengths"][n])
        valid = 1 <= frames <= signature.T and 0 <= emitted < signature.U
        labels = values["labels"][n][:emitted] if valid and "labels" in values else np.zeros(0)
        valid &= all(0 <= int(x) < signature.V for x in labels)
        rows = (*n, slice(frames), slice(emitted + 1))
        found.append(Place(n, rows, labels.astype(int), frames, emitted + 1) if valid else None)
    return found


def _packed(signature, values):
    """Places in the compact layout; a sequence without room leaves none to those behind it."""
    found: list[Place | None] = []
    S, L = signature.rows_count, signature.labels_count
    bound = dict(signature.options).get("max_labels")
    row = label = 0
    for n in range(signature.batch[0]):
        frames, emitted = int(values["frames_lengths"][n]), int(values["labels_lengths"][n])
        frames, emitted = min(frames, INT32_MAX), min(emitted, INT32_MAX)
        count = frames * (emitted + 1) if frames >= 1 and emitted >= 0 else 0
        labels = np.zeros(0)
        valid = frames >= 1 and emitted >= 0 and row + count <= S
        valid &= bound is None or emitted <= bound
        if "labels" in values:
            valid &= label + emitted <= L
            labels = values["labels"][label : label + max(emitted, 0)]
            valid &= all(0 <= int(x) < signature.V for x in labels)
            label = min(label + max(emitted, 0), L + 1)
        rows = slice(row, row + count)
        row = min(row + count, S + 1)
        place = Place((n,), rows, labels.astype(int), frames, emitted + 1)
        found.append(place if valid else None)
    return found


@np.errstate(all="ignore")
def expected(case: Case, values: dict[str, np.ndarray]) -> Answer:
    """The answer to the case's call, of these values."""
    signature = case.signature
    call = signature.function.call
    if signature.function.is_pick:
        return _expected_pick(case, values)
    floats = {name: np.asarray(values[name], np.float64) for name in signature.function.rows}
    joint = _Joint(signature, values) if call is jax_rnnt.rnnt_loss_from_joint else None
    options = dict(signature.options)
    emission = float(case.options.get("fastemit_lambda", 0.0))
    batch = signature.batch
    costs = np.full(batch, np.nan)
    gradients = {name: np.zeros(x.shape) for name, x in floats.items()}
    owners = {name: np.full(x.shape, -1) for name, x in floats.items()}
    rows = "logits" if joint else signature.function.rows[0]
    if joint:
        floats["logits"], gradients["logits"] = joint.logits, np.zeros(joint.logits.shape)
    spread, blind = np.zeros(batch), np.zeros(batch, bool)
    at_least, unknown = np.zeros(batch, bool), np.zeros(batch, bool)
    weights = np.asarray(1.0 if case.cotangents is None else case.cotangents, np.float64)
    if options.get("reduction") == "mean":
        weights = weights / max(math.prod(batch), 1)
    weights = np.broadcast_to(weights, batch)
    places = sequences(signature, values)
    for index, place in enumerate(places):
        if place is None:
            continue
        n = place.n
        weight = weights[n] / (place.frames if options.get("average_frames") else 1)
        if signature.function.is_lattice:
            names = {"blank_log_probs": (1, 0), "label_log_probs": (0, 1)}
            names = ARCS if call is arcs_cost else names
            arcs = {arc: place.take(floats[name], 0) for name, arc in names.items()}
            arcs = {arc: Weights(x, np.abs(x)) for arc, x in arcs.items()}
            found = best(arcs) if call is lattice_align else align(arcs, options.get("last"))
            by_name = {name: -found.posteriors[arc] for name, arc in names.items()}
        else:
            biases = [_bias(place, floats.get(name)) for name in ("blank_bias", "label_bias")]
            found, by_rows, derivatives = of_rows(
                _kind(signature),
                place.take(floats[rows], 1),
                place.labels,
                options["blank"] % signature.V,
                Picks(*biases, np.zeros(len(signature.durations))),
                emission if math.isfinite(emission) else 0.0,
            )
            by_name = {
                rows: by_rows,
                "blank_bias": derivatives.blank,
                "label_bias": derivatives.label,
            }
        for name, derivative in by_name.items():
            if name == "blank_bias" and name in gradients:
                own = gradients[name]
                total = derivative.sum() if own.ndim == 1 else derivative.sum(1, keepdims=True)
                own[: np.size(total)] += weight * total
            elif name in gradients:
                part = gradients[name][place.rows]
                gradients[name][place.rows] = (weight * derivative).reshape(part.shape)
        costs[n] = found.cost / (place.frames if options.get("average_frames") else 1)
        spread[n], blind[n] = found.spread, found.blind
        at_least[n], unknown[n] = found.at_least, found.unknown
        for name, owner in owners.items():
            if name in SHARED:
                owner[...] = 0
            elif name not in ("encoder", "predictor"):
                owner[place.rows] = index
        if joint:
            spread[n] += joint.spread(place)
            unknown[n] |= joint.overflows(place)
            owners["encoder"][(*n, slice(place.frames))] = index
            owners["predictor"][(*n, slice(place.columns))] = index
    if joint:
        gradients |= joint.gradients(gradients.pop("logits"), places)
    scale = float(np.abs(weights).max(initial=0)) * (1 + abs(emission))
    return Answer(costs, gradients, spread, blind, at_least, unknown, owners, scale)


# What all sequences share, so that its gradient is a sum over them.
SHARED = ("kernel", "bias", "blank_bias")


def _kind(signature: Signature) -> Kind:
    options = dict(signature.options)
    named = ("normalize", "rnnt_type", "durations", "sigma", "omega")
    own = {name: options[name] for name in named if name in options}
    return Kind(from_logits=signature.function.takes_logits, **own)


def _bias(place: Place, bias: np.ndarray | None) -> np.ndarray:
    """(frames, columns) of a bias of all cells, or of one that broadcasts."""
    if bias is None or bias.shape == (1,):
        return np.full((place.frames, place.columns), 0.0 if bias is None else bias[0])
    if bias.ndim == 2 and bias.shape[1] == 1 and not isinstance(place.rows, slice):
        return np.repeat(bias[: place.frames], place.columns, 1)
    return place.take(bias, 0)


class _Joint:
    """The joint's logits and gradients by NumPy."""

    def __init__(self, signature: Signature, values: dict[str, np.ndarray]):
        self.signature = signature
        function, self.derivative = {
            "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
            "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
            None: (lambda z: z, np.ones_like),
        }[dict(signature.options)["activation"]]
        wide = {name: values[name].astype(np.float64) for name in signature.function.rows}
        self.kernel = wide["kernel"]
        self.sums = wide["encoder"][..., None, :] + wide["predictor"][..., None, :, :]
        exact = function(self.sums)
        # As the matrix product has them: rounded, and overflown where they do.
        self.hidden = exact.astype(jnp.dtype(signature.dtype)).astype(np.float64)
        self.logits = self.hidden @ self.kernel + wide["bias"]
        products = np.abs(self.hidden)[..., None] * np.abs(self.kernel)
        products = np.where(np.isfinite(products), products, 0)
        finite_bias = np.where(np.isfinite(wide["bias"]), np.abs(wide["bias"]), 0)
        self.magnitude = (products.sum(-2) + finite_bias).max(-1)
        self.inputs = np.abs(np.where(np.isfinite(self.sums), self.sums, 0)).max(-1)

    def spread(self, place: Place) -> float:
        """How rounding the logits moves the cost of an alignment, in units of rule 2's eps."""
        eps = {"float16": 2**-10, "bfloat16": 2**-7}.get(self.signature.dtype)
        eps = 1.0 if eps is None else eps * 2**23
        steps = place.frames + place.columns
        return 2 * eps * steps * float(self.magnitude[place.rows].max())

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
        back = np.where(inside[..., None], (dense @ kernel.T) * self.derivative(self.sums), 0)
        leading = tuple(range(dense.ndim - 1))
        return {
            "encoder": back.sum(-2),
            "predictor": back.sum(-3),
            "kernel": np.tensordot(hidden, dense, (leading, leading)),
            "bias": dense.sum(leading),
        }


def _expected_pick(case, values):
    logits = values["logits"].astype(np.float64)
    labels = values["labels"].astype(np.int64)
    V, blank = case.signature.V, case.options["blank"]
    log_probs = oracle.log_softmax(logits)
    read = (labels >= -1) & (labels < V)
    labelled = read & (labels >= 0)
    senseless = read & ~(logits < np.inf).all(-1)
    impossible = (logits == -np.inf).all(-1)
    index = np.where(labelled, labels, 0)[..., None]
    own = np.take_along_axis(log_probs, index, -1)[..., 0]
    arcs = [log_probs[..., blank], own]
    arcs = [np.where(senseless, np.nan, np.where(read, x, -np.inf)) for x in arcs]
    arcs[1] = np.where(labelled, arcs[1], -np.inf)
    gradients = np.zeros(logits.shape)
    if case.cotangents is not None:
        cotangents = [np.asarray(c, np.float64) for c in case.cotangents]
        cotangents[1] = np.where(labelled, cotangents[1], 0)
        gradients[..., blank] += cotangents[0]
        np.add.at(gradients, (*np.indices(labels.shape), index[..., 0]), cotangents[1])
        gradients -= np.exp(log_probs) * (cotangents[0] + cotangents[1])[..., None]
        gradients[~read | senseless | impossible] = 0
    costs = np.stack(arcs, -1)
    # The difference of the largest number and the lowest is not one of the accumulator's.
    costs = costs.astype(case.signature.accumulator).astype(np.float64)
    batch = labels.shape
    owners = np.where(read, 0, -1)[..., None] + np.zeros(logits.shape[-1], int)
    scale = 0.0
    if case.cotangents is not None:
        scale = max(float(np.abs(c).max(initial=0)) for c in case.cotangents)
    no = np.zeros(batch, bool)
    return Answer(
        costs, {"logits": gradients}, np.zeros(batch), no, no, no, {"logits": owners}, scale
    )


# ---- Calls


def implementations(signature: Signature) -> list[str | None]:
    return [x for x in signature.function.implementations if x != "native" or HAS_NATIVE]


def answers(case: Case, values: dict[str, np.ndarray] | None = None) -> dict[str | None, Answer]:
    """Answers by implementation, without a GPU's habit of rounding products below their dtype."""
    found = {}
    with jax.default_matmul_precision("highest"):
        for implementation in implementations(case.signature):
            if case.jitted:
                found[implementation] = _jitted(case, values or case.values, implementation)
            else:
                found[implementation] = _eager(case, implementation)
    return found


def _jitted(case, values, implementation):
    options = {k: case.options[k] for k in ("fastemit_lambda",) if k in case.options}
    if case.signature.function.implementations != (None,):
        results = _compiled(case.signature, implementation)(values, case.cotangents, options)
    else:
        results = _compiled(case.signature, None)(values, case.cotangents, options)
    costs, gradients = jax.tree.map(np.asarray, results)
    if isinstance(costs, tuple):
        costs = np.stack(costs, -1)
    return Answer(costs, gradients)


@functools.cache
def _compiled(signature: Signature, implementation: str | None):
    @jax.jit
    def run(values, cotangents, traced):
        options = {**dict(signature.options), **traced}
        if implementation is not None:
            options["implementation"] = implementation
        rows = {name: values[name] for name in signature.function.rows}
        results, vjp = jax.vjp(
            lambda rows: signature.function.call(**{**values, **rows}, **options), rows
        )
        return results, *vjp(cotangents)

    return run


def _eager(case, implementation):
    signature, options = case.signature, dict(case.options)
    if signature.function.implementations != (None,):
        options["implementation"] = implementation
    function = signature.function
    gradients: dict[str, Any] = {}
    if case.cotangents is None:
        results = function.call(**case.arguments, **options)
    else:
        rows = {name: jnp.asarray(case.arguments[name]) for name in function.rows}
        results, vjp = jax.vjp(
            lambda rows: function.call(**{**case.arguments, **rows}, **options), rows
        )
        (gradients,) = vjp(jax.tree.map(jnp.asarray, case.cotangents))
    costs = np.stack(results, -1) if isinstance(results, tuple) else np.asarray(results)
    return Answer(costs, {name: np.asarray(g) for name, g in gradients.items()})


# ---- Verdicts


class Verdict(NamedTuple):
    outcome: str
    findings: list[str]


def judge(case: Case) -> Verdict:
    """Makes the case's call and says how it ended."""
    with jax.enable_x64(case.signature.x64), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.offending:
            return _judge_error(case)
        return _judge_answer(case)


def _judge_error(case: Case) -> Verdict:
    try:
        if case.jitted:
            traced = {k: v for k, v in case.arguments.items() if _traceable(v)}
            rest = {k: v for k, v in case.arguments.items() if k not in traced}
            function = case.signature.function.call
            jax.eval_shape(lambda given: function(**given, **rest, **case.options), traced)
        else:
            case.signature.function.call(**case.arguments, **case.options)
    except (ValueError, TypeError) as error:
        text = str(error)
        if not any(re.search(rf"(?<![\w.]){name}(?!\w)", text) for name in case.offending):
            return Verdict("finding", [f"names none of {sorted(case.offending)}: {error!r}"[:600]])
        return Verdict("TypeError" if isinstance(error, TypeError) else "ValueError", [])
    except Exception as error:
        return Verdict("finding", [f"neither ValueError nor TypeError: {error!r}"[:600]])
    return Verdict("finding", [f"no error, though {sorted(case.offending)} made no sense"])


def _traceable(value: Any) -> bool:
    if isinstance(value, jax.Array):
        return True
    is_array = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
    return is_array and value.dtype.isnative and value.dtype.kind in "biufc" and value.itemsize <= 8


def _judge_answer(case: Case) -> Verdict:
    assert case.values is not None
    try:
        actual = answers(case)
        others = answers(case, case.neighbours) if case.neighbours else {}
    except Exception as error:
        return Verdict("finding", [f"a legal call raised {error!r}"[:600]])
    wanted = expected(case, case.values)
    findings = []
    for implementation, answer in actual.items():
        found = _compare(case, answer, wanted)
        if implementation in others:
            found += _disturbed(case, answer, others[implementation])
        findings += [f"{implementation or 'no choice'}: {x}" for x in found]
    return Verdict(
        "finding" if findings else _outcome(wanted, case.signature.accumulator), findings
    )


def _outcome(wanted: Answer, accumulator: np.dtype) -> str:
    costs = wanted.costs.reshape(-1)
    if costs.size == 0:
        return "answer: no sequences"
    assert wanted.unknown is not None
    kinds = collections.Counter()
    kinds["NaN"] = int(np.isnan(costs).any())
    kinds["inf"] = int(np.isinf(costs).any())
    kinds["bounds only"] = int(wanted.unknown.any() or (_slack_of(wanted, accumulator) > 0.1).any())
    named = [name for name, count in kinds.items() if count]
    finite = ["finite"] if np.isfinite(costs).any() else []
    return "answer: " + ", ".join(finite + named)


def _slack_of(wanted: Answer, accumulator) -> np.ndarray:
    """eps E of rule 2, one number a sequence."""
    assert wanted.spread is not None
    eps = 2.0**-23 if accumulator == np.float32 else 2.0**-48
    return eps * wanted.spread


def _compare(case: Case, actual: Answer, wanted: Answer) -> list[str]:
    signature = case.signature
    accumulator = signature.accumulator
    findings = []
    if actual.costs.dtype != accumulator:
        findings.append(f"costs are {actual.costs.dtype}, not {accumulator}")
    findings += _compare_costs(case, actual.costs.astype(np.float64), wanted)
    for name, gradient in actual.gradients.items():
        if gradient.dtype != jnp.dtype(signature.dtype):
            findings.append(f"the gradient of {name} is {gradient.dtype}")
        if gradient.shape != wanted.gradients[name].shape:
            findings.append(f"the gradient of {name} has shape {gradient.shape}")
            continue
        findings += _compare_gradient(case, name, gradient.astype(np.float64), wanted)
    return findings


def _compare_costs(case, actual, wanted):
    tolerance = TOLERANCES[np.dtype(case.signature.accumulator).name]
    reduction = case.options.get("reduction")
    slack = _slack_of(wanted, case.signature.accumulator)
    costs, unknown, at_least = wanted.costs, wanted.unknown, wanted.at_least
    relative = tolerance.cost
    if case.signature.function.call is jax_rnnt.rnnt_loss_from_joint:
        relative *= 2
    with np.errstate(all="ignore"):
        room = relative * np.abs(costs)
        if costs.shape != slack.shape:  # of a pick, two a row
            slack = slack[..., None]
            unknown, at_least = unknown[..., None], at_least[..., None]
        room = room + tolerance.cost_floor + slack
        if reduction in ("sum", "mean"):
            if unknown.any() or at_least.any():
                return []
            parts = max(costs.size, 1) if reduction == "mean" else 1
            room, costs = np.nansum(np.where(np.isinf(costs), 0, room)) / parts, costs.sum()
            if reduction == "mean":
                costs = costs / (parts if wanted.costs.size else 0.0)
            if np.abs(costs) > np.finfo(np.float32).max:
                return []
        if actual.shape != costs.shape:
            return [f"costs have shape {actual.shape}, not {costs.shape}"]
        same = (actual == costs) | (np.isnan(actual) & np.isnan(costs))
        near = np.isfinite(actual) & np.isfinite(costs) & (np.abs(actual - costs) <= room)
        if reduction not in ("sum", "mean"):
            bound = -0.98 * IMPOSSIBLE
            if case.options.get("average_frames"):
                bound = bound / np.maximum(case.values["frames_lengths"].astype(np.float64), 1)
            same = same | unknown | (at_least & (actual >= bound))
    wrong = ~(same | near)
    if not wrong.any():
        return []
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return [f"cost{list(first)} is {actual[first]!r}, not {costs[first]!r}"]


def _compare_gradient(case, name, actual, wanted):
    signature = case.signature
    tolerance = TOLERANCES[signature.dtype]
    owner, expected_gradient = wanted.owners[name], wanted.gradients[name]
    findings = []
    padding = owner < 0
    if actual[padding].any():  # NaN is true
        findings.append(f"padding of {name} has a gradient")
    if not np.isfinite(float(case.options.get("fastemit_lambda", 0.0))):
        return findings
    slack = _slack_of(wanted, signature.accumulator).reshape(-1)
    free = wanted.unknown.reshape(-1) | wanted.at_least.reshape(-1)
    joint = signature.function.call is jax_rnnt.rnnt_loss_from_joint
    threshold = 100 * (2.0**-23 if signature.accumulator == np.float32 else 2.0**-48)
    slack = np.where(slack > threshold, slack, 0)
    slack = np.where(wanted.blind.reshape(-1), np.inf, slack)
    if joint:
        return findings + _compare_joint(case, name, actual, wanted, slack, free)
    scale = wanted.scale
    if signature.function.is_pick:
        of_sequence, is_free = np.zeros(owner.shape), np.zeros(owner.shape, bool)
    elif name in SHARED:
        of_sequence = np.full(owner.shape, slack.max(initial=0))
        is_free = np.full(owner.shape, free.any())
        scale *= signature.rows_count
    else:
        of_sequence = slack[np.maximum(owner, 0)] if slack.size else np.zeros(owner.shape)
        is_free = free[np.maximum(owner, 0)] if slack.size else np.zeros(owner.shape, bool)
        none = ~np.isfinite(wanted.costs.reshape(-1)) & ~free
        if none.size and actual[none[np.maximum(owner, 0)] & ~padding].any():
            findings.append(f"{name} of a sequence without a finite cost has a gradient")
    # So many arcs take part of a row, whose posteriors are at most 1 each. The label arc from the
    # column before has this row's blank in "constrained".
    most_arcs = 3 if case.options.get("rnnt_type") == "constrained" else 2
    room = (tolerance.gradient + of_sequence) * np.abs(expected_gradient)
    room = room + (tolerance.gradient_floor + of_sequence) * scale
    room = room + float(jnp.finfo(signature.dtype).smallest_subnormal)  # rule 7
    with np.errstate(all="ignore"):
        # Rule 4.
        wrong = ~(np.abs(actual - expected_gradient) <= room) & ~is_free & (of_sequence <= 0.1)
        wrong |= ~(np.abs(actual) <= (most_arcs + 0.01) * scale) & ~is_free
    return findings + _first_wrong(f"gradient of {name}", wrong, actual, expected_gradient)


# As in test_joint.py, norm over norm; half dtypes' are rounding alone.
_JOINT_ERRORS = {"float64": 2e-12, "float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}


def _compare_joint(case, name, actual, wanted, slack, free):
    owner = wanted.owners[name]
    shared = name in SHARED
    worst = float(slack.max(initial=0))
    if not (shared or np.isfinite(case.values["kernel"].astype(np.float64)).all()):
        return []
    if shared and (free.any() or worst > 0.1):
        return []
    if not shared and slack.size:
        free, slack = free[np.maximum(owner, 0)], slack[np.maximum(owner, 0)]
        compared = ~free & (slack <= 0.1)
    else:
        slack, compared = worst, np.ones(owner.shape, bool)
    values, signature = case.values, case.signature
    hidden = 1.0
    if dict(signature.options)["activation"] != "tanh":
        hidden = _finite_max(values["encoder"]) + _finite_max(values["predictor"])
    largest = {"bias": 1.0, "blank_bias": 1.0, "label_bias": 1.0, "kernel": hidden}
    largest = largest.get(name, _finite_max(values["kernel"]))
    cells = signature.T * signature.U * (math.prod(signature.batch) if shared else 1)
    error = _JOINT_ERRORS[signature.dtype]
    weight = 2 * wanted.scale * largest * math.sqrt(cells)
    expected_gradient = wanted.gradients[name]
    with np.errstate(all="ignore"):
        room = error * np.abs(expected_gradient) + (error + slack) * weight + 5e-7
        wrong = ~(np.abs(actual - expected_gradient) <= room) & compared
        wrong &= np.abs(expected_gradient) < 0.5 * float(jnp.finfo(signature.dtype).max)
    return _first_wrong(f"gradient of {name}", wrong, actual, expected_gradient)


def _finite_max(x):
    x = np.asarray(x, np.float64)
    return float(np.abs(x[np.isfinite(x)]).max(initial=0))


def _first_wrong(what, wrong, actual, wanted):
    if not wrong.any():
        return []
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return [
        f"{what} at {list(first)} is {actual[first]!r}, not {wanted[first]!r} ({wrong.sum()} such)"
    ]


def _disturbed(case: Case, actual: Answer, other: Answer) -> list[str]:
    """Whether a change of one sequence shows in another: nothing may but the sign of a zero."""
    kept = np.arange(case.signature.batch[0]) != case.changed
    reduced = case.options.get("reduction") in ("sum", "mean")
    pairs = {} if reduced else {"costs": (actual.costs, other.costs)}
    pairs |= {name: (g, other.gradients[name]) for name, g in actual.gradients.items()}
    return [
        f"{name} of other sequences than {case.changed} changed with it"
        for name, (a, b) in pairs.items()
        if not np.array_equal(*(x[kept].astype(np.float64) for x in (a, b)), equal_nan=True)
    ]
