"""Small cases that the public RNN-T losses test themselves with: figures and where they come from.

Logits go through log-softmax, costs are in nats, gradients are of the summed costs.
"""

from typing import NamedTuple

_A = [0.1, 0.6, 0.1, 0.1, 0.1]
_B = [0.1, 0.1, 0.6, 0.1, 0.1]
_C = [0.1, 0.1, 0.2, 0.8, 0.1]
_D = [0.1, 0.1, 0.2, 0.1, 0.1]
_E = [0.7, 0.1, 0.2, 0.1, 0.1]
_FIRST, _SECOND, _ZEROS = [_A, _B, _C], [_A, _D, _E], [[0.0] * 5] * 3


class Case(NamedTuple):
    name: str
    source: str
    logits: list
    labels: list
    frames_lengths: list
    labels_lengths: list
    blank: int
    costs: list
    log_probs_gradients: list | None = None
    logits_gradients: list | None = None


def _arcs(blank: float, label: float = 0.0, symbol: int = 1) -> list:
    """A row of gradients: the blank's, symbol 0, and the label's."""
    row = [blank, 0.0, 0.0, 0.0, 0.0]
    row[symbol] += label
    return row


_SHORT_GRADIENTS = [
    [
        _arcs(-0.308198071906, -0.691801928094, 1),
        _arcs(-0.308198071906, -0.383603856188, 2),
        _arcs(-0.383603856188),
    ],
    [_arcs(0.0, -0.308198071906, 1), _arcs(0.0, -0.616396143812, 2), _arcs(-1.0)],
]

CASES = [
    Case(
        name="short",
        source="warp-rnnt, warp-transducer, torchaudio, NeMo",
        logits=[[_FIRST, _SECOND]],
        labels=[[1, 2]],
        frames_lengths=[2],
        labels_lengths=[2],
        blank=0,
        costs=[4.495666773770733],
        log_probs_gradients=[_SHORT_GRADIENTS],
        logits_gradients=[
            [
                [
                    [-0.13116688, -0.3999269, 0.17703125, 0.17703125, 0.17703125],
                    [-0.18572757, 0.12247056, -0.18168412, 0.12247056, 0.12247056],
                    [-0.32091254, 0.06269141, 0.06928472, 0.12624499, 0.06269141],
                ],
                [
                    [0.05456069, -0.21824276, 0.05456069, 0.05456069, 0.05456069],
                    [0.12073959, 0.12073959, -0.48295835, 0.12073959, 0.12073959],
                    [-0.6925882, 0.16871116, 0.18645467, 0.16871116, 0.16871116],
                ],
            ]
        ],
    ),
    Case(
        name="short, negative blank",
        source="torchaudio",
        logits=[[_FIRST, _SECOND]],
        labels=[[1, 2]],
        frames_lengths=[2],
        labels_lengths=[2],
        blank=-1,
        costs=[5.095666773770732],
    ),
    Case(
        name="one frame, two labels",
        source="warp-rnnt",
        logits=[[_FIRST]],
        labels=[[1, 2]],
        frames_lengths=[1],
        labels_lengths=[2],
        blank=0,
        costs=[4.274244594423859],
        log_probs_gradients=[[[_arcs(0.0, -1.0, 1), _arcs(0.0, -1.0, 2), _arcs(-1.0)]]],
    ),
    Case(
        name="one frame, no label",
        source="warp-rnnt",
        logits=[[[_A]]],
        labels=[[]],
        frames_lengths=[1],
        labels_lengths=[0],
        blank=0,
        costs=[1.7314291957733714],
        log_probs_gradients=[[[_arcs(-1.0)]]],
    ),
    Case(
        name="ragged batch",
        source="warp-rnnt",
        logits=[[_FIRST, _SECOND, _ZEROS], [_FIRST, _SECOND, _FIRST]],
        labels=[[1, 2], [1, 2]],
        frames_lengths=[2, 3],
        labels_lengths=[2, 2],
        blank=0,
        costs=[4.495666773770733, 5.7367250428101615],
        log_probs_gradients=[
            [*_SHORT_GRADIENTS, _ZEROS],
            [
                [
                    _arcs(-0.45920877, -0.54079123, 1),
                    _arcs(-0.32392462, -0.21686661, 2),
                    _arcs(-0.21686661),
                ],
                [
                    _arcs(-0.13528414, -0.32392462, 1),
                    _arcs(-0.29937584, -0.3484734, 2),
                    _arcs(-0.56534001),
                ],
                [_arcs(0.0, -0.13528414, 1), _arcs(0.0, -0.43465999, 2), _arcs(-1.0)],
            ],
        ],
    ),
]
