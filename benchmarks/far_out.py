"""Costs and gradients where numbers are far out: `python -m benchmarks.far_out`.

Each case (far_cases.py) goes through every public loss that takes it, and its cost and gradient are
set beside the oracle's (tests/oracle.py) of the very numbers that the loss is given, float32 ones.
The oracle keeps logarithms of whole prefixes, in longdouble: 64 bits of mantissa are 1e-11 nats of
a cost of 1e8, where float64 would be off by 1e-8 a step. What the oracle itself loses shows in its
posteriors: the report's first line says how far they are from summing to one.

`--beside FILE` puts the figures of an earlier run, of another device say, into the same table.
"""

import argparse
import functools
import json
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from benchmarks.measuring import devices
from benchmarks.printing.markdown import grid, versions
from benchmarks.printing.results import write
from benchmarks.problems.far_cases import CASES, JOINT, LATTICE, LOG_PROBS, LOGITS, Case, Rows

# Last on the path: the oracle alone is from there.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))

import oracle

NATIVE, REFERENCE = "native", "reference"


class Answer(NamedTuple):
    """Of a loss, or of the oracle: gradients with respect to each float argument."""

    cost: Any
    gradients: tuple[np.ndarray, ...]
    # Of those with respect to arcs: what should sum to one for each frame, and for each label.
    sums: tuple[np.ndarray, np.ndarray] | None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    device = jax.devices()[0]
    results = {
        "device": devices.name(device),
        "versions": {"jax_rnnt": jax_rnnt.__version__, "jax": jax.__version__},
        "mantissa_bits_of_the_truth": np.finfo(np.longdouble).nmant + 1,
        "rows": [],
    }
    for case in CASES:
        if options.only in case.name:
            start = time.perf_counter()
            results["rows"] += measure(case, case.size)
            seconds = time.perf_counter() - start
            print(f"{case.name} {case.size}: {seconds:.1f} s", file=sys.stderr, flush=True)
            if options.json:
                write(options.json, results)
    others = [json.loads(pathlib.Path(file).read_text()) for file in options.beside]
    print(markdown([*others, results]))


def measure(case: Case, size: tuple[int, int]) -> Iterator[dict]:
    """The figures of each implementation of each loss."""
    rows = make(case, size)
    for loss in case.losses:
        inputs = inputs_of(loss, rows)
        truth = truth_of(loss, inputs, rows.labels, case.fastemit_lambda)
        symbols = rows.logits if rows.encoder is None else rows.encoder
        common = {"case": case.name, "T": size[0], "U": size[1], "V": symbols.shape[-1]}
        for implementation in implementations(loss, case):
            actual = evaluate(loss, implementation, inputs, rows.labels, case.fastemit_lambda)
            name = f"{loss}, {implementation}" if implementation else loss
            yield common | {"implementation": name} | errors(actual, truth)
        del truth


def make(case: Case, size: tuple[int, int]) -> Rows:
    return case.make(np.random.default_rng(zlib.crc32(case.name.encode())), *size)


def implementations(loss: str, case: Case) -> tuple[str | None, ...]:
    if loss in (LOG_PROBS, JOINT):
        return (None,)  # the kernels that there are
    return (NATIVE, REFERENCE) if case.has_reference else (NATIVE,)


def inputs_of(loss: str, rows: Rows) -> tuple[np.ndarray, ...]:
    """The float arguments of a loss, rounded to float32."""
    if loss == JOINT:
        assert rows.encoder is not None
        assert rows.predictor is not None
        identity = np.eye(rows.encoder.shape[1], dtype=np.float32)
        return _float32(rows.encoder, rows.predictor, identity, np.zeros(len(identity)))
    assert rows.logits is not None
    (logits,) = _float32(rows.logits)
    if loss == LOGITS:
        return (logits,)
    (log_probs,) = _float32(oracle.log_softmax(logits.astype(np.longdouble)))
    return _arcs(log_probs, rows.labels) if loss == LATTICE else (log_probs,)


