"""The joint's forward and backward by CUDA kernels of their own, where there are some.

They take half dtypes on compute capability 9.0. Encoder and predictor go in; activations and logits
stay on the chip in the forward, and what the backward's matrix products need comes out of one
kernel. The plain walk over tiles (`joint_tiles`) computes the same anywhere.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np

from jax_rnnt._xla import ffi
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt.rows import pick
from jax_rnnt.rows.activations import name_of
from jax_rnnt.rows.joint_grid import WHOLE_TILE
from jax_rnnt.rows.joint_network import Rows, Weights
from jax_rnnt.rows.joint_tiles import Cells

_CAPABILITY = "9.0"
_DTYPES = "bfloat16", "float16"


def fits(H: int, V: int, dtype: np.dtype, activation: Callable) -> bool:
    """Whether every CUDA device of this process runs the kernels on such operands."""
    return (
        dtype.name in _DTYPES
        and name_of(activation) is not None
        and _has_hopper()
        and _packed_sizes(H, V) is not None
    )


def wave(H: int, V: int, dtype: np.dtype, activation: Callable) -> int | None:
    """How many tiles a device works on at a time, one on each multiprocessor; None if none fit."""
    if not fits(H, V, dtype, activation):
        return None
    return min(device.core_count for device in jax.local_devices(backend="cuda"))


def forward(
    weights: Weights, labels: pick.ColumnLabels, *, activation: Callable, blank: int
) -> Rows:
    """`joint_tiles.forward`."""
    encoder, predictor, kernel, bias = (x.astype(weights.dtype) for x in weights)
    packed = _pack(kernel, bias, insist=True)
    name = name_of(activation)
    operands = encoder, predictor, kernel, *packed, *labels
    return Rows(*_forward(*operands, insist=True, activation=name, blank=blank))


class FusedCells(Cells):
    """A step's cells computed by one kernel before the matrix products and one after them.

    The tiles are of WHOLE_TILE cells.
    """

    def __init__(self, grid, weights, labels, rows, cotangents, blank, *, activation):
        del grid
        encoder, predictor, kernel, bias = (x.astype(weights.dtype) for x in weights)
        self._encoder, self._predictor = encoder, predictor
        packed = _pack(kernel, bias, insist=True)
        self._operands = encoder, predictor, kernel, *packed, *labels
        self._rows = rows.maxima, rows.log_sums, *cotangents
        self._name, self._blank = name_of(activation), blank

    def gradients(self, tiles):
        operands = *self._operands, tiles, *self._rows
        options = {"activation": self._name, "blank": self._blank}
        activations, gradients, bias_parts = _gradients(*operands, insist=True, **options)
        return activations, gradients, bias_parts.sum((0, 1))

    def hidden(self, tiles, gradients):
        operands = gradients, self._encoder, self._predictor, *self._operands[5:], tiles
        options = {"activation": self._name, "symbols": self._operands[2].shape[-1]}
        encoder_parts, predictor_parts = _hidden(*operands, insist=True, **options)
        return encoder_parts, predictor_parts


@functools.cache
def _has_hopper() -> bool:
    if ffi.native_module("cuda") is None or ffi.fault("cuda") is not None:
        return False
    return {device.compute_capability for device in ffi.cuda_devices()} == {_CAPABILITY}


def _packed_sizes(H: int, V: int) -> tuple[int, int] | None:
    """Bytes of a packed kernel (H, V) and bias (V,), None for sizes that `_pack` refuses."""
    module = ffi.native_module("cuda")
    return None if module is None else module.joint_packed_sizes(H, V)


def _packed_size(index, sizes):
    packed = _packed_sizes(sizes["H"], sizes["V"])
    assert packed is not None
    return packed[index] // 4


# The packed kernel and bias are bytes in the order in which the other kernels read them.
_pack = Kernel(
    "joint_pack",
    operands=("HV", "V"),
    results=(functools.partial(_packed_size, 0), functools.partial(_packed_size, 1)),
    result_dtype="accumulator",
    kept=(0, 1),
    platforms=("cuda",),
)
_JOINT = "NTH", "NUH", "HV", "P", "Q", "NU", "N"  # with the labels by column and their counts
_TILE = "R", *WHOLE_TILE
_forward = Kernel(
    "joint_forward",
    operands=_JOINT,
    results=("NTU",) * 4,
    result_dtype="accumulator",
    platforms=("cuda",),
)
_gradients = Kernel(
    "joint_gradients",
    operands=(*_JOINT, "R", "NTU", "NTU", "NTU", "NTU"),
    results=((*_TILE, "H"), (*_TILE, "V"), "R8V"),
    result_dtype="operand",
    accumulated=(2,),
    platforms=("cuda",),
)
_hidden = Kernel(
    "joint_hidden",
    operands=("RFCH", "NTH", "NUH", "NU", "N", "R"),
    results=("RFH", "RCH"),
    result_dtype="accumulator",
    platforms=("cuda",),
)
