"""The tables of `benchmarks.speech`, one function for each of its parts."""

from collections.abc import Iterable, Sequence

from benchmarks.contenders.speech_ways import RECIPE
from benchmarks.measuring.scopes import OTHER, UNMAPPED
from benchmarks.printing.markdown import grid, number, versions

JOINT, OTHERS = "joint_loss", ("features", "encoder", "predictor", "optimizer", OTHER)
MOST_SHARE = 0.2  # that the joint, the loss and their gradients should take


def step(results: dict) -> str:
    """The step of each bucket by its parts, and all of them weighed by their batches."""
    columns = (
        *("loss from", "N, seconds, labels", "batches", "step, ms", "on the device, ms"),
        *("joint and loss, ms", *(f"{name}, ms" for name in OTHERS), UNMAPPED),
        *("share of joint and loss", "with gaps"),
        *("temporary, MiB", "arguments, MiB", "compiled, s"),
    )
    lines = []
    for way, rows in results["step"].items():
        name = "joint" if way == RECIPE else "materialised logits"
        lines += [_step_line(name, row, results) for row in rows]
        if measured := [row for row in rows if row.get("busy_ms")]:
            lines.append(_step_line(name, _weighed(measured), results))
    notes = (
        "Times of parts are of their kernels, forward and backward, without CUDA graphs; on a CPU, "
        "sums over its threads. With gaps, the time in which nothing runs counts to what comes "
        "after it. The weights are a new model's. Materialised logits have no dropout in the joint."
    )
    return "\n\n".join(["\n## The step", grid(columns, lines), notes, _verdict(results)])


def _step_line(name: str, row: dict, results: dict) -> tuple:
    busy = row.get("busy_ms") or {}
    total = sum(busy.values())
    shape = row.get("name") or _shape(row, results)
    return (
        *(name, shape, row["batches"], row.get("error") or number(row.get("step_ms"))),
        *(number(total or None), number(busy.get(JOINT))),
        *(number(busy.get(other)) for other in OTHERS),
        _percent(busy.get(UNMAPPED, 0) / total if total else None),
        _percent(share(row, "busy_ms")),
        _percent(share(row, "elapsed_ms")),
        *(number(row.get(key)) for key in ("temporary_mib", "arguments_mib", "compile_s")),
    )


def share(row: dict, kind: str, scope: str = JOINT) -> float | None:
    """The share that a scope takes; None where most of what ran is of no known scope."""
    times = row.get(kind) or {}
    total = sum(times.values())
    if not total or times.get(UNMAPPED, 0) > total / 2:
        return None
    return times.get(scope, 0.0) / total


def _weighed(rows: Sequence[dict]) -> dict:
    """The mean step of an epoch, as far as its buckets were measured."""
    batches = sum(row["batches"] for row in rows)

    def mean(values: Iterable[float]) -> float:
        return sum(v * row["batches"] for v, row in zip(values, rows)) / batches

    weighed: dict = {"name": "their mean", "batches": batches}
    weighed["step_ms"] = mean(row["step_ms"] for row in rows)
    for kind in ("busy_ms", "elapsed_ms"):
        if all(kind in row for row in rows):
            names = {name for row in rows for name in row[kind]}
            weighed[kind] = {n: mean(row[kind].get(n, 0.0) for row in rows) for n in names}
    for kind in ("temporary_mib", "arguments_mib"):
        weighed[kind] = max((row.get(kind) or 0.0 for row in rows), default=0.0)
    return weighed


def _verdict(results: dict) -> str:
    """Whether the share is as small as it should be, by both ways of counting."""
    rows = [row for row in results["step"].get(RECIPE, []) if row.get("busy_ms")]
    if not rows:
        return "What the joint and the loss take is not known: nothing was profiled."
    mean = _weighed(rows)
    shares = {
        what: value
        for what, kind in (("of the kernels' time", "busy_ms"), ("with gaps", "elapsed_ms"))
        if (value := share(mean, kind)) is not None
    }
    if not shares:
        return "What the joint and the loss take is not known: no kernel could be mapped."
    most = max(shares.values()) + (share(mean, "busy_ms", UNMAPPED) or 0.0)
    return (
        "The joint, the loss and their gradients take "
        f"{', '.join(f'{value:.1%} {what}' for what, value in shares.items())}; target at most "
        f"{MOST_SHARE:.0%}, what is not mapped included: "
        f"{'met' if most <= MOST_SHARE else 'missed'}."
    )


