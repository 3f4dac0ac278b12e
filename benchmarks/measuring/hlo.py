"""What a compiled function launches, read from its optimised HLO."""

import collections
import re

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"to_apply=%?([\w.\-]+)")


def thunks(text: str) -> dict[str, int]:
    """How often the entry computation has each operation that is a launch or a loop.

    Called computations (command buffers) are counted in place of their call, a loop once.
    """
    computations: dict[str, list[tuple[str, str]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            name = header[2]
            entry = name if header[1] else entry
            computations[name] = []
        elif name and " = " in line:
            computations[name].append((_operation(line), line))
    return dict(_count(entry, computations))


def _count(name: str, computations: dict) -> collections.Counter:
    counts: collections.Counter = collections.Counter()
    for operation, line in computations.get(name, ()):
        called = _CALLED.search(line)
        if operation == "call" and called:
            counts += _count(called[1], computations)
        elif operation not in _FREE:
            counts[operation] += 1
    return counts


def _operation(line: str) -> str:
    """The operation of `%name = type operation(operands), ...`, where types may be tuples."""
    right = line.split(" = ", 1)[1]
    depth = 0
    for end, character in enumerate(right):
        depth += (character in "([{") - (character in ")]}")
        if character == " " and depth == 0:
            return right[end + 1 :].split("(", 1)[0]
    return ""
