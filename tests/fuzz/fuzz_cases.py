"""Calls of the public functions, drawn: what tools/fuzz.py and test_fuzz.py pass to them.

A case is a legal call, spoilt or not. Its signature (function, shapes, dtype, static options) is
one of a pool, so that the functions compiled for one case answer thousands. Whoever draws is a
Source: a random generator, or hypothesis, which can shrink what it drew.
"""

from collections.abc import Sequence

from fuzz_illegal import draw_dtype, draw_option, draw_range, draw_shape
from fuzz_legal import draw_containers, draw_values
from fuzz_signatures import Signature, Source
from fuzz_values import Case

KINDS = (
    ["values"] * 9 + ["containers"] * 3 + ["range"] * 2 + ["dtype"] * 2 + ["shape", "option"] * 2
)


def draw_case(
    source: Source, signatures: Sequence[Signature], kinds: Sequence[str] = tuple(KINDS)
) -> Case:
    signature = source.choice(signatures)
    draw = {
        "values": draw_values,
        "containers": draw_containers,
        "range": draw_range,
        "dtype": draw_dtype,
        "shape": draw_shape,
        "option": draw_option,
    }
    kind = source.choice(kinds)
    eager = [s for s in signatures if not s.jitted]
    if kind == "containers" and eager:
        signature = source.choice(eager)
    return draw[kind](source, signature)
