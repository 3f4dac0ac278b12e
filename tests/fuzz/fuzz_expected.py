"""What is expected of the calls of fuzz_cases, in float64."""

import math

import numpy as np
import oracle
from fuzz_functions import ARCS, arcs_cost, lattice_align
from fuzz_joints import Joint, kind_of
from fuzz_lattices import Picks, Weights, align, best, of_rows
from fuzz_places import SHARED, Answer, Place, sequences
from fuzz_values import Case


@np.errstate(all="ignore")
def expected(case: Case, values: dict[str, np.ndarray]) -> Answer:
    """The answer to the case's call, of these values."""
    signature = case.signature
    call = signature.function.call
    if signature.function.is_pick:
        return _expected_pick(case, values)
    floats = {name: np.asarray(values[name], np.float64) for name in signature.function.rows}
    joint = Joint(case, values) if signature.function.is_joint else None
    options = dict(signature.options)
    emission = float(case.options.get("fastemit_lambda", 0.0))
    batch = signature.sequences
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
                kind_of(signature),
                place.take(floats[rows], 1),
                place.labels,
                options["blank"] % signature.V,
                Picks(*biases, np.zeros(len(signature.durations))),
                emission if math.isfinite(emission) else 0.0,
            )
            by_name = {
                rows: by_rows if joint is None else joint.clamp(by_rows),
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
            # Of the first of its hypotheses, say.
            encoder = n[: len(signature.batch)]
            owners["encoder"][(*encoder, slice(place.frames))] = index - index % max(signature.K, 1)
            owners["predictor"][(*n, slice(place.columns))] = index
    if joint:
        gradients |= joint.gradients(gradients.pop("logits"), places)
    scale = float(np.abs(weights).max(initial=0)) * (1 + abs(emission))
    return Answer(costs, gradients, spread, blind, at_least, unknown, owners, scale)


def _bias(place: Place, bias: np.ndarray | None) -> np.ndarray:
    """(frames, columns) of a bias of all cells, or of one that broadcasts."""
    if bias is None or bias.shape == (1,):
        return np.full((place.frames, place.columns), 0.0 if bias is None else bias[0])
    if bias.ndim == 2 and bias.shape[1] == 1 and not isinstance(place.rows, slice):
        return np.repeat(bias[: place.frames], place.columns, 1)
    return place.take(bias, 0)


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
