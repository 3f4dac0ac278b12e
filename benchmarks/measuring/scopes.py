"""Which part of a program a profile's events are of: named scopes, found in the compiled program.

An event says which instruction ran, and the optimised HLO says in which `jax.named_scope` that
was made. Gradients carry the scope of what they are the gradients of.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.measuring import traces
from benchmarks.measuring.hlo import COMPUTATION

OTHER = "other"  # of an instruction of no scope
UNMAPPED = "not mapped"  # of an event that no instruction of the program is known for
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations|"
    r"true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)


class Times(NamedTuple):
    """Milliseconds by scope."""

    busy: dict[str, float]  # of what ran
    # The same with the time since whatever ended before; None on a CPU, whose events overlap.
    elapsed: dict[str, float] | None


class _Instruction(NamedTuple):
    scope: str | None
    calls: tuple[str, ...]


def of_name(op_name: str, scopes: Sequence[str]) -> str | None:
    """The outermost of the scopes in `jit(f)/transpose(jvp(scope))/while/body/dot_general`."""
    names = "|".join(map(re.escape, scopes))
    found = re.search(rf"(?:^|[/(])({names})(?=[/)]|$)", op_name)
    return found[1] if found else None


def of_program(text: str, scopes: Sequence[str]) -> dict[str, str]:
    """The scope of each instruction of an optimised HLO.

    It is the one in the instruction's own metadata; else that of most instructions which it calls,
    those of a fusion, say; else that of who calls the computation that it is in, a loop, say.
    """
    computations = _read(text, scopes)
    callers = {
        called: (name, instruction)
        for name, instructions in computations.items()
        for instruction in instructions.values()
        for called in instruction.calls
    }

    def inside(instruction: _Instruction) -> collections.Counter:
        counts: collections.Counter = collections.Counter()
        for called in instruction.calls:
            for each in computations.get(called, {}).values():
                counts += collections.Counter([each.scope]) if each.scope else inside(each)
        return counts

    def scope_of(computation: str, instruction: _Instruction) -> str:
        if instruction.scope:
            return instruction.scope
        if counts := inside(instruction):
            return counts.most_common(1)[0][0]
        return scope_of(*callers[computation]) if computation in callers else OTHER

    return {
        name: scope_of(computation, instruction)
        for computation, instructions in computations.items()
        for name, instruction in instructions.items()
    }


def milliseconds(
    events: Iterable[dict], program: Mapping[str, str], scopes: Sequence[str]
) -> Times:
    """The times of a profile, by the scopes of `of_program`."""
    events = list(events)
    by_kernel = {_as_kernel(name): scope for name, scope in program.items()}

    def scope_of(event: dict) -> str:
        about = event.get("args", {})
        if (instruction := about.get("hlo_op")) in program:
            return program[instruction]
        # What is launched by a CUDA graph knows no instruction.
        named = (of_name(about.get(key, ""), scopes) for key in ("name", "tf_op", "long_name"))
        return next(filter(None, named), None) or by_kernel.get(_as_kernel(event["name"]), UNMAPPED)

    busy: dict[str, float] = collections.defaultdict(float)
    elapsed: dict[str, float] = collections.defaultdict(float)
    on_streams = sorted(traces.on_streams(events), key=lambda event: event["ts"])
    until = on_streams[0]["ts"] if on_streams else 0.0
    for event in on_streams:
        scope, end = scope_of(event), event["ts"] + event["dur"]
        busy[scope] += event["dur"] / 1e3
        elapsed[scope] += max(0.0, end - until) / 1e3
        until = max(until, end)
    if on_streams:
        return Times(dict(busy), dict(elapsed))
    for event, own in _own_times(e for e in events if "hlo_op" in e.get("args", {})):
        busy[scope_of(event)] += own / 1e3
    return Times(dict(busy), None)


def _read(text: str, scopes: Sequence[str]) -> dict[str, dict[str, _Instruction]]:
    """The instructions of each computation."""
    computations: dict[str, dict[str, _Instruction]] = {}
    name = ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            name = header[2]
            computations[name] = {}
        elif name and (found := _INSTRUCTION.match(line)):
            op_name = _OP_NAME.search(line)
            calls = [
                called.strip(" {}").removeprefix("%")
                for group in _CALLS.findall(line)
                for called in group.split(",")
            ]
            scope = of_name(op_name[1], scopes) if op_name else None
            computations[name][found[1]] = _Instruction(scope, tuple(calls))
    return computations


def _as_kernel(name: str) -> str:
    """What XLA calls the kernel of an instruction."""
    return re.sub(r"[.\-]", "_", name)


def _own_times(events: Iterable[dict]) -> Iterable[tuple[dict, float]]:
    """A CPU's events, each with its microseconds less those of events that lie within it."""
    open_events: dict[object, list[list]] = collections.defaultdict(list)
    closed = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        stack = open_events[event["pid"], event["tid"]]
        while stack and stack[-1][0]["ts"] + stack[-1][0]["dur"] <= event["ts"]:
            stack.pop()
        if stack:
            stack[-1][1] -= event["dur"]
        entry = [event, event["dur"]]
        stack.append(entry)
        closed.append(entry)
    return [(event, own) for event, own in closed]