def training(results: dict) -> str:
    """Rates on one device and on all, waiting, compilations."""
    columns = (
        *("devices", "frames a batch", "steps/s", "median", "over one", "utterances/s", "over one"),
        *("waiting for the loader", "steps", "programs compiled", "the last after, s"),
        *("first report, s", "last report, s"),
    )
    lines = [
        (
            *(row["devices"], row["frames_per_batch"]),
            row.get("error") or number(row.get("steps_a_second")),
            *(number(row.get(f"{key}steps_a_second{end}")) for key, end in _MORE_RATES),
            number(row.get("utterances_a_second")),
            number(row.get("utterances_a_second_over_one")),
            _percent(row.get("waiting")),
            *(row.get("steps", ""), row.get("compiled", "")),
            number(row.get("compiled_after_s")),
            *(number(row.get(f"{which}_report_s")) for which in ("first", "last")),
        )
        for row in results["training"]
    ]
    workers = results["settings"]["loader_workers"]
    notes = (
        "Rates are of all steps after the first report, evaluations not counted; the loader's "
        f"{workers} processes for each device decode FLAC and resample. Seconds are of the run, "
        "from its start on."
    )
    return "\n\n".join(["\n## Trainings", grid(columns, lines), notes])


_MORE_RATES = ("median_", ""), ("", "_over_one")


def features(results: dict) -> str:
    """On the device, or by the loader's processes."""
    columns = (
        *(
            "N, seconds, labels",
            "in the step, ms",
            "NumPy, CPU ms",
            "JAX, CPU ms",
            "loading, CPU ms",
        ),
        *("cores that NumPy would keep busy", "audio, MiB", "to the device, ms"),
        *("features, MiB", "to the device, ms"),
    )
    steps = results["step"].get(RECIPE) or [{}] * len(results["features"])
    rates = [row.get("steps_a_second") for row in results["training"][:1]]
    lines = []
    for row, in_step in zip(results["features"], steps):
        step_ms = 1e3 / rates[0] if rates and rates[0] else in_step.get("step_ms")
        cpu_ms = row.get("numpy_cpu_ms")
        lines.append(
            (
                _shape(row, results),
                number((in_step.get("busy_ms") or {}).get("features")),
                row.get("error") or number(cpu_ms),
                *(number(row.get(f"{kind}_cpu_ms")) for kind in ("jax", "load")),
                number(cpu_ms / step_ms if cpu_ms and step_ms else None),
                *(number(in_step.get(key)) for key in ("audio_mib", "audio_ms")),
                *(number(in_step.get(key)) for key in ("features_mib", "features_ms")),
            )
        )
    notes = (
        f"CPU times are of a batch, on {results.get('cpu', 'a CPU')}; loading is decoding and "
        "resampling. Features in the step have SpecAugment with them. Both are float32."
    )
    return "\n\n".join(["\n## Features", grid(columns, lines), notes])


def heading(results: dict) -> str:
    """What is measured on what."""
    settings = results["settings"]
    model = (
        f"width {settings['width']}, {settings['layers']} layers, joint {settings['joint_width']}, "
        f"V = {settings['vocabulary']}, {settings['dtype']}"
    )
    return (
        f"# {results.get('device', 'no device')}, {settings['dtype']}\n"
        f"- {versions(results.get('versions', {}))}\n"
        f"- {model}; {results['utterances_left_out']:.1%} of the utterances are too long"
    )


def _shape(row: dict, results: dict) -> str:
    seconds = row["samples"] / results["settings"]["sample_rate"]
    return f"{row['rows']}, {number(seconds)}, {row['labels']}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


PARTS = {"step": step, "training": training, "features": features}
