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
9. Where rule 6 leaves nothing to compare, gradients are within what a clamp lets through.
10. Arcs of a best path are rounded to 2^-30 nats each (documented).
"""

import collections
import functools
import re
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fuzz_expected import expected
from fuzz_functions import lattice_align
from fuzz_joints import compare
from fuzz_lattices import IMPOSSIBLE
from fuzz_places import SHARED, Answer, first_wrong
from fuzz_signatures import Signature
from fuzz_values import TRACED, Case
from support import HAS_NATIVE
from tolerances import TOLERANCES

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
    options = {k: case.options[k] for k in TRACED if k in case.options}
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
    if case.signature.function.is_joint:
        relative *= 2
    with np.errstate(all="ignore"):
        room = relative * np.abs(costs)
        if case.signature.function.call is lattice_align:  # rule 10
            room = room + (case.signature.T + case.signature.U) * 2.0**-31
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
                frames = case.values["frames_lengths"].astype(np.float64)
                frames = frames[..., None] if case.signature.K else frames
                bound = bound / np.maximum(frames, 1)
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
    threshold = 100 * (2.0**-23 if signature.accumulator == np.float32 else 2.0**-48)
    slack = np.where(slack > threshold, slack, 0)
    slack = np.where(wanted.blind.reshape(-1), np.inf, slack)
    if signature.function.is_joint:
        return findings + compare(case, name, actual, wanted, slack, free)
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
    return findings + first_wrong(f"gradient of {name}", wrong, actual, expected_gradient)


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