def _float32(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(array.astype(np.float32) for array in arrays)


def _arcs(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The blank's and the row's own label's entries of (T, U, V), none of the last column's."""
    label = np.zeros_like(x[..., 0])
    label[:, :-1] = x[:, np.arange(len(labels)), labels]
    return x[..., 0], label


def truth_of(loss: str, inputs: tuple, labels: np.ndarray, fastemit_lambda: float) -> Answer:
    wide = [np.asarray(x, np.longdouble) for x in inputs]
    if loss == LATTICE:
        label = wide[1].copy()
        label[:, -1] = -np.inf
        cost, posteriors = oracle.alpha_beta(oracle.Arcs(wide[0], label))
        gradients = tuple(-x for x in posteriors)
        return Answer(cost, gradients, _sums(*gradients))
    rows = wide[0][:, None] + wide[1] if loss == JOINT else wide[0]
    T, U, _ = rows.shape
    lengths = np.array([T]), np.array([U - 1])
    costs, (gradient,) = oracle.loss(
        rows[None],
        labels[None],
        *lengths,
        from_logits=loss != LOG_PROBS,
        fastemit_lambda=fastemit_lambda,
    )
    if loss != JOINT:
        return _with_sums(loss, costs[0], (gradient,), labels, fastemit_lambda)
    # The kernel is the identity, there is no activation.
    kernel = np.tensordot(rows, gradient, ((0, 1), (0, 1)))
    return Answer(costs[0], (gradient.sum(1), gradient.sum(0), kernel, gradient.sum((0, 1))), None)


def evaluate(
    loss: str,
    implementation: str | None,
    inputs: tuple,
    labels: np.ndarray,
    fastemit_lambda: float = 0.0,
) -> Answer:
    cost, gradients = _compiled(loss, implementation)(inputs, labels, fastemit_lambda)
    return _with_sums(
        loss, float(cost), tuple(np.asarray(x) for x in gradients), labels, fastemit_lambda
    )


@functools.cache
def _compiled(loss: str, implementation: str | None) -> Callable:
    function = getattr(jax_rnnt, loss)
    options: dict = {"implementation": implementation} if implementation else {}
    if loss == JOINT:
        options["activation"] = None

    @jax.jit
    def run(inputs, labels, fastemit_lambda):
        def cost(inputs):
            if loss == LATTICE:
                T, U = inputs[0].shape
                return function(*inputs, T, U - 1, **options)
            T, U = inputs[0].shape[0], labels.shape[0] + 1
            keywords = options | {"fastemit_lambda": fastemit_lambda}
            return function(*inputs, labels, T, U - 1, **keywords)

        return jax.value_and_grad(cost)(inputs)

    def call(*arguments):
        with jax.default_matmul_precision("highest"):  # a GPU's products are of tf32 by default
            return run(*jax.tree.map(jnp.asarray, arguments))

    return call


def _with_sums(loss: str, cost, gradients: tuple, labels: np.ndarray, fastemit_lambda) -> Answer:
    sums = None
    if loss == LATTICE:
        sums = _sums(*gradients)
    elif loss == LOG_PROBS:
        blank, label = _arcs(gradients[0], labels)
        sums = _sums(blank, label / gradients[0].dtype.type(1 + fastemit_lambda))
    return Answer(cost, gradients, sums)


def _sums(blank: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = np.promote_types(blank.dtype, np.float64)
    return -blank.sum(1, dtype=wide), -label[:, :-1].sum(0, dtype=wide)


def violation(sums: tuple[np.ndarray, np.ndarray]) -> float:
    return float(max(np.abs(x - 1).max(initial=0) for x in sums))


def errors(actual: Answer, truth: Answer) -> dict:
    """`gradient`: norm of the difference over the truth's norm, the worst of the arguments."""
    possible = bool(np.isfinite(truth.cost))
    same = float(truth.cost) == float(actual.cost)  # infinite, too
    answer = {
        "cost": float(truth.cost),
        "cost_error": 0.0 if same else float(abs(actual.cost - truth.cost)),
        "gradient_norm": float(np.sqrt(sum((x * x).sum() for x in truth.gradients))),
        "gradient_error": 0.0,
        "largest": 0.0,
    }
    for gradient, expected in zip(actual.gradients, truth.gradients, strict=True):
        difference = gradient - expected
        norm = np.linalg.norm(expected.astype(np.float64))
        error = np.linalg.norm(difference.astype(np.float64))
        relative = float(error / norm) if norm else float(error)
        answer["gradient_error"] = max(answer["gradient_error"], relative)
        answer["largest"] = max(answer["largest"], float(np.abs(difference).max(initial=0)))
    if actual.sums and truth.sums and possible:
        answer["sums"] = violation(actual.sums)
        answer["sums_of_the_truth"] = violation(truth.sums)
    return answer


def markdown(runs: Sequence[dict]) -> str:
    """One line for each case and loss, the figures of each run side by side."""
    truths = [row.get("sums_of_the_truth", 0) for run in runs for row in run["rows"]]
    lines = [
        f"- truth: {runs[-1]['mantissa_bits_of_the_truth']} bits of mantissa, posteriors that "
        f"sum to one within {max(truths, default=0):.1e}",
    ]
    columns = ["case", "(T, U, V)", "loss", "cost, nats", "norm of the gradient"]
    table_rows: dict[tuple, list] = {}
    for i, run in enumerate(runs, 1):
        lines.append(f"- {i}: {run['device']}, float32; {versions(run['versions'])}")
        columns += [f"{i}: {name}" for name in ("cost", "gradient", "largest", "sums")]
        for row in run["rows"]:
            key = tuple(row[name] for name in ("case", "T", "U", "V", "implementation"))
            case, T, U, V, loss = key
            figures = _figure(row["cost"], ".6g"), _figure(row["gradient_norm"])
            line = table_rows.setdefault(key, [case, f"({T}, {U}, {V})", loss, *figures])
            line += [""] * (len(columns) - 4 - len(line))
            line += [_figure(_relative(row))]
            line += [_figure(row.get(name)) for name in ("gradient_error", "largest", "sums")]
    for line in table_rows.values():
        line += [""] * (len(columns) - len(line))
    return "\n".join(lines) + "\n\n" + grid(columns, table_rows.values())


def _relative(row: dict) -> float:
    """Error of the cost; absolute where the cost is below one nat."""
    return row["cost_error"] / max(abs(row["cost"]), 1) if row["cost_error"] else 0.0


def _figure(value: float | None, form: str = ".1e") -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:{form}}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.far_out", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="where the figures go as well")
    parser.add_argument("--beside", nargs="+", default=[], metavar="FILE", help="of other runs")
    parser.add_argument("--only", default="", metavar="NAME", help="cases whose names have this")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
